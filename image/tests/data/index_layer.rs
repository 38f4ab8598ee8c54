//! The layer of an index, for tests of this crate, and of those that use it.

use seed_format::Entry;
use seed_format::layer::{Layer, LayerWriter, Options};

/// The blob of a layer whose last entry is a file `name` with these bytes, in frames of `frame` bytes.
pub(crate) fn index_layer(name: &str, index: &[u8], frame: u32) -> (Vec<u8>, Layer) {
    let mut writer = LayerWriter::new(Vec::new(), Options { level: 3, chunk_size: frame }).unwrap();
    for (at, _) in name.match_indices('/') {
        writer.entry(Entry::directory(&name[..at])).unwrap();
    }
    writer.file(Entry::regular(name, index.len() as u64, false), index).unwrap();
    writer.finish().unwrap()
}
