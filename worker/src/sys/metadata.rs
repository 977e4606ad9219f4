//! What the kernel says about a file.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};

/// A point in time as file systems store it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since the epoch; negative before it.
    pub secs: i64,
    /// Nanoseconds within the second, always counted forward.
    pub nanos: u32,
}

impl Time {
    /// Nanoseconds since the epoch, saturating at the ends of `i64`.
    pub fn as_nanos(self) -> i64 {
        let ns = i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos);
        ns.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// The reverse of [`Time::as_nanos`].
    pub fn from_nanos(ns: i64) -> Self {
        Self {
            secs: ns.div_euclid(1_000_000_000),
            nanos: ns.rem_euclid(1_000_000_000) as u32,
        }
    }
}

/// Type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl FileKind {
    /// From the type bits of `st_mode`; `None` for values that no Linux file system reports.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Dir,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            _ => return None,
        })
    }
}

/// What is known about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// 512-byte units allocated.
    pub blocks: u64,
    /// Number of names.
    pub nlink: u32,
    /// Inode number.
    pub ino: u64,
    /// Major and minor number of the device the file lies on.
    pub dev: (u32, u32),
    /// For device files: their major and minor number.
    pub rdev: (u32, u32),
    /// Last modification.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Last access.
    pub atime: Time,
}

impl Metadata {
    /// Of an open file.
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(statx(
            fd,
            "",
            AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC,
            StatxFlags::BASIC_STATS,
        )?
        .into())
    }

    /// Type of the file. Unknown types count as sockets: nothing opens or reads them.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).unwrap_or(FileKind::Socket)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileKind::Dir
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == FileKind::File
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind() == FileKind::Symlink
    }

    /// Permission bits, with set-id and sticky bits.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Whether it is what overlay puts where a lower file was deleted.
    pub fn is_whiteout(&self) -> bool {
        self.kind() == FileKind::CharDevice && self.rdev == (0, 0)
    }

    /// Whether both describe the same inode.
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.ino == other.ino && self.dev == other.dev
    }
}

impl From<Statx> for Metadata {
    fn from(s: Statx) -> Self {
        let time = |t: rustix::fs::StatxTimestamp| Time {
            secs: t.tv_sec,
            nanos: t.tv_nsec,
        };
        Self {
            mode: u32::from(s.stx_mode),
            uid: s.stx_uid,
            gid: s.stx_gid,
            size: s.stx_size,
            blocks: s.stx_blocks,
            nlink: s.stx_nlink,
            ino: s.stx_ino,
            dev: (s.stx_dev_major, s.stx_dev_minor),
            rdev: (s.stx_rdev_major, s.stx_rdev_minor),
            mtime: time(s.stx_mtime),
            ctime: time(s.stx_ctime),
            atime: time(s.stx_atime),
        }
    }
}
