//! A core statement: what is accepted is written in the same bytes again.
#![no_main]

use seed_policy::CoreStatement;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = CoreStatement::is_claimed_by(data);
    if let Ok(statement) = CoreStatement::parse(data) {
        assert_eq!(statement.to_bytes().expect("what was read can be written"), data);
    }
});
