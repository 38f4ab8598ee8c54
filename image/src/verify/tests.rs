use std::fs;
use std::path::Path;

use super::*;
use crate::fixture::{closure, options, shapes, store_path, with_shell, write};
use crate::manifest::{Config, Manifest, annotation, media_type};
use crate::pack::{Packed, Role, pack};
use crate::seed;
use crate::transport::{BytesContent, Layout};

fn packed(directory: &Path) -> (Layout, Packed) {
    let closure = with_shell(shapes(&directory.join("store")));
    let layout = Layout::new(directory.join("layout"));
    let packed = pack(&closure, &options(), &layout, None, &()).unwrap();
    (layout, packed)
}

/// Puts a seed that differs from `packed` by what `change` does, and verifies it.
fn verify_changed(
    layout: &Layout,
    packed: &Packed,
    change: impl FnOnce(&mut Manifest, &mut Config),
) -> Result<Verified, VerifyError> {
    let mut manifest = packed.manifest.clone();
    let mut config = seed::open(layout, &packed.digest).unwrap().config;
    change(&mut manifest, &mut config);
    manifest.config = put(layout, media_type::CONFIG, &config.to_bytes());
    let digest = layout.put_manifest(&manifest.to_bytes(), media_type::MANIFEST, None).unwrap();
    deep(layout, &seed::open(layout, &digest)?, &())
}

fn put(layout: &Layout, media_type: &str, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
    layout.put_blob(&descriptor, &mut BytesContent(bytes)).unwrap();
    descriptor
}

#[test]
fn a_packed_seed_verifies() {
    let scratch = tempfile::tempdir().unwrap();
    let (layout, packed) = packed(scratch.path());
    let seed = seed::open(&layout, &packed.digest).unwrap();
    blobs(&layout, &seed, &()).unwrap();
    let verified = deep(&layout, &seed, &()).unwrap();
    assert_eq!((verified.layers, verified.paths), (packed.layers.len() - 1, 6));
    assert!(verify_changed(&layout, &packed, |_, _| {}).is_ok(), "the changes below are what is found");
}

#[test]
fn a_damaged_blob_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let (layout, packed) = packed(scratch.path());
    let seed = seed::open(&layout, &packed.digest).unwrap();
    for layer in seed.content_layers() {
        let file = layout.blob_path(&layer.digest).unwrap();
        let whole = fs::read(&file).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        for damaged in [&changed[..], &whole[..whole.len() - 1], &[&whole[..], b"x"].concat()] {
            fs::write(&file, damaged).unwrap();
            assert!(blobs(&layout, &seed, &()).is_err());
            assert!(deep(&layout, &seed, &()).is_err());
        }
        fs::write(&file, whole).unwrap();
    }
    assert!(deep(&layout, &seed, &()).is_ok());
}

#[test]
fn a_seed_that_contradicts_itself_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let (layout, packed) = packed(scratch.path());
    let other_store = scratch.path().join("other");
    let fill = |path: &Path| write(path, "another file\n");
    let other = closure(&other_store, &[(store_path('3', "file"), &fill)]);
    let other = pack(&other, &options(), &layout, None, &()).unwrap();
    let store = packed.layers.iter().position(|layer| layer.role == Role::Store).unwrap();

    let error = verify_changed(&layout, &packed, |_, config| config.rootfs.diff_ids.swap(0, 1)).unwrap_err();
    assert!(matches!(error, VerifyError::DiffId { .. }), "{error}");

    let error = verify_changed(&layout, &packed, |manifest, _| {
        let last = manifest.layers.len() - 1;
        manifest.layers[last] = other.manifest.layers.last().unwrap().clone();
    });
    assert!(matches!(error, Err(VerifyError::NarHash { .. } | VerifyError::Path { .. })), "{error:?}");

    let error = verify_changed(&layout, &packed, |manifest, config| {
        manifest.layers.swap(store, store + 1);
        config.rootfs.diff_ids.swap(store, store + 1);
    });
    assert!(matches!(error, Err(VerifyError::OtherIndex)), "{error:?}");

    let error = verify_changed(&layout, &packed, |manifest, config| {
        drop((manifest.layers.remove(store), config.rootfs.diff_ids.remove(store)));
    });
    assert!(matches!(error, Err(VerifyError::Path { .. })), "{error:?}");

    let error = verify_changed(&layout, &packed, |manifest, _| {
        manifest.layers[0].annotations.clear();
    });
    assert!(matches!(error, Err(VerifyError::Table { .. })), "{error:?}");

    let error = verify_changed(&layout, &packed, |manifest, _| {
        let annotations = packed.manifest.layers[1].annotations.clone();
        manifest.layers[0].annotations = annotations;
    });
    assert!(matches!(error, Err(VerifyError::Toc { .. } | VerifyError::Transport(_))), "{error:?}");
}

#[test]
fn a_layer_in_another_form_is_found() {
    // The same files, by another program: GNU tar's headers, one frame for all.
    let scratch = tempfile::tempdir().unwrap();
    let (layout, packed) = packed(scratch.path());
    let tree = scratch.path().join("tree");
    write(&tree.join("nix/store/x"), "x");
    let output = std::process::Command::new("tar")
        .args([
            "--create",
            "--blocking-factor=2",
            "--mtime=@1",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--sort=name",
            "-C",
        ])
        .arg(&tree)
        .arg("nix")
        .output()
        .unwrap();
    assert!(output.status.success());
    let blob = zstd::bulk::compress(&output.stdout, 3).unwrap();
    let layer = put(&layout, media_type::LAYER_ZSTD, &blob);
    let error = verify_changed(&layout, &packed, |manifest, config| {
        manifest.layers[0] = layer;
        config.rootfs.diff_ids[0] = Digest::of(&output.stdout);
    });
    assert!(matches!(error, Err(VerifyError::Entry { .. } | VerifyError::Table { .. })), "{error:?}");
    assert!(packed.manifest.layers.last().unwrap().annotations.contains_key(annotation::SEED_INDEX));
}
