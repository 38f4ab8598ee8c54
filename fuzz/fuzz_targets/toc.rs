//! A table of contents: JSON, footer and positions.
#![no_main]

use seed_format::Kind;
use seed_format::toc::{FOOTER_LEN, Footer, Position, Toc};

const BLOB_LEN: u64 = 1 << 40;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(Ok(footer)) = data.last_chunk::<FOOTER_LEN>().map(Footer::from_bytes) {
        assert_eq!(footer.to_bytes(), data[data.len() - FOOTER_LEN..]);
    }
    if let Some(Ok(position)) = std::str::from_utf8(data).ok().map(str::parse::<Position>) {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
    let Ok(toc) = Toc::parse(data) else { return };
    let Ok(entries) = toc.layer_entries(BLOB_LEN) else { return };
    for entry in entries {
        entry.entry.check().unwrap();
        let mut offset = 0;
        for chunk in &entry.chunks {
            assert!(chunk.offset_in_file == offset && chunk.len > 0);
            assert!(chunk.blob_offset + u64::from(chunk.blob_len) <= BLOB_LEN);
            offset += u64::from(chunk.len);
        }
        let size = if let Kind::Regular { size } = entry.entry.kind { size } else { 0 };
        assert_eq!(offset, size);
    }
});
