//! A seed's database of registered paths, copied out of the seed when it is mounted. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::fs;
use std::path::Path;

use seed_format::StorePath;
use seed_fuse::mount::{Request, start_detached};
use seed_image::closure::{Closure, PathInfo};
use seed_image::pack::{Options, pack};
use seed_image::reference::Reference;
use seed_image::tree::nar_hash;
use support::in_private_namespace;
use support::program::{NAME, World};

/// The world's store as `seed pack` packs it, with a database.
fn packed(world: &World) -> Reference {
    let path = StorePath::from_base_name(NAME).unwrap();
    let mut closure = Closure { real_store: world.path("store"), ..Closure::default() };
    let (nar_hash, nar_size) = nar_hash(&closure.real_store.join(NAME)).unwrap();
    let info = PathInfo { path: path.clone(), nar_hash, nar_size, references: [].into(), ca: None };
    closure.paths.insert(path, info);
    let layout = world.path("packed");
    let place = support::open(&layout);
    let packed = pack(&closure, &Options::new("x86_64-linux"), &*place, None, &()).unwrap();
    format!("oci:{}@{}", layout.display(), packed.digest).parse().unwrap()
}

#[test]
fn it_is_installed_where_there_is_none() {
    in_private_namespace(|| {
        let world = World::new();
        let reference = packed(&world);
        let database = world.path("state/db");
        let program = Path::new(env!("CARGO_BIN_EXE_seed-mount"));
        let mount = |subtree: &str| {
            let request = Request {
                database: (subtree == "nix/store").then(|| database.clone()),
                ..Request::new(&reference, &world.path("mnt"), subtree)
            };
            let ready = start_detached(program, &["--serve".as_ref()], &request, &mut |_| ()).unwrap();
            world.servers.borrow_mut().push(ready.state.pid);
        };
        mount("nix");
        let expected = fs::read(world.path("mnt/var/nix/db/db.sqlite")).unwrap();
        world.unmount("mnt");

        mount("nix/store");
        world.unmount("mnt");
        assert!(fs::read(database.join("db.sqlite")).unwrap() == expected && !expected.is_empty());

        fs::write(database.join("db.sqlite"), "of somebody else").unwrap();
        mount("nix/store");
        world.unmount("mnt");
        assert_eq!(fs::read(database.join("db.sqlite")).unwrap(), b"of somebody else");
        assert_eq!(fs::read_dir(&database).unwrap().count(), 1, "nothing else is left there");
    });
}
