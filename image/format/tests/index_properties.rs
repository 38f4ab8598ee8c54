//! What holds of every index: random trees come back as they went in, and random damage is harmless.

#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use seed_format::entry::{Entry, Kind};
use seed_format::index::{FileType, Index, IndexError};
use support::{Image, assert_holds, exercise, in_store, large, layer, path_input, small, store_path};

/// Few names, so that they meet; some that sort around the dots; one that makes several blocks.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec!["a", "b", "A", "a.b", "a-b", "!", "-", ".a", ".-", "...", "\n", "\u{e9}"])
            .prop_map(|name| name.as_bytes().to_vec()),
        (any::<[u8; 2]>(), 0..254usize).prop_map(|(ends, len)| {
            let mut name = vec![b'n'; len + 2];
            (name[0], name[len + 1]) = (ends[0] | 1, ends[1] | 1);
            name
        }),
    ]
    .prop_filter("a slash parts names", |name| {
        seed_format::entry::check_path(name).is_ok() && !name.contains(&b'/')
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Directory),
        prop_oneof![Just(0), Just(4096), 1..20_000u64].prop_map(|size| Kind::Regular { size }),
        prop_oneof![1..100usize, 4000..=4095usize].prop_map(|len| Kind::Symlink { target: vec![b't'; len] }),
    ]
}

/// Entries of which no two contradict each other: a path below a file, or given twice, is left out.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let path = prop::collection::vec(name(), 1..5).prop_map(|names| names.join(&b'/'));
    prop::collection::vec((path, kind(), 0..=0o7777u16), 0..60).prop_map(|all| {
        let mut kept: Vec<Entry> = Vec::new();
        for (path, kind, mode) in all {
            let clashes = |other: &Entry| {
                let (short, long, above) = if other.path.len() < path.len() {
                    (&other.path, &path, &other.kind)
                } else {
                    (&path, &other.path, &kind)
                };
                let below =
                    long.strip_prefix(short.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'));
                short == long || (below && *above != Kind::Directory)
            };
            if !kept.iter().any(clashes) {
                kept.push(Entry { path, kind, mode });
            }
        }
        kept
    })
}

/// An image of a few store paths and of some entries outside of the store, in one to three layers.
fn image() -> impl Strategy<Value = Image> {
    (prop::collection::vec(entries(), 1..4), entries(), 1..6000u32).prop_map(
        |(trees, outside, chunk_size)| {
            let mut layers = vec![layer("outside", under(b"outside/", outside), chunk_size)];
            let mut paths = Vec::new();
            for (n, tree) in trees.into_iter().enumerate() {
                let path = store_path(&format!("path-{n}"));
                let mut entries = vec![Entry::directory(in_store(&path, b""))];
                entries.extend(under(&in_store(&path, b"/"), tree));
                layers.push(layer(&format!("layer-{n}"), entries, chunk_size));
                paths.push(path);
            }
            let references: Vec<_> = paths.iter().collect();
            let paths =
                paths.iter().enumerate().map(|(n, path)| path_input(path, &references[..n])).collect();
            Image { layers, paths }
        },
    )
}

fn under(prefix: &[u8], entries: Vec<Entry>) -> Vec<Entry> {
    entries.into_iter().map(|entry| Entry { path: [prefix, &entry.path].concat(), ..entry }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out(image in image()) {
        let bytes = image.build();
        prop_assert_eq!(&bytes, &image.build(), "building is deterministic");
        let index = Index::open(bytes.as_slice()).unwrap();
        assert_holds(&index, &image);
        index.check().unwrap();
        exercise::index(&bytes).unwrap();
        exercise::image(&bytes).unwrap();
        for (number, input) in image.paths.iter().enumerate() {
            let found = index.find_path(input.path.base_name()).unwrap();
            let root = index.resolve(&in_store(&input.path, b"")).unwrap().unwrap();
            prop_assert_eq!(index.path(found).unwrap().root, root.nid);
            prop_assert_eq!(index.references(found).count(), number);
        }
    }

    #[test]
    fn lookup_finds_what_is_listed_and_nothing_else(image in image(), others in prop::collection::vec(name(), 20)) {
        let index = Index::open(image.build()).unwrap();
        index.walk::<IndexError>(|_, inode| {
            if inode.kind != FileType::Directory {
                assert!(index.lookup(inode, b"a").is_err(), "nothing is looked up in what is no directory");
                return Ok(());
            }
            let listed: Vec<_> = index.read_dir(inode, 0).map(Result::unwrap).collect();
            for entry in &listed {
                assert_eq!(index.lookup(inode, entry.name)?, Some((entry.nid, entry.file_type)));
            }
            for name in &others {
                let is_listed = listed.iter().any(|entry| entry.name == name);
                assert_eq!(index.lookup(inode, name)?.is_some(), is_listed);
            }
            Ok(())
        }).unwrap();
    }

    #[test]
    fn truncated_is_refused(len in 0.0..1.0f64) {
        for image in [small(), large()] {
            let mut bytes = image.build();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            bytes.truncate((bytes.len() as f64 * len) as usize);
            exercise::seal(&mut bytes);
            prop_assert!(Index::open(bytes.as_slice()).is_err());
            let _ = exercise::image(&bytes);
        }
    }

    #[test]
    fn damaged_is_harmless(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        for image in [small(), large()] {
            let mut bytes = image.build();
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            exercise::seal(&mut bytes);
            let _ = exercise::index(&bytes);
            let _ = exercise::image(&bytes);
        }
    }
}
