//! Which store path goes into which layer.
//!
//! The assignment is a pure function of the paths and their sizes, and a *stable* one: when one path
//! changes, few layers change, so that few are made, pushed and fetched again. A large path has a layer of
//! its own. Small ones share layers, chosen by a hash of their *name*, because a rebuilt path keeps its name
//! and changes its hash part: it stays where it was.
//!
//! The shared layers are the leaves of a binary trie over the hashes' bits. A node whose paths are together
//! larger than [`Limits::target_size`] is split, so a change of one path can only split or merge the leaf
//! that it is in.

use crate::{Digest, StorePath};

/// How many layers there may be, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most layers; not 0.
    pub layers: usize,
    /// A path of this size has its own layer, and layers of more paths are smaller, in bytes of NAR; not 0.
    /// It is doubled until the layers are few enough.
    pub target_size: u64,
}

impl Default for Limits {
    /// A manifest of 64 layers has 40 kB: a server sends it on a new connection in two round trips, and a
    /// mount waits for it. It also leaves room for the other layers of an image under the 127 that overlay
    /// file systems are commonly limited to. 8 MiB are made anew in well under a second.
    fn default() -> Self {
        Self { layers: 64, target_size: 8 << 20 }
    }
}

/// Assigns each of `paths`, given with its size, to one layer.
///
/// A layer is a list of indices into `paths`, ascending by store path. No layer is empty. The order of the
/// layers depends on what is in them, not on the order of `paths`.
pub fn assign(paths: &[(StorePath, u64)], limits: &Limits) -> Vec<Vec<usize>> {
    let mut keyed: Vec<Keyed> =
        paths.iter().enumerate().map(|(index, (path, size))| Keyed::new(index, path, *size)).collect();
    keyed.sort_by(|a, b| (a.key, a.path).cmp(&(b.key, b.path)));
    let mut target_size = limits.target_size.max(1);
    loop {
        let layers = layers(&keyed, target_size);
        if layers.len() <= limits.layers.max(1) {
            return layers;
        }
        match target_size.checked_mul(2) {
            Some(doubled) => target_size = doubled,
            None => return vec![sorted(&keyed)],
        }
    }
}

/// A path with its place in the trie.
#[derive(Debug, Clone, Copy)]
struct Keyed<'a> {
    /// A hash of the name, then, for paths of the same name, a hash of the path.
    key: u128,
    path: &'a StorePath,
    size: u64,
    index: usize,
}

impl<'a> Keyed<'a> {
    fn new(index: usize, path: &'a StorePath, size: u64) -> Self {
        let key = u128::from(hash(path.name())) << 64 | u128::from(hash(path.base_name()));
        Self { key, path, size, index }
    }
}

/// The first eight bytes of a SHA-256: bits that no pattern in names can skew.
fn hash(text: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&Digest::of(text.as_bytes()).as_bytes()[..8]);
    u64::from_be_bytes(first)
}

fn layers(keyed: &[Keyed], target_size: u64) -> Vec<Vec<usize>> {
    let (large, small): (Vec<Keyed>, Vec<Keyed>) = keyed.iter().partition(|path| path.size >= target_size);
    let mut layers: Vec<Vec<usize>> = large.iter().map(|path| vec![path.index]).collect();
    split(&small, 0, target_size, &mut layers);
    layers
}

/// Appends the leaves below the node that holds `paths`, which agree in the first `depth` bits.
fn split(paths: &[Keyed], depth: u32, target_size: u64, layers: &mut Vec<Vec<usize>>) {
    let total = paths.iter().fold(0, |total: u64, path| total.saturating_add(path.size));
    if paths.is_empty() {
        return;
    }
    if total < target_size || depth == u128::BITS || paths.len() == 1 {
        layers.push(sorted(paths));
        return;
    }
    let bit = 1 << (u128::BITS - 1 - depth);
    let middle = paths.partition_point(|path| path.key & bit == 0);
    split(&paths[..middle], depth + 1, target_size, layers);
    split(&paths[middle..], depth + 1, target_size, layers);
}

