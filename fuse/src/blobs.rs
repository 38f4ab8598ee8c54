//! A seed as few large files, from which the kernel itself can mount its tree.
//!
//! The index begins with an EROFS image of all names, attributes and links (`docs/format.md`). The bytes of
//! files lie in virtual blobs, one for each layer, which are that image's devices. None of these files exists
//! anywhere: this gives their bytes. The image may be read while it is still on its way.

use std::ops::Range;
use std::sync::Arc;

use seed_format::bytes::Bytes;

use crate::data::Data;
use crate::fetch::{ChunkId, FetchError, Fetcher};
use crate::index::{SeedIndex, WholeIndex};
use crate::store::{Chunk, Verified};
use crate::tree::{ReadDone, TreeError, within};

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blob {
    /// The EROFS image that the index begins with.
    Image,
    /// The virtual blob of a layer, counted from 0: device `n + 1` of the image.
    Layer(u16),
}

/// The files of a seed.
#[derive(Debug, Clone)]
pub struct Blobs {
    index: Arc<SeedIndex>,
    fetcher: Arc<Fetcher>,
    /// Bytes of each layer's virtual blob.
    sizes: Arc<[u64]>,
}

/// The bytes of a read of a virtual blob, and the chunks that have them.
struct Wanted {
    bytes: Range<u64>,
    chunks: Range<ChunkId>,
}

impl Blobs {
    /// The files of this seed. Waits for the index's table of devices, which is in its first bytes.
    pub fn new(index: Arc<SeedIndex>, fetcher: Arc<Fetcher>) -> Result<Self, TreeError> {
        let sizes: Result<_, _> = index.tree().devices().map(|device| device.map(|(_, size)| size)).collect();
        let sizes = sizes.map_err(|error| index.fault(error))?;
        Ok(Self { index, fetcher, sizes })
    }

    /// Number of layers.
    pub fn layers(&self) -> u16 {
        u16::try_from(self.sizes.len()).expect("at most 1024 layers")
    }

    /// Bytes of a file; `None` if there is no such layer.
    pub fn size(&self, blob: Blob) -> Option<u64> {
        match blob {
            Blob::Image => Some(self.index.tree().image().superblock().len as u64),
            Blob::Layer(layer) => self.sizes.get(usize::from(layer)).copied(),
        }
    }

    /// Reads up to `len` bytes of a file at `offset`, fewer only where the file ends; none of a file that
    /// there is not. `done` is called before this returns if all bytes are at hand. May wait for the index
    /// first.
    pub fn read(&self, blob: Blob, offset: u64, len: u32, done: ReadDone) {
        let range = self.range(blob, offset, len);
        match blob {
            _ if range.is_empty() => done(Ok(Data::default())),
            Blob::Image => done(self.read_image(&range)),
            Blob::Layer(layer) => match self.index.whole() {
                Err(fault) => done(Err(fault.into())),
                Ok(index) => {
                    let wanted = Wanted { chunks: index.chunks_of(layer, range.clone()), bytes: range };
                    if wanted.chunks.is_empty() {
                        return done(Ok(lay(index, &wanted, Vec::new())));
                    }
                    let index = Arc::clone(&self.index);
                    let chunks = wanted.chunks.clone();
                    let finish = move |result: Result<Vec<_>, FetchError>| {
                        let lay = |chunks| Ok(lay(index.whole()?, &wanted, chunks));
                        done(result.map_err(TreeError::from).and_then(lay));
                    };
                    self.fetcher.request(chunks, Box::new(finish));
                }
            },
        }
    }

    /// Reads what is in memory, or in chunks of at most `load` bytes on disk; `None` for other reads, and
    /// for those that fail.
    pub fn read_cached(&self, blob: Blob, offset: u64, len: u32, load: u32) -> Option<Data> {
        let range = self.range(blob, offset, len);
        match blob {
            _ if range.is_empty() => Some(Data::default()),
            Blob::Image => {
                let here = self.index.tree().bytes().is_here(&in_memory(&range));
                here.then(|| self.read_image(&range).ok()).flatten()
            }
            Blob::Layer(layer) => {
                let index = self.index.if_whole()?;
                let wanted = Wanted { chunks: index.chunks_of(layer, range.clone()), bytes: range };
                let chunks = match wanted.chunks.is_empty() {
                    true => Vec::new(),
                    false => self.fetcher.get_cached(wanted.chunks.clone(), load)?,
                };
                Some(lay(index, &wanted, chunks))
            }
        }
    }

    /// The part of a file that a read is of.
    fn range(&self, blob: Blob, offset: u64, len: u32) -> Range<u64> {
        let size = self.size(blob).unwrap_or(0);
        offset.min(size)..offset.saturating_add(len.into()).min(size)
    }

    fn read_image(&self, range: &Range<u64>) -> Result<Data, TreeError> {
        let bytes = self.index.tree().bytes();
        let range = in_memory(range);
        match bytes.get_bytes(range.clone()) {
            Some(_) => Ok(Data::of_index(bytes.clone(), range)),
            None => Err(self.index.missing().into()),
        }
    }
}

/// A range of the index, all of which has room in memory.
fn in_memory(range: &Range<u64>) -> Range<usize> {
    let index = |at: u64| usize::try_from(at).expect("the index lies in memory");
    index(range.start)..index(range.end)
}

/// Lays the chunks, which are those of `wanted` in order, where they belong, and zeros between them.
fn lay(index: &WholeIndex, wanted: &Wanted, chunks: Vec<Verified<Chunk>>) -> Data {
    let mut data = Data::default();
    let mut end = wanted.bytes.start;
    let zeros = |from: u64, to: u64| usize::try_from(to.saturating_sub(from)).expect("a read lies in memory");
    for (id, chunk) in wanted.chunks.clone().zip(chunks) {
        let place = index.chunk(id).expect("it was wanted").virtual_range();
        data.push_zeros(zeros(end, place.start));
        data.push_chunk(chunk, within(&wanted.bytes, &place));
        end = place.end.min(wanted.bytes.end);
    }
    data.push_zeros(zeros(end, wanted.bytes.end));
    data
}
