//! A `.drv` file: its outputs, inputs and sources.
#![no_main]

use seed_image::derivation::Derivation;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(derivation) = Derivation::parse(data) {
        let _ = derivation.is_fixed();
    }
});
