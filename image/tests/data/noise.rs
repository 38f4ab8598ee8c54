//! Bytes for tests of this crate, and of those that use it.

/// Bytes that no compression shortens: others for each seed, the same in every run.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}
