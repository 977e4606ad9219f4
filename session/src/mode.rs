//! Conversion between `st_mode` and the mode bits that travel in file transfers, which are Go's `os.FileMode`.

use rustix::fs::FileType;

/// The entry is a directory.
pub const DIR: u32 = 1 << 31;
/// The entry is a symbolic link.
pub const SYMLINK: u32 = 1 << 27;
/// The entry is a device; a block device unless [`CHAR_DEVICE`] is set too.
pub const DEVICE: u32 = 1 << 26;
/// The entry is a named pipe.
pub const FIFO: u32 = 1 << 25;
/// The entry is a socket.
pub const SOCKET: u32 = 1 << 24;
/// The set-user-id bit.
pub const SETUID: u32 = 1 << 23;
/// The set-group-id bit.
pub const SETGID: u32 = 1 << 22;
/// With [`DEVICE`]: the entry is a character device.
pub const CHAR_DEVICE: u32 = 1 << 21;
/// The sticky bit.
pub const STICKY: u32 = 1 << 20;
/// The entry is of no known kind.
pub const IRREGULAR: u32 = 1 << 19;
/// The permission bits.
pub const PERMISSIONS: u32 = 0o777;

const KIND: u32 = DIR | SYMLINK | DEVICE | FIFO | SOCKET | CHAR_DEVICE | IRREGULAR;

/// Whether the mode is that of a regular file (hard links included).
#[must_use]
pub const fn is_regular(mode: u32) -> bool {
    mode & KIND == 0
}

/// Whether the mode is that of a directory.
#[must_use]
pub const fn is_dir(mode: u32) -> bool {
    mode & DIR != 0
}

/// Whether the mode is that of a symbolic link.
#[must_use]
pub const fn is_symlink(mode: u32) -> bool {
    mode & SYMLINK != 0
}

/// Translates `st_mode`.
#[must_use]
pub fn from_unix(st_mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(st_mode) {
        FileType::RegularFile => 0,
        FileType::Directory => DIR,
        FileType::Symlink => SYMLINK,
        FileType::Fifo => FIFO,
        FileType::Socket => SOCKET,
        FileType::BlockDevice => DEVICE,
        FileType::CharacterDevice => DEVICE | CHAR_DEVICE,
        FileType::Unknown => IRREGULAR,
    };
    let special = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
    let special = special
        .iter()
        .filter(|(unix, _)| st_mode & unix != 0)
        .fold(0, |bits, (_, go)| bits | go);
    kind | special | st_mode & PERMISSIONS
}

/// Translates to `st_mode`; `None` if the bits name no single kind that a file system knows.
#[must_use]
pub fn to_unix(mode: u32) -> Option<u32> {
    let kind = match mode & KIND {
        0 => FileType::RegularFile,
        DIR => FileType::Directory,
        SYMLINK => FileType::Symlink,
        FIFO => FileType::Fifo,
        SOCKET => FileType::Socket,
        DEVICE => FileType::BlockDevice,
        kind if kind == DEVICE | CHAR_DEVICE => FileType::CharacterDevice,
        _ => return None,
    };
    Some(kind.as_raw_mode() | permissions(mode))
}

/// The permission, set-id and sticky bits in the form that `chmod` takes.
#[must_use]
pub const fn permissions(mode: u32) -> u32 {
    let mut bits = mode & PERMISSIONS;
    if mode & SETUID != 0 {
        bits |= 0o4000;
    }
    if mode & SETGID != 0 {
        bits |= 0o2000;
    }
    if mode & STICKY != 0 {
        bits |= 0o1000;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translates_both_ways() {
        let rows = [
            (0o100_644, 0o644),
            (0o104_755, SETUID | 0o755),
            (0o040_755, DIR | 0o755),
            (0o041_777, DIR | STICKY | 0o777),
            (0o042_775, DIR | SETGID | 0o775),
            (0o120_777, SYMLINK | 0o777),
            (0o010_600, FIFO | 0o600),
            (0o140_600, SOCKET | 0o600),
            (0o060_660, DEVICE | 0o660),
            (0o020_620, DEVICE | CHAR_DEVICE | 0o620),
        ];
        for (unix, go) in rows {
            assert_eq!(from_unix(unix), go, "{unix:o}");
            assert_eq!(to_unix(go), Some(unix), "{go:x}");
        }
    }

    #[test]
    fn refuses_contradictory_kinds() {
        for mode in [DIR | SYMLINK, IRREGULAR, CHAR_DEVICE, FIFO | SOCKET] {
            assert_eq!(to_unix(mode), None, "{mode:x}");
        }
    }
}
