use std::fs;

use seed_format::index::Index;

use super::*;
use crate::fixture::{options, shapes, with_shell};
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
    assert!(fs::read_dir(scratch.path().join("layout")).unwrap().count() == 3, "nothing is left over");
}
