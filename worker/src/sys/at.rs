//! Operations on one name in an open directory. None follows a symbolic link at that name.
//!
//! A name has no `/`, is not empty and neither `.` nor `..`; anything else is `InvalidInput`.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
};

use super::metadata::{FileKind, Metadata, Time};

/// Longest extended attribute value that is read; the kernel's own limit.
const XATTR_MAX: usize = 64 * 1024;

/// A child of a directory, as its directory lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: OsString,
    /// Type, if the file system tells it in the listing.
    pub kind: Option<FileKind>,
}

/// Checks that `name` is one path component.
pub fn check_name(name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not a file name"),
        ));
    }
    Ok(())
}

/// Metadata of `name` in `dir`.
pub fn stat(dir: impl AsFd, name: &OsStr) -> io::Result<Metadata> {
    check_name(name)?;
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?.into())
}

/// Opens `name` in `dir`, failing with `ELOOP` on a symbolic link unless `flags` has `PATH`.
///
/// Without `PATH`, fifos and devices are opened as such: callers that expect a regular file check first.
pub fn open(dir: impl AsFd, name: &OsStr, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
    check_name(name)?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))?)
}

/// Opens the directory `name` for reading and as a base for further calls.
pub fn open_dir(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    open(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, 0)
}

/// Makes a directory with exactly these permissions.
pub fn mkdir(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
    check_name(name)?;
    rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode & 0o777))?;
    chmod(dir, name, mode)
}

/// Makes a symbolic link holding `target`.
pub fn symlink(dir: impl AsFd, name: &OsStr, target: &OsStr) -> io::Result<()> {
    check_name(name)?;
    Ok(rustix::fs::symlinkat(target, dir, name)?)
}

/// Gives `old_name` in `old_dir` another name. A symbolic link is linked itself.
pub fn hard_link(old_dir: impl AsFd, old_name: &OsStr, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    check_name(old_name)?;
    check_name(name)?;
    Ok(rustix::fs::linkat(old_dir, old_name, dir, name, AtFlags::empty())?)
}

/// Makes a device, fifo or socket with exactly these permissions. `mode` has type and permission bits.
pub fn mknod(dir: impl AsFd, name: &OsStr, mode: u32, rdev: (u32, u32)) -> io::Result<()> {
    check_name(name)?;
    let kind = FileType::from_raw_mode(mode);
    let device = rustix::fs::makedev(rdev.0, rdev.1);
    rustix::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(mode & 0o777), device)?;
    chmod(dir, name, mode & 0o7777)
}

/// Removes anything but a directory.
pub fn unlink(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    check_name(name)?;
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
}

/// Removes an empty directory.
pub fn rmdir(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    check_name(name)?;
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Renames, replacing what is at the new name.
pub fn rename(old_dir: impl AsFd, old_name: &OsStr, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    check_name(old_name)?;
    check_name(name)?;
    Ok(rustix::fs::renameat(old_dir, old_name, dir, name)?)
}

/// What a symbolic link holds.
pub fn read_link(dir: impl AsFd, name: &OsStr) -> io::Result<OsString> {
    check_name(name)?;
    Ok(OsString::from_vec(
        rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes(),
    ))
}

/// Changes the owner.
pub fn chown(dir: impl AsFd, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
    check_name(name)?;
    let (uid, gid) = owner(uid, gid)?;
    Ok(rustix::fs::chownat(
        dir,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Changes the owner of an open file.
pub fn chown_fd(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = owner(uid, gid)?;
    Ok(rustix::fs::chownat(
        file,
        "",
        Some(uid),
        Some(gid),
        AtFlags::EMPTY_PATH,
    )?)
}

/// Both ids, if neither is the one that means "leave as is".
fn owner(uid: u32, gid: u32) -> io::Result<(Uid, Gid)> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{uid}:{gid} is not an owner"),
        ));
    }
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// Changes permissions. `EOPNOTSUPP` on a symbolic link, which has none.
pub fn chmod(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
    check_name(name)?;
    let c_name = CString::new(name.as_bytes())?;
    // SAFETY: the descriptor is open for the duration of the call and `c_name` is a live, terminated string; the
    // kernel reads nothing else.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_fchmodat2,
            dir.as_fd().as_raw_fd(),
            c_name.as_ptr(),
            mode & 0o7777,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    if rc == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Linux before 6.6, or a seccomp profile that does not know the call.
        Some(libc::ENOSYS | libc::EPERM) => chmod_fd(open(dir, name, OFlags::PATH, 0)?, mode),
        _ => Err(error),
    }
}

