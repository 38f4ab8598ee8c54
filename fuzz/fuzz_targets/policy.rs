//! A policy file, and the spelling of sources.
#![no_main]

use seed_policy::{Policy, SourceUri};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Policy::parse(text);
    if let Ok(source) = SourceUri::normalise(text) {
        assert_eq!(source.as_str().parse(), Ok(source), "the normalised spelling is one");
    }
});
