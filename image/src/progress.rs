//! How long work tells how far it is.

/// Hears of phases and of bytes done. Called from several threads.
pub trait Progress: Sync {
    /// A phase begins; `total` is its work in bytes, 0 where it is not known.
    fn begin(&self, phase: &'static str, total: u64);

    /// `bytes` more of the current phase are done.
    fn advance(&self, bytes: u64);
}

/// Nobody listens.
impl Progress for () {
    fn begin(&self, _phase: &'static str, _total: u64) {}

    fn advance(&self, _bytes: u64) {}
}
