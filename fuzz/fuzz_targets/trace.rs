//! A trace, as it is stored and as it has been decompressed.
#![no_main]

use seed_format::index::MAX_CHUNKS;
use seed_format::trace::Trace;

fn read(bytes: &[u8]) {
    let Ok(trace) = Trace::from_bytes(bytes) else { return };
    assert!(trace.runs.iter().all(|run| run.len > 0 && run.chunks().end <= MAX_CHUNKS));
    assert!(trace.chunk_count() <= u64::from(MAX_CHUNKS));
    let again = trace.to_bytes().expect("what is read can be written");
    assert_eq!(Trace::from_bytes(&again).expect("what is written can be read"), trace);
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    read(data);
    // Few inputs are compressed by chance: what may be inside is tried as well.
    let body = [b"SEEDTRC1", data].concat();
    read(&zstd::bulk::compress(&body, 1).expect("memory can be compressed"));
});
