//! A reference as a user or a file writes it: what is read prints as text that reads as the same.
#![no_main]

use seed_image::reference::Reference;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
});
