//! A `flake.lock`: whatever is accepted has only inputs that are fixed.
#![no_main]

use seed_image::capture::Lock;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(lock) = Lock::parse(data) {
        for input in lock.inputs().values() {
            assert!(input.nar_hash.is_some() || input.kind == "path");
        }
    }
});
