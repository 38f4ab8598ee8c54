//! Nix's database, as verification reads it: SQLite's pages are the input.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = seed_image::verify::check_database(data, &[]);
});