/// The indices of `paths`, ascending by store path.
fn sorted(paths: &[Keyed]) -> Vec<usize> {
    let mut paths: Vec<&Keyed> = paths.iter().collect();
    paths.sort_by_key(|path| path.path);
    paths.iter().map(|path| path.index).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn path(seed: u64, name: &str) -> StorePath {
        let digest = Digest::of(format!("{seed} {name}").as_bytes());
        let hash = crate::store_path::encode_base32(&digest.as_bytes()[..20]);
        StorePath::from_base_name(&format!("{hash}-{name}")).unwrap()
    }

    /// A closure like that of a compiler: a few large paths, many small ones, some of the same name.
    fn closure(count: u64) -> Vec<(StorePath, u64)> {
        (0..count)
            .map(|n| {
                let size = if n % 50 == 0 { 40 * MIB + n } else { (n * 7919) % (3 * MIB) };
                let name = if n % 10 == 1 { "source".to_owned() } else { format!("package-{n}") };
                (path(n, &name), size)
            })
            .collect()
    }

    /// The layers as sets of paths, which is what a layer's bytes depend on.
    fn sets(paths: &[(StorePath, u64)], limits: &Limits) -> BTreeSet<Vec<StorePath>> {
        let named = |layer: Vec<usize>| layer.into_iter().map(|index| paths[index].0.clone()).collect();
        assign(paths, limits).into_iter().map(named).collect()
    }

    #[test]
    fn no_paths_no_layers() {
        assert_eq!(assign(&[], &Limits::default()), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn large_paths_are_alone_and_the_others_share() {
        let paths = closure(1000);
        let limits = Limits { layers: 10_000, target_size: 8 * MIB };
        for layer in assign(&paths, &limits) {
            let total: u64 = layer.iter().map(|index| paths[*index].1).sum();
            assert!(layer.len() == 1 || total < 8 * MIB, "{total}");
        }
    }

    #[test]
    fn a_rebuilt_path_changes_its_own_layer_alone() {
        let limits = Limits::default();
        let paths = closure(1500);
        let before = sets(&paths, &limits);
        assert!(before.len() > 30, "{}", before.len());
        for changed in [2, 50, 777, 1499] {
            let mut after = paths.clone();
            let name = after[changed].0.name().to_owned();
            after[changed].0 = path(1_000_000, &name);
            let after = sets(&after, &limits);
            assert_eq!(after.difference(&before).count(), 1, "path {changed}");
        }
    }

    #[test]
    fn one_more_path_changes_few_layers() {
        let limits = Limits::default();
        let paths = closure(1500);
        let before = sets(&paths, &limits);
        for n in 0..20 {
            let mut after = paths.clone();
            after.push((path(n, &format!("added-{n}")), 300_000));
            let remade = sets(&after, &limits).difference(&before).count();
            assert!(remade <= 3, "path {n}: {remade} layers");
        }
    }

    #[test]
    fn golden() {
        let paths = closure(60);
        let text: String = assign(&paths, &Limits { layers: 12, target_size: MIB })
            .iter()
            .map(|layer| format!("{layer:?}\n"))
            .collect();
        assert_eq!(
            Digest::of(text.as_bytes()).hex(),
            "89c0ce467e35a90f0cb6f38ca2f4631ba8c032782a0ccc9ed80a6dfe89d27ce4",
            "the assignment changed: every seed changes\n{text}"
        );
    }

    proptest! {
        #[test]
        fn every_path_is_in_one_layer(
            sizes in proptest::collection::vec(0u64..20 * MIB, 0..200),
            layers in 1usize..40,
            rotation in 0usize..200,
        ) {
            let mut paths: Vec<_> =
                sizes.iter().enumerate().map(|(n, size)| (path(n as u64, "same"), *size)).collect();
            let limits = Limits { layers, target_size: MIB };
            let assigned = assign(&paths, &limits);
            prop_assert!(assigned.len() <= layers);
            prop_assert!(assigned.iter().all(|layer| !layer.is_empty()));
            let mut all: Vec<usize> = assigned.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..paths.len()).collect::<Vec<_>>());

            let before = sets(&paths, &limits);
            let len = paths.len().max(1);
            paths.rotate_left(rotation % len);
            prop_assert_eq!(sets(&paths, &limits), before);
        }
    }
}
