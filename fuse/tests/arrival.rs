//! A seed is used while its index is still on its way.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use seed_format::Digest;
use seed_fuse::fetch;
use seed_fuse::index::IndexFault;
use seed_fuse::mount::{OpenOptions, SeedFs, open_seed};
use seed_fuse::tree::{Ino, ROOT, Tree, TreeError};
use seed_image::manifest::Descriptor;
use seed_image::reference::Location;
use seed_image::transport::{BlobContent, Transport, TransportError};
use support::{Seed, pack};

const PATH: &str = "00000000000000000000000000000000-many";
/// Enough for an index of several parts.
const FILES: usize = 8000;

/// What happens to the index's bytes behind the first part.
enum Fate {
    /// They come when something is sent, or the sender is gone.
    Held(Mutex<Receiver<()>>),
    /// They cannot be had.
    Lost,
    /// They are wrong.
    Wrong,
}

/// A layout that answers as a registry would.
struct Remote {
    layout: Arc<dyn Transport>,
    index: Digest,
    fate: Fate,
}

/// Bytes of the first part, and of what may be asked for beside it.
const FIRST: u64 = 128 << 10;

impl Remote {
    fn meets_its_fate(&self, range: &Range<u64>, bytes: &mut [u8]) -> Result<(), TransportError> {
        // The table of contents is shorter than a part.
        if range.start < FIRST || range.end - range.start < FIRST {
            return Ok(());
        }
        match &self.fate {
            Fate::Held(gate) => {
                let _ = gate.lock().unwrap().recv();
            }
            Fate::Lost => return Err(lost()),
            Fate::Wrong => bytes[0] ^= 1,
        }
        Ok(())
    }
}

fn lost() -> TransportError {
    let source = io::Error::other("the link is down");
    TransportError::File { action: "read", path: "the layer".into(), source }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}

impl Transport for Remote {
    fn location(&self) -> &Location {
        self.layout.location()
    }

    fn resolve(&self, tag: &str) -> Result<Descriptor, TransportError> {
        self.layout.resolve(tag)
    }

    fn resolve_default(&self) -> Result<Descriptor, TransportError> {
        self.layout.resolve_default()
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, TransportError> {
        self.layout.manifest(digest)
    }

    fn read_range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        let mut bytes = self.layout.read_range(blob, range.clone(), deadline)?;
        if *blob == self.index {
            self.meets_its_fate(&range, &mut bytes)?;
        }
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransportError> {
        match (&self.fate, descriptor.digest == self.index) {
            (Fate::Lost, true) => Err(lost()),
            (Fate::Wrong, true) => Err(TransportError::WrongDigest {
                place: "there".into(),
                expected: self.index,
                actual: Digest::of(b"something else"),
            }),
            _ => self.layout.blob(descriptor),
        }
    }

    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, TransportError> {
        self.layout.has_blob(descriptor)
    }

    fn put_blob(&self, descriptor: &Descriptor, content: &mut dyn BlobContent) -> Result<(), TransportError> {
        self.layout.put_blob(descriptor, content)
    }

    fn put_manifest(
        &self,
        bytes: &[u8],
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<Digest, TransportError> {
        self.layout.put_manifest(bytes, media_type, tag)
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransportError> {
        self.layout.referrers(subject)
    }
}

struct World {
    _directory: tempfile::TempDir,
    seed: Seed,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        fs::create_dir_all(store.join(PATH)).unwrap();
        for n in 0..FILES {
            fs::write(store.join(PATH).join(n.to_string()), format!("file {n}")).unwrap();
        }
        let layout: PathBuf = directory.path().join("layout");
        let seed = pack(&store, &[vec![PATH.to_owned()]], &[], &layout, 4096);
        Self { _directory: directory, seed }
    }

    fn open(&self, fate: Fate) -> Arc<SeedFs> {
        self.open_for(fate, fetch::Config::default().read_deadline)
    }

    fn open_for(&self, fate: Fate, read_deadline: Duration) -> Arc<SeedFs> {
        let layout = support::open(&self.seed.layout);
        let index = self.seed.manifest.layers.last().unwrap();
        assert!(index.size > 3 * FIRST, "an index of several parts, not of {} bytes", index.size);
        let remote = Remote { layout, index: index.digest, fate };
        let fetch = fetch::Config { fill: false, read_deadline, ..fetch::Config::default() };
        let options = OpenOptions { fetch, ..OpenOptions::default() };
        open_seed(Arc::new(remote), &self.seed.digest, &options).unwrap()
    }
}

/// The last of the files, whose inode comes late in the index.
fn last_file(tree: &Tree) -> Result<Ino, TreeError> {
    let path = tree.lookup(ROOT, PATH.as_bytes())?.unwrap();
    Ok(tree.lookup(path.ino, b"999")?.unwrap().ino)
}

#[test]
fn what_is_here_is_used_and_the_rest_waited_for() {
    let world = World::new();
    let (release, gate) = sync_channel(1);
    let fs = world.open(Fate::Held(Mutex::new(gate)));
    let tree = fs.tree(b"nix/store").unwrap();
    assert!(fs.index().if_whole().is_none(), "the index is still on its way");
    thread::scope(|scope| {
        let reader = scope.spawn(|| tree.read_wait(last_file(&tree).unwrap(), 0, 100).unwrap());
        drop(release);
        reader.join().unwrap().with(|bytes| assert_eq!(bytes, b"file 999"));
    });
    assert_eq!(fs.index().whole().unwrap().chunk_count() as usize, FILES);
}

#[test]
fn an_index_may_take_longer_than_a_read() {
    let world = World::new();
    let (release, gate) = sync_channel(1);
    let fs = world.open_for(Fate::Held(Mutex::new(gate)), Duration::from_secs(1));
    let tree = fs.tree(b"nix/store").unwrap();
    let error = fs.index().whole().unwrap_err();
    assert!(matches!(error, IndexFault::Late(_)), "{error:?}");
    drop(release);
    fs.settle();
    assert!(fs.index().if_whole().is_some(), "it was checked although nobody waited any more");
    assert!(last_file(&tree).is_ok());
}

#[test]
fn a_lost_index_is_an_error() {
    let fs = World::new().open(Fate::Lost);
    let tree = fs.tree(b"nix/store").unwrap();
    let error = last_file(&tree).and_then(|ino| tree.read_wait(ino, 0, 100)).unwrap_err();
    assert!(matches!(&error, TreeError::Index(fault) if !fault.is_integrity()), "{error:?}");
}

#[test]
fn a_wrong_index_is_never_used() {
    let fs = World::new().open(Fate::Wrong);
    let tree = fs.tree(b"nix/store").unwrap();
    let error = last_file(&tree).and_then(|ino| tree.read_wait(ino, 0, 100)).unwrap_err();
    assert!(matches!(&error, TreeError::Index(fault) if fault.is_integrity()), "{error:?}");
    assert!(matches!(fs.index().whole(), Err(IndexFault::Seed(_))));
}
