//! The key under which a daemon may reuse what it received of a directory earlier.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const LENGTH: usize = 32;

/// A key that is the same for the same directory, machine and user, and tells nothing about them.
pub fn shared_key(directory: &Path) -> String {
    let machine = std::fs::read("/etc/machine-id");
    let machine = machine.unwrap_or_else(|_| rustix::system::uname().nodename().to_bytes().to_vec());
    let directory = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mut hash = blake3::Hasher::new_derive_key("cairn session shared key v1");
    let user = rustix::process::getuid().as_raw().to_le_bytes();
    for part in [machine.as_slice(), &user, directory.as_os_str().as_bytes()] {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hash.finalize().to_hex()[..LENGTH].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_stable_and_differs_between_directories() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(shared_key(one.path()), shared_key(&one.path().join(".")));
        assert_ne!(shared_key(one.path()), shared_key(two.path()));
        assert_eq!(shared_key(one.path()).len(), LENGTH);
    }
}
