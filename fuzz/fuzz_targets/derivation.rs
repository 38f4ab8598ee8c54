//! The outputs that a `.drv` file names.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = seed_image::derivation::outputs(data);
    let _ = seed_image::derivation::Derivation::parse(data);
});
