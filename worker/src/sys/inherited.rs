//! Descriptors that were open when this program began.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};

/// The first descriptor that is handed over, after the three that every program has.
pub const FIRST: RawFd = 3;

/// A copy of a descriptor that the program was started with. Programs started by this one get neither.
///
/// # Errors
/// If there is no such descriptor, or it is one of the standard streams.
pub fn copy(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < FIRST || !std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("descriptor {fd} was not handed over"),
        ));
    }
    // SAFETY: the descriptor is open, as was checked above, and stays so during this function: whoever started the
    // program opened it, so nothing in the program owns it, and nothing closes what it does not own.
    let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_setfd(inherited, FdFlags::CLOEXEC)?;
    inherited.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};

    use super::*;

    #[test]
    fn what_was_open_is_copied() {
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        // As if it had been open from the beginning: nothing owns it.
        let fd = far.into_raw_fd();
        let mut copy: std::os::unix::net::UnixStream = copy(fd).unwrap().into();
        assert_ne!(copy.as_raw_fd(), fd);
        copy.write_all(b"x").unwrap();
        let mut byte = [0];
        near.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn others_are_refused() {
        for fd in [-1, 0, 2, 100_000] {
            assert!(super::copy(fd).is_err(), "{fd}");
        }
    }
}