/// Changes permissions of an open file, also one opened with `PATH`.
pub fn chmod_fd(file: impl AsFd, mode: u32) -> io::Result<()> {
    if Metadata::of(&file)?.is_symlink() {
        return Err(rustix::io::Errno::OPNOTSUPP.into());
    }
    Ok(rustix::fs::chmod(
        proc_path(file.as_fd()),
        Mode::from_raw_mode(mode & 0o7777),
    )?)
}

/// Sets access and modification time; `None` leaves one as it is.
pub fn set_times(dir: impl AsFd, name: &OsStr, atime: Option<Time>, mtime: Option<Time>) -> io::Result<()> {
    check_name(name)?;
    Ok(rustix::fs::utimensat(
        dir,
        name,
        &timestamps(atime, mtime),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// [`set_times`] for an open file, also one opened with `PATH`.
pub fn set_times_fd(file: impl AsFd, atime: Option<Time>, mtime: Option<Time>) -> io::Result<()> {
    Ok(rustix::fs::utimensat(
        file,
        "",
        &timestamps(atime, mtime),
        AtFlags::EMPTY_PATH,
    )?)
}

fn timestamps(atime: Option<Time>, mtime: Option<Time>) -> Timestamps {
    let spec = |time: Option<Time>| match time {
        Some(t) => Timespec {
            tv_sec: t.secs,
            tv_nsec: t.nanos.into(),
        },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
    };
    Timestamps {
        last_access: spec(atime),
        last_modification: spec(mtime),
    }
}

/// Names and values of all extended attributes; empty where the file system has none.
pub fn xattrs(dir: impl AsFd, name: &OsStr) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    check_name(name)?;
    read_xattrs(&child_path(dir.as_fd(), name), false)
}

/// [`xattrs`] of an open file, also one opened with `PATH`.
pub fn xattrs_fd(file: impl AsFd) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    read_xattrs(proc_path(file.as_fd()).as_ref(), true)
}

/// One extended attribute; `None` if it is not set or the file system has none.
pub fn xattr(dir: impl AsFd, name: &OsStr, key: &OsStr) -> io::Result<Option<Vec<u8>>> {
    check_name(name)?;
    read_xattr(&child_path(dir.as_fd(), name), key, false)
}

/// [`xattr`] of an open file, also one opened with `PATH`.
pub fn xattr_fd(file: impl AsFd, key: &OsStr) -> io::Result<Option<Vec<u8>>> {
    read_xattr(proc_path(file.as_fd()).as_ref(), key, true)
}

/// Sets an extended attribute.
pub fn set_xattr(dir: impl AsFd, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()> {
    check_name(name)?;
    let path = child_path(dir.as_fd(), name);
    Ok(rustix::fs::lsetxattr(
        &*path,
        key,
        value,
        rustix::fs::XattrFlags::empty(),
    )?)
}

/// [`set_xattr`] for an open file, also one opened with `PATH`.
pub fn set_xattr_fd(file: impl AsFd, key: &OsStr, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(
        proc_path(file.as_fd()),
        key,
        value,
        rustix::fs::XattrFlags::empty(),
    )?)
}

/// Removes an extended attribute that is set.
pub fn remove_xattr(dir: impl AsFd, name: &OsStr, key: &OsStr) -> io::Result<()> {
    check_name(name)?;
    Ok(rustix::fs::lremovexattr(&*child_path(dir.as_fd(), name), key)?)
}

/// Lists a directory, in the file system's order, without `.` and `..`.
pub fn read_dir(dir: impl AsFd) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    each_entry(dir, |entry| {
        entries.push(entry);
        true
    })?;
    Ok(entries)
}

/// Whether a directory has no entries.
pub fn is_empty_dir(dir: impl AsFd) -> io::Result<bool> {
    let mut empty = true;
    each_entry(dir, |_| {
        empty = false;
        false
    })?;
    Ok(empty)
}

/// Calls `visit` for each child until it returns false.
fn each_entry(dir: impl AsFd, mut visit: impl FnMut(Entry) -> bool) -> io::Result<()> {
    // A second descriptor: the position in the listing belongs to the open file.
    let fresh = rustix::fs::openat(
        dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in Dir::new(fresh)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::RegularFile => Some(FileKind::File),
            FileType::Directory => Some(FileKind::Dir),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::CharacterDevice => Some(FileKind::CharDevice),
            FileType::BlockDevice => Some(FileKind::BlockDevice),
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            FileType::Unknown => None,
        };
        if !visit(Entry {
            name: name.to_owned(),
            kind,
        }) {
            break;
        }
    }
    Ok(())
}

