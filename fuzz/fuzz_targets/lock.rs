//! `.seed.lock`: what is accepted means the same after it was written.
#![no_main]

use seed_policy::Lock;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(lock) = Lock::parse(data) {
        assert_eq!(Lock::parse(&lock.to_bytes()).expect("what was written can be read"), lock);
    }
});
