//! Which foreign programs the kernel runs.

use std::sync::LazyLock;

/// Whether the kernel takes calls of the x32 ABI. Few do: it is left out of most, or has to be asked for at boot.
///
/// The first call starts a process, which takes about a millisecond.
pub fn takes_x32() -> bool {
    static TAKES: LazyLock<bool> = LazyLock::new(x32::try_out);
    *TAKES
}

#[cfg(target_arch = "x86_64")]
mod x32 {
    use std::io;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    /// `__X32_SYSCALL_BIT`.
    pub(super) const X32: libc::c_long = 0x4000_0000;
    /// What the child says if the call came through, by the only way there is for it to say anything.
    const CAME_THROUGH: i32 = libc::EALREADY;

    /// A child tries, because a filter around the daemon may kill who makes such a call.
    pub(super) fn try_out() -> bool {
        let mut command = Command::new("/proc/self/exe");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec the closure makes one system call without memory; it allocates nothing.
        unsafe { command.pre_exec(|| Err(io::Error::from_raw_os_error(call()))) };
        match command.spawn() {
            // The closure never lets it come to the program: it was killed.
            Ok(mut killed) => {
                drop(killed.wait());
                false
            }
            Err(said) => said.raw_os_error() == Some(CAME_THROUGH),
        }
    }

    /// Makes the call, and tells what became of it as an error number.
    fn call() -> i32 {
        // SAFETY: the number of the calling process is asked for.
        let answer = unsafe { libc::syscall(X32 + libc::SYS_getpid) };
        if answer > 0 { CAME_THROUGH } else { libc::ENOSYS }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x32 {
    pub(super) fn try_out() -> bool {
        false
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_child_tells_what_the_kernel_answers() {
        // SAFETY: the number of the calling process is asked for.
        let answer = unsafe { libc::syscall(x32::X32 + libc::SYS_getpid) };
        assert_eq!(takes_x32(), answer > 0);
    }
}
