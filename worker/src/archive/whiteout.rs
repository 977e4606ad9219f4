//! How deletions look: in a layer tar (OCI image layer specification, "Whiteouts") and in an overlay's upper directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Prefix of the name of a tar entry that deletes.
pub(super) const PREFIX: &[u8] = b".wh.";
/// The tar entry that hides everything below its directory.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of other bookkeeping that AUFS once left in layers.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// What a tar entry's last path component says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// It is the name of a file.
    Name,
    /// The file of this name below is deleted.
    Deleted(&'a OsStr),
    /// Everything below is hidden.
    Opaque,
    /// It means nothing.
    Ignored,
    /// It deletes something that has no name.
    Invalid,
}

pub(super) fn marker(name: &OsStr) -> Marker<'_> {
    let name = name.as_bytes();
    if name == OPAQUE {
        return Marker::Opaque;
    }
    if name.starts_with(AUFS_PREFIX) {
        return Marker::Ignored;
    }
    match name.strip_prefix(PREFIX) {
        None => Marker::Name,
        Some(b"" | b"." | b"..") => Marker::Invalid,
        Some(deleted) => Marker::Deleted(OsStr::from_bytes(deleted)),
    }
}

/// Who may read and write the attributes of an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverlayXattrs {
    /// `trusted.overlay.*`: mounts made by real root.
    #[default]
    Trusted,
    /// `user.overlay.*`: mounts with `userxattr`, made in a user namespace.
    User,
}

impl OverlayXattrs {
    /// The attribute that makes a directory opaque, with the value `y`.
    pub fn opaque(self) -> &'static OsStr {
        OsStr::new(match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        })
    }
}

/// Marks a directory in a layer of which only the time is another than below, and which holds nothing but such directories.
/// Of overlay's own namespace, so that no process sees it, and no overlay copies it up.
pub const TIME_ALONE: &str = "trusted.overlay.cairn.time";

/// The attribute with the capabilities of a program.
pub(super) const CAPABILITY: &str = "security.capability";

/// Whether an attribute belongs to overlay itself: never taken from an image, never put into one.
pub(super) fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Whether an attribute describes this machine rather than the file.
pub(super) fn is_host_xattr(name: &[u8]) -> bool {
    is_overlay_xattr(name) || matches!(name, b"security.selinux" | b"security.ima" | b"security.evm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (name, want) in [
            ("file", Marker::Name),
            (".wh", Marker::Name),
            (".wh.x", Marker::Deleted(OsStr::new("x"))),
            (".wh..hidden", Marker::Deleted(OsStr::new(".hidden"))),
            (".wh..wh..opq", Marker::Opaque),
            (".wh..wh.plnk", Marker::Ignored),
            (".wh.", Marker::Invalid),
            (".wh..", Marker::Invalid),
            (".wh...", Marker::Invalid),
        ] {
            assert_eq!(marker(OsStr::new(name)), want, "{name}");
        }
    }
}
