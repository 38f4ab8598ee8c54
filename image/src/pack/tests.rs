use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use seed_format::index::Index;

use super::*;
use crate::fixture::{options, shapes, store_path, with_shell};
use crate::seed;
use crate::transport::Layout;

#[test]
fn a_packed_seed_opens_and_its_index_is_sound() {
    let scratch = tempfile::tempdir().unwrap();
    let closure = with_shell(shapes(&scratch.path().join("store")));
    let layout = Layout::new(scratch.path().join("layout"));
    let packed = pack(&closure, &options(), &layout, Some("test"), &()).unwrap();

    assert_eq!(layout.resolve("test").unwrap().digest, packed.digest);
    let seed = seed::open(&layout, &packed.digest).unwrap();
    assert_eq!(seed.manifest, packed.manifest);
    assert_eq!(seed.label(seed::label::SYSTEM), Some("x86_64-linux"));
    assert_eq!(seed.config.config.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
    let bytes = seed.index_bytes(&layout).unwrap();
    assert_eq!(bytes.len() as u64, packed.index_size);
    let index = Index::open(bytes).unwrap();
    assert_eq!(index.layers().len(), seed.content_layers().len());
    assert_eq!(index.paths().len(), closure.paths.len());
    for path in ["bin/sh", "tmp", "nix/var/nix/db/db.sqlite", "nix/var/nix/db/schema"] {
        assert!(index.resolve(path.as_bytes()).unwrap().is_some(), "{path}");
    }
    drop(layout);
    assert_eq!(fs::read_dir(scratch.path().join("layout")).unwrap().count(), 3, "nothing is left over");
}

/// Copies a store as another machine would have it: names made in another order, other owner, times and
/// permission bits that Nix does not look at.
fn copy_backwards(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let mut names: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names.iter().rev() {
        let (source, target) = (from.join(name), to.join(name));
        let kind = fs::symlink_metadata(&source).unwrap();
        if kind.is_dir() {
            copy_backwards(&source, &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source).unwrap(), &target).unwrap();
        } else {
            fs::write(&target, fs::read(&source).unwrap()).unwrap();
            let executable = kind.permissions().mode() & 0o100;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o604 | executable)).unwrap();
        }
        std::os::unix::fs::lchown(&target, Some(65534), Some(65534)).unwrap();
    }
}

/// The child of [`other_machines_make_the_same_seed`]: packs the shapes in the store that the variable
/// names, and prints the digest. Without the variable it packs shapes of its own, like any test.
#[test]
fn pack_shapes_and_print_the_digest() {
    let scratch = tempfile::tempdir().unwrap();
    let store = std::env::var_os("SEED_TEST_STORE").map_or(scratch.path().join("store"), PathBuf::from);
    let closure = with_shell(shapes(&store));
    let layout = Layout::new(scratch.path().join("layout"));
    let packed = pack(&closure, &options(), &layout, None, &()).unwrap();
    println!("seed: {}", packed.digest);
    assert_eq!(
        packed.digest.hex(),
        GOLDEN,
        "the same closure makes another seed: the format or a library changed"
    );
}

/// What the manifest of the shapes hashes to.
const GOLDEN: &str = "4c8989079bc9e8c7335ba48aa64d59e5e20c6be435e66eac089f81870754985e";

#[test]
fn other_machines_make_the_same_seed() {
    let scratch = tempfile::tempdir().unwrap();
    let store = scratch.path().join("store");
    shapes(&store);
    // Two file systems, two orders, two owners.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(memory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copied = memory.path().join("store");
    copy_backwards(&store, &copied);
    for (store, umask, user, locale, zone) in
        [(&store, "022", "0", "C", "UTC"), (&copied, "077", "65534", "tr_TR.UTF-8", "Asia/Kathmandu")]
    {
        let output = std::process::Command::new("sh")
            .args(["-c", "umask $0; exec setpriv --reuid $1 --clear-groups \"$2\" --exact --nocapture $3"])
            .args([umask, user])
            .arg(std::env::current_exe().unwrap())
            .arg("pack::tests::pack_shapes_and_print_the_digest")
            .env("SEED_TEST_STORE", store)
            .env("LC_ALL", locale)
            .env("TZ", zone)
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(&format!("seed: sha256:{GOLDEN}")), "{umask} {user}: {text}");
    }
}

