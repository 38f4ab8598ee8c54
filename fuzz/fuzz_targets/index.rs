//! A whole index: tables and tree.
#![no_main]

#[path = "../../image/format/tests/support/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    exercise::seal(&mut data);
    let _ = exercise::index(&data);
});
