//! A seed's index, which may still be arriving, and what the scheduler needs of it.

mod arriving;
mod buffer;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use seed_format::Digest;
use seed_format::index::{FileTree, Index, IndexError};
use seed_image::seed::{Seed, SeedError};

pub use arriving::Arriving;

use crate::fetch::{ChunkId, ChunkMap, ChunkPlace};

/// The whole index of a seed.
pub type WholeIndex = Index<Arriving>;

/// The index of a seed, in memory, where nobody else can change it: 20 MB for 97,000 files. Names and
/// attributes can be asked for while it arrives, and wait for the parts that they need.
#[derive(Debug)]
pub struct SeedIndex {
    layer: Digest,
    /// Digest and size of each layer of the manifest.
    layers: HashMap<Digest, u64>,
    tree: FileTree<Arriving>,
    whole: OnceLock<Result<WholeIndex, IndexFault>>,
}

/// Why the index of a seed cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexFault {
    /// It could not be read to its end.
    #[error("the index cannot be read")]
    Seed(#[source] Arc<SeedError>),
    /// It has not come in time.
    #[error("the index did not come within {} s", .0.as_secs())]
    Late(Duration),
    /// It is malformed.
    #[error("the index in layer {layer} is malformed")]
    Malformed {
        /// The layer.
        layer: Digest,
        /// What is wrong with it.
        source: IndexError,
    },
    /// It speaks of other layers than the manifest.
    #[error("the index speaks of layer {0}, which the manifest does not have with that size")]
    ForeignLayer(Digest),
}

impl IndexFault {
    /// Whether bytes came that are not those of the seed.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Seed(error) => error.is_integrity(),
            Self::Late(_) => false,
            Self::Malformed { .. } | Self::ForeignLayer(_) => true,
        }
    }
}

impl SeedIndex {
    /// The index of `seed` in `bytes`. Waits for the first of them, which say what layers it is about: it
    /// must be those of the manifest.
    pub fn open(bytes: Arriving, seed: &Seed) -> Result<Self, IndexFault> {
        let layer = seed.index_layer.digest;
        let layers: HashMap<_, _> =
            seed.manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        let wrong = |error| fault(layer, &bytes, error);
        let tree = FileTree::open(bytes.clone()).map_err(wrong)?;
        for device in tree.devices() {
            let (digest, _) = device.map_err(wrong)?;
            if !layers.contains_key(&digest) {
                return Err(IndexFault::ForeignLayer(digest));
            }
        }
        Ok(Self { layer, layers, tree, whole: OnceLock::new() })
    }

    /// Uncompressed bytes of all layers.
    pub fn virtual_size(&self) -> Result<u64, IndexFault> {
        let mut sizes = self.tree.devices().map(|device| device.map(|(_, size)| size));
        sizes.try_fold(0u64, |sum, size| Ok(sum.saturating_add(size?))).map_err(|error| self.fault(error))
    }

    /// Its tree of files: every call waits for what it needs.
    pub fn tree(&self) -> &FileTree<Arriving> {
        &self.tree
    }

    /// All of it: waits until everything is here.
    pub fn whole(&self) -> Result<&WholeIndex, IndexFault> {
        let bytes = self.tree.bytes();
        if !bytes.is_complete() && !bytes.wait() {
            return Err(self.missing());
        }
        self.whole.get_or_init(|| self.complete()).as_ref().map_err(Clone::clone)
    }

    /// Checks what is in the tables, and that chunks are fetched from the layers of the manifest only.
    fn complete(&self) -> Result<WholeIndex, IndexFault> {
        let index = Index::complete(self.tree.clone()).map_err(|error| self.fault(error))?;
        match index.layers().iter().find(|layer| self.layers.get(&layer.digest) != Some(&layer.size)) {
            Some(foreign) => Err(IndexFault::ForeignLayer(foreign.digest)),
            None => Ok(index),
        }
    }

    /// The index as memory that another process can go on with; all of it must be here.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.tree.bytes().share()
    }

    /// All of it, if it is here.
    pub fn if_whole(&self) -> Option<&WholeIndex> {
        self.whole.get()?.as_ref().ok()
    }

    /// Why bytes of it are not here that were asked for.
    pub(crate) fn missing(&self) -> IndexFault {
        fault(self.layer, self.tree.bytes(), IndexError::Magic)
    }

    /// The reason of an error that the tree gave.
    pub fn fault(&self, error: IndexError) -> IndexFault {
        fault(self.layer, self.tree.bytes(), error)
    }
}

/// What is not here looks as if it were malformed.
fn fault(layer: Digest, bytes: &Arriving, error: IndexError) -> IndexFault {
    match bytes.failure() {
        Some(failure) => IndexFault::Seed(failure),
        None if !bytes.is_complete() => IndexFault::Late(bytes.patience()),
        None => IndexFault::Malformed { layer, source: error },
    }
}

/// The chunks of an index: none until it is here.
#[derive(Debug, Clone)]
pub(crate) struct IndexedChunks(pub(crate) Arc<SeedIndex>);

impl ChunkMap for IndexedChunks {
    fn count(&self) -> ChunkId {
        self.0.if_whole().map_or(0, WholeIndex::chunk_count)
    }

    fn chunk(&self, id: ChunkId) -> Option<ChunkPlace> {
        let record = self.0.if_whole()?.chunk(id)?;
        Some(ChunkPlace {
            layer: record.layer,
            blob_offset: record.blob_offset,
            blob_len: record.blob_len,
            len: record.len,
            digest: record.digest,
        })
    }

    fn layer(&self, layer: u16) -> Option<Digest> {
        self.0.if_whole()?.layers().get(usize::from(layer)).map(|record| record.digest)
    }

    /// The chunks of the store path; for a file outside of the store, those of its layer.
    fn surroundings(&self, id: ChunkId) -> Range<ChunkId> {
        let Some(index) = self.0.if_whole() else { return id..id };
        if let Some(path) = index.path_of_chunk(id).and_then(|number| index.path(number)) {
            return path.chunks;
        }
        let layer = index.layers().iter().find(|layer| layer.chunks.contains(&id));
        layer.map_or(id..id.saturating_add(1), |layer| layer.chunks.clone())
    }

    fn references(&self, id: ChunkId) -> Vec<Range<ChunkId>> {
        let Some(index) = self.0.if_whole() else { return Vec::new() };
        let Some(number) = index.path_of_chunk(id) else { return Vec::new() };
        let others = index.references(number).filter(|other| *other != number);
        others.filter_map(|other| index.path(other)).map(|path| path.chunks).collect()
    }

    fn describe(&self, id: ChunkId) -> String {
        let index = self.0.if_whole();
        match index.and_then(|index| index.path(index.path_of_chunk(id)?)) {
            Some(path) => format!("{}/{}", seed_format::store_path::STORE_DIR, path.base_name),
            None => "a file outside of the store".to_owned(),
        }
    }
}