#[test]
fn what_did_not_change_is_not_made_again() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::new(scratch.path().join("layout"));
    let store = scratch.path().join("store");
    let options = Options { records: Some(scratch.path().join("records")), ..options() };
    let before = pack(&with_shell(shapes(&store)), &options, &layout, None, &()).unwrap();
    assert!(before.layers.iter().all(|layer| !layer.reused));
    let again = pack(&with_shell(shapes(&store)), &options, &layout, None, &()).unwrap();
    assert_eq!(again.digest, before.digest);
    assert!(again.layers.iter().all(|layer| layer.reused || layer.role == Role::Index));

    let changed = store_path('3', "file");
    fs::write(store.join(changed.base_name()), "changed\n").unwrap();
    let closure = with_shell(shapes(&store));
    let after = pack(&closure, &options, &layout, None, &()).unwrap();
    let made: Vec<_> = after.layers.iter().filter(|layer| !layer.reused).collect();
    let roles: Vec<Role> = made.iter().map(|layer| layer.role).collect();
    assert_eq!(roles, [Role::Database, Role::Store, Role::Index]);
    assert!(made[1].paths.contains(&changed));
    let fresh = Layout::new(scratch.path().join("fresh"));
    let afresh = pack(&closure, &Options { records: None, ..options.clone() }, &fresh, None, &()).unwrap();
    assert_eq!(afresh.digest, after.digest, "what was reused is what would have been made");

    // A record of a blob that is not there is worth nothing.
    let lost = after.layers.iter().find(|layer| layer.role == Role::Store && layer.reused).unwrap();
    fs::remove_file(layout.blob_path(&lost.descriptor.digest).unwrap()).unwrap();
    let restored = pack(&closure, &options, &layout, None, &()).unwrap();
    assert_eq!(restored.digest, after.digest);
    let seed = seed::open(&layout, &restored.digest).unwrap();
    crate::verify::deep(&layout, &seed, &()).unwrap();
}

#[test]
fn a_path_that_was_changed_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let store = scratch.path().join("store");
    let closure = shapes(&store);
    let changed = store_path('3', "file");
    fs::write(store.join(changed.base_name()), "A file\n").unwrap();
    let layout = Layout::new(scratch.path().join("layout"));
    match pack(&closure, &options(), &layout, Some("v1"), &()) {
        Err(PackError::NarHash { path, expected, .. }) => {
            assert_eq!((&path, expected), (&changed, closure.paths[&changed].nar_hash));
        }
        other => panic!("{other:?}"),
    }
    assert!(layout.resolve("v1").is_err(), "nothing was published");
}

#[test]
fn layers_are_limited() {
    let scratch = tempfile::tempdir().unwrap();
    let closure = shapes(&scratch.path().join("store"));
    let layout = Layout::new(scratch.path().join("layout"));
    let mut options = options();
    options.limits.layers = 4;
    let packed = pack(&closure, &options, &layout, None, &()).unwrap();
    assert_eq!(packed.layers.len(), 4);
    options.limits.layers = 3;
    assert!(matches!(pack(&closure, &options, &layout, None, &()), Err(PackError::Layers(3))));
}

#[test]
fn large_files_and_large_directories_fit() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let sparse = |path: &Path| fs::File::create(path).unwrap().set_len(3 << 30).unwrap();
    let crowd = |path: &Path| {
        fs::create_dir(path).unwrap();
        (0..60_000).for_each(|n| std::os::unix::fs::symlink("x", path.join(n.to_string())).unwrap());
    };
    let paths =
        [(store_path('0', "sparse"), &sparse as crate::fixture::Fill), (store_path('1', "crowd"), &crowd)];
    let closure = crate::fixture::closure(&scratch.path().join("store"), &paths);
    let layout = Layout::new(scratch.path().join("layout"));
    let packed = pack(&closure, &options(), &layout, None, &()).unwrap();
    assert!(packed.size() < 20 << 20, "zeros and equal headers are small: {}", packed.size());
    let index =
        Index::open(seed::open(&layout, &packed.digest).unwrap().index_bytes(&layout).unwrap()).unwrap();
    let file = index.resolve(format!("nix/store/{}", store_path('0', "sparse").base_name()).as_bytes());
    assert_eq!(file.unwrap().unwrap().size, 3 << 30);
    assert_eq!(index.check().unwrap().symlinks, 60_000);
}