/// Removes whatever is at `name`, with everything below it; nothing there is no error.
///
/// Never follows a symbolic link and never crosses into another mount (`EXDEV`). Uses one descriptor and no recursion,
/// whatever the depth.
pub fn remove_all(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    remove_all_unless(dir, name, &AtomicBool::new(false))
}

/// [`remove_all`] that ends with `Interrupted` soon after `stop` is set.
pub fn remove_all_unless(dir: impl AsFd, name: &OsStr, stop: &AtomicBool) -> io::Result<()> {
    check_name(name)?;
    match remove_plain(dir.as_fd(), name) {
        Err(error) if is_directory_error(&error) => {}
        done => return done,
    }
    match remove_tree(dir.as_fd(), name, stop) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes everything below an open directory, but not itself.
pub fn remove_children(dir: impl AsFd) -> io::Result<()> {
    for entry in read_dir(&dir)? {
        remove_all(&dir, &entry.name)?;
    }
    Ok(())
}

/// `unlink` for which nothing there is no error.
fn remove_plain(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_directory_error(error: &io::Error) -> bool {
    // EPERM is POSIX's answer to unlinking a directory, EISDIR Linux's.
    matches!(error.raw_os_error(), Some(libc::EISDIR | libc::EPERM))
}

fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr, stop: &AtomicBool) -> io::Result<()> {
    /// A directory on the way down: its name in its parent, and who the parent is.
    struct Level {
        name: OsString,
        parent: Metadata,
    }
    let start = dir.try_clone_to_owned()?;
    let mut levels = vec![Level {
        name: name.to_owned(),
        parent: Metadata::of(&start)?,
    }];
    let mut current = open_beneath(&start, name)?;
    while let Some(level) = levels.last() {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if let Some(child) = remove_until_dir(&current)? {
            levels.push(Level {
                name: child.clone(),
                parent: Metadata::of(&current)?,
            });
            current = open_beneath(&current, &child)?;
            continue;
        }
        let parent = if levels.len() == 1 {
            start.try_clone()?
        } else {
            rustix::fs::openat(
                &current,
                "..",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?
        };
        if !Metadata::of(&parent)?.is_same_file(&level.parent) {
            return Err(io::Error::other(format!(
                "{:?} was moved while it was being removed",
                level.name
            )));
        }
        rustix::fs::unlinkat(&parent, &*level.name, AtFlags::REMOVEDIR)?;
        current = parent;
        levels.pop();
    }
    Ok(())
}

/// Removes all that is not a directory until one is met; returns that.
fn remove_until_dir(dir: &OwnedFd) -> io::Result<Option<OsString>> {
    let mut found = None;
    let mut failed = None;
    each_entry(dir, |entry| {
        if entry.kind != Some(FileKind::Dir) {
            match remove_plain(dir.as_fd(), &entry.name) {
                Ok(()) => return true,
                Err(error) if entry.kind.is_none() && is_directory_error(&error) => {}
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            }
        }
        found = Some(entry.name);
        false
    })?;
    failed.map_or(Ok(found), Err)
}

fn open_beneath(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)?)
}

/// A path that names an open file for calls that take no descriptor.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn child_path(dir: BorrowedFd<'_>, name: &OsStr) -> OsString {
    let mut path = OsString::from(proc_path(dir));
    path.push("/");
    path.push(name);
    path
}

fn read_xattrs(path: &OsStr, follow: bool) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut list = vec![0u8; XATTR_MAX];
    let listed = if follow {
        rustix::fs::listxattr(path, &mut list[..])
    } else {
        rustix::fs::llistxattr(path, &mut list[..])
    };
    let length = match listed {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let mut all = BTreeMap::new();
    for key in list[..length].split(|&b| b == 0).filter(|key| !key.is_empty()) {
        let key = OsStr::from_bytes(key);
        // One that went away in between is simply not there.
        if let Some(value) = read_xattr(path, key, follow)? {
            all.insert(key.to_owned(), value);
        }
    }
    Ok(all)
}

fn read_xattr(path: &OsStr, key: &OsStr, follow: bool) -> io::Result<Option<Vec<u8>>> {
    let get = |buffer: &mut [u8]| {
        if follow {
            rustix::fs::getxattr(path, key, buffer)
        } else {
            rustix::fs::lgetxattr(path, key, buffer)
        }
    };
    let mut value = vec![0u8; 256];
    loop {
        match get(&mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(rustix::io::Errno::RANGE) if value.len() < XATTR_MAX => value.resize(XATTR_MAX, 0),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}
