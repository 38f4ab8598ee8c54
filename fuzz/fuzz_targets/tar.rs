//! A tar archive: members and their contents.
#![no_main]

use std::io;

use seed_format::tar::{BLOCK, Limits, MemberKind, Reader};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    // Every block that claims to be a header gets a right checksum, or nothing behind it is ever reached.
    for block in data.chunks_exact_mut(BLOCK).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().copied().map(u32::from).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let limits = Limits { path_len: 4096, extended_len: 1 << 16, members: 1000 };
    let mut reader = Reader::new(data.as_slice(), limits);
    while let Ok(Some(member)) = reader.next_member() {
        assert!(member.path.len() <= limits.path_len && member.mode <= 0o7777);
        let Ok(read) = io::copy(&mut reader, &mut io::sink()) else { return };
        let size = if let MemberKind::Regular { size } = member.kind { size } else { 0 };
        assert_eq!(read, size);
    }
});
