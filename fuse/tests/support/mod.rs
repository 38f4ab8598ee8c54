//! A real seed of a real directory, in an image layout.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[path = "../../../image/tests/data/index_layer.rs"]
mod index_layer;
#[path = "../../../image/tests/data/noise.rs"]
pub mod noise;
pub mod program;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seed_format::Digest;
use seed_format::entry::{Entry, LayerEntry};
use seed_format::index::{self, LayerInput, PathInput};
use seed_format::layer::{LayerWriter, Options, tree_order};
use seed_format::store_path::StorePath;
use seed_image::manifest::{Config, Descriptor, Manifest, annotation, media_type};
use seed_image::seed::{FORMAT_VERSION, INDEX_PATH, IndexPosition, label};
use seed_image::transport::{self, BytesContent, Transport, TransportOptions};

use index_layer::index_layer;

/// A layout with one seed in it.
pub struct Seed {
    pub layout: PathBuf,
    pub digest: Digest,
    pub manifest: Manifest,
}

/// Packs `store`, a directory of store paths, into the layout `to`: a layer for each group of base names.
/// `references` gives pairs of base names.
pub fn pack(
    store: &Path,
    groups: &[Vec<String>],
    references: &[(&str, &str)],
    to: &Path,
    chunk: u32,
) -> Seed {
    let layout = open(to);
    let mut layers: Vec<(Descriptor, Vec<LayerEntry>)> = Vec::new();
    for group in groups {
        layers.push(write_layer(&*layout, store, group, chunk));
    }
    let inputs: Vec<_> = layers
        .iter()
        .map(|(layer, entries)| LayerInput { digest: layer.digest, size: layer.size, entries })
        .collect();
    let mut names: Vec<_> = groups.iter().flatten().cloned().collect();
    names.sort();
    let paths: Vec<_> = names
        .iter()
        .map(|name| PathInput {
            path: StorePath::from_base_name(name).unwrap(),
            nar_hash: Digest::of(name.as_bytes()),
            nar_size: 1,
            references: references
                .iter()
                .filter(|(from, _)| from == name)
                .map(|(_, to)| StorePath::from_base_name(to).unwrap())
                .collect(),
        })
        .collect();
    let index = index::build(&inputs, &paths).unwrap();
    let (blob, layer) = index_layer(INDEX_PATH, &index, 4096);
    let place = IndexPosition::of(&layer.entries.last().unwrap().chunks).unwrap();
    let mut index_layer = Descriptor::new(media_type::LAYER_ZSTD, layer.digest, layer.size);
    index_layer.annotations = layer.annotations;
    index_layer.annotations.insert(annotation::SEED_INDEX.to_owned(), place.to_string());
    layout.put_blob(&index_layer, &mut BytesContent(&blob)).unwrap();

    let mut config = Config { architecture: "amd64".into(), os: "linux".into(), ..Config::default() };
    config.config.labels.insert(label::VERSION.into(), FORMAT_VERSION.to_string());
    config.rootfs.diff_ids = vec![Digest::of(b"a layer's tar"); layers.len() + 1];
    let config = config.to_bytes();
    let config_blob = Descriptor::new(media_type::CONFIG, Digest::of(&config), config.len() as u64);
    layout.put_blob(&config_blob, &mut BytesContent(&config)).unwrap();
    let mut all: Vec<_> = layers.into_iter().map(|(layer, _)| layer).collect();
    all.push(index_layer);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config: config_blob,
        layers: all,
        subject: None,
        annotations: BTreeMap::new(),
    };
    let digest = layout.put_manifest(&manifest.to_bytes(), media_type::MANIFEST, Some("latest")).unwrap();
    Seed { layout: to.to_owned(), digest, manifest }
}

pub fn open(layout: &Path) -> Arc<dyn Transport> {
    let location = seed_image::reference::Location::Layout(layout.to_owned());
    transport::open(&location, &TransportOptions::default()).unwrap()
}

fn write_layer(
    layout: &dyn Transport,
    store: &Path,
    group: &[String],
    chunk: u32,
) -> (Descriptor, Vec<LayerEntry>) {
    let mut entries = vec![Entry::directory("nix"), Entry::directory("nix/store")];
    for name in group {
        walk(&store.join(name), format!("nix/store/{name}").into_bytes(), &mut entries);
    }
    entries.sort_by(|a, b| tree_order(&a.path, &b.path));
    let mut writer =
        LayerWriter::new(Vec::new(), Options { chunk_size: chunk, ..Options::default() }).unwrap();
    for entry in entries {
        let source =
            entry.path.strip_prefix(b"nix/store/").map(|rest| store.join(std::ffi::OsStr::from_bytes(rest)));
        match source.filter(|_| matches!(entry.kind, seed_format::entry::Kind::Regular { .. })) {
            Some(source) => writer.file(entry, fs::File::open(source).unwrap()).unwrap(),
            None => writer.entry(entry).unwrap(),
        }
    }
    let (blob, layer) = writer.finish().unwrap();
    let descriptor = Descriptor::new(media_type::LAYER_ZSTD, layer.digest, layer.size);
    layout.put_blob(&descriptor, &mut BytesContent(&blob)).unwrap();
    (descriptor, layer.entries)
}

fn walk(source: &Path, path: Vec<u8>, entries: &mut Vec<Entry>) {
    let meta = fs::symlink_metadata(source).unwrap();
    if meta.is_symlink() {
        let target = fs::read_link(source).unwrap();
        entries.push(Entry::symlink(path, target.as_os_str().as_bytes()));
    } else if meta.is_dir() {
        for child in fs::read_dir(source).unwrap() {
            let child = child.unwrap();
            let path = [&path, b"/".as_slice(), child.file_name().as_bytes()].concat();
            walk(&child.path(), path, entries);
        }
        entries.push(Entry::directory(path));
    } else {
        entries.push(Entry::regular(path, meta.len(), meta.permissions().mode() & 0o100 != 0));
    }
}

/// Runs `test` in a mount namespace of its own, in which nothing can leak to the machine's mounts.
#[allow(unsafe_code)]
pub fn in_private_namespace(test: impl FnOnce() + Send) {
    assert!(rustix::process::geteuid().is_root(), "this test mounts, and must be run by root");
    std::thread::scope(|scope| {
        let run = move || {
            // SAFETY: the new namespace is this thread's alone; it shares no file descriptors or memory
            // that it did not share before.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "cannot make a mount namespace");
            let private =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            test();
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}
