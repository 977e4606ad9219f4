//! The process's own memory.

/// Gives memory that was freed back to the system, as far as the allocator keeps any. Blocks for some milliseconds.
///
/// glibc keeps what threads freed in arenas of their own, which after a build is most of what a daemon takes.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer, locks the arenas it looks at, and frees only what is free already.
    unsafe {
        libc::malloc_trim(0);
    }
}
