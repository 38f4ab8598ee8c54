//! Memory of a process that serves a mount.

/// Keeps freed memory from piling up: by default glibc's allocator has eight pools for each processor, and
/// raises the size from which it returns memory at once to the largest that was ever freed.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub(crate) fn bound_allocator() {
    // SAFETY: mallopt only sets parameters of the allocator; these are documented in mallopt(3).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        // Above the size of a chunk: each of them mapped and unmapped anew cost more than to hash it.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
    }
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn bound_allocator() {}

/// Gives the pages back in which nothing is, wherever they lie: by itself the allocator does so for those behind
/// the last bytes in use alone.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim(3) is thread-safe and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}
