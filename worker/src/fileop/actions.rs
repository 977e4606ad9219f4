//! One action on one destination.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use cairn_patterns::glob;
use cairn_solver::llb::CopyAction;

use super::copy::{self, CopyRules};
use super::dest::{Dest, DirLook};
use super::error::{FileOpError, reason};
use super::mode::ModeChange;
use super::mounts::Unpack;
use super::owner::Owner;
use super::place::{Look, NEW_FILE};
use crate::checksum::select::{self, Filter, Selected};
use crate::sys::root::clean;
use crate::sys::{Time, at};
use crate::tree::view::{self, Links, View};

/// Owner and time of something that is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    /// Root if not said, unless something is there already.
    pub(super) owner: Option<Owner>,
    pub(super) mtime: Option<Time>,
}

pub(super) fn mkdir(
    dest: &Dest<'_>,
    path: &str,
    mode: u32,
    make_parents: bool,
    attributes: Attributes,
) -> Result<(), FileOpError> {
    let path = clean(path);
    let look = DirLook {
        mode: mode & 0o777,
        owner: attributes.owner.unwrap_or_default(),
        mtime: attributes.mtime,
    };
    if !make_parents {
        let parent = path.parent().unwrap_or(Path::new(""));
        let walked = dest
            .resolve(parent, Links::Follow)
            .map_err(FileOpError::path("mkdir", &path))?;
        if walked.found.is_none() {
            return Err(FileOpError::path("mkdir", &path)(rustix::io::Errno::NOENT.into()));
        }
        // Whatever is there stays as it is.
        let there = dest.resolve(&path, Links::Follow);
        if there.map_err(FileOpError::path("mkdir", &path))?.found.is_some() {
            return Ok(());
        }
    }
    dest.make_dirs(&path, &look).map(drop)
}

pub(super) fn mkfile(
    dest: &Dest<'_>,
    path: &str,
    mode: u32,
    data: &[u8],
    attributes: Attributes,
) -> Result<(), FileOpError> {
    let path = clean(path);
    let attempt = || {
        let walked = dest.resolve(&path, Links::Follow)?;
        if walked.found.as_ref().is_some_and(crate::tree::Node::is_dir) {
            return Err(rustix::io::Errno::ISDIR.into());
        }
        let (dir, name) = dest.parent_of(&walked.path)?;
        // Made anew rather than written to, for it may be a link to a stored file; so its mode and owner are carried over.
        let mut mode = mode & 0o777;
        let mut owner = attributes.owner;
        if let Some(there) = dir.get(&name)? {
            if !there.metadata.is_file() {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidInput,
                    "not a regular file",
                ));
            }
            mode = there.metadata.permissions();
            owner = owner.or(Some((there.metadata.uid, there.metadata.gid)));
            dir.clear(&name, &there)?;
        }
        let mut file = File::from(at::open(&dir.upper, &name, NEW_FILE, 0o600)?);
        file.write_all(data)?;
        let (uid, gid) = owner.unwrap_or_default();
        at::chown_fd(&file, uid, gid)?;
        at::chmod_fd(&file, mode)?;
        match attributes.mtime {
            Some(time) => at::set_times_fd(&file, Some(time), Some(time)),
            None => Ok(()),
        }
    };
    attempt().map_err(FileOpError::path("open", &path))
}

pub(super) fn symlink(dest: &Dest<'_>, target: &str, path: &str, attributes: Attributes) -> Result<(), FileOpError> {
    let path = clean(path);
    let attempt = || {
        let (dir, name) = named_parent(dest, &path)?;
        if dir.get(&name)?.is_some() {
            return Err(rustix::io::Errno::EXIST.into());
        }
        at::symlink(&dir.upper, &name, OsStr::new(target))?;
        let (uid, gid) = attributes.owner.unwrap_or_default();
        at::chown(&dir.upper, &name, uid, gid)?;
        match attributes.mtime {
            Some(time) => at::set_times(&dir.upper, &name, Some(time), Some(time)),
            None => Ok(()),
        }
    };
    attempt().map_err(FileOpError::path("symlink", &path))
}

/// The directory of `path`, symbolic links before the last element followed.
fn named_parent(dest: &Dest<'_>, path: &Path) -> std::io::Result<(super::dest::Writable, std::ffi::OsString)> {
    let walked = dest.resolve(path, Links::Keep)?;
    dest.parent_of(&walked.path)
}

/// Removes what is at `path`; `view` is the destination to read. Needs a destination with nothing below it.
pub(super) fn rm(
    dest: &Dest<'_>,
    view: &dyn View,
    path: &str,
    allow_not_found: bool,
    allow_wildcard: bool,
) -> Result<(), FileOpError> {
    if allow_wildcard && glob::has_wildcard(path) {
        for selected in select::select(view, path, true, false)? {
            remove(dest, &selected.named, true)?;
        }
        return Ok(());
    }
    remove(dest, &clean(path), allow_not_found)
}

fn remove(dest: &Dest<'_>, path: &Path, allow_not_found: bool) -> Result<(), FileOpError> {
    let failed = |error| FileOpError::path("lstat", path)(error);
    if path.as_os_str().is_empty() {
        let refused = std::io::Error::new(std::io::ErrorKind::InvalidInput, "invalid empty path");
        return Err(FileOpError::path("rmPath", path)(refused));
    }
    let walked = match dest.resolve(path, Links::Keep) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory && allow_not_found => return Ok(()),
        walked => walked.map_err(failed)?,
    };
    if walked.found.is_none() {
        return if allow_not_found {
            Ok(())
        } else {
            Err(failed(rustix::io::Errno::NOENT.into()))
        };
    }
    let (dir, name) = dest.parent_of(&walked.path).map_err(failed)?;
    at::remove_all(&dir.upper, &name).map_err(FileOpError::path("remove", path))
}

/// The bits of a number that stand for the sticky bit: where clients written in Go have it.
const GO_STICKY: u32 = 1 << 20;

/// What directories on the way to a destination get: a mode that is a number, without what a process could not give to
/// a directory that it makes. A text, also one with digits, is about the copies alone.
fn parent_mode(action: &CopyAction) -> u32 {
    match action.mode {
        Some(mode) if action.mode_str.is_empty() => {
            let sticky = if mode & GO_STICKY == 0 { 0 } else { 0o1000 };
            mode & 0o777 | sticky
        }
        _ => 0o755,
    }
}

/// A copy, prepared: its source has been looked at, its destination has not.
pub(super) struct Copy<'a> {
    view: &'a dyn View,
    dest: PathBuf,
    /// Whether the destination is a directory whatever is there.
    into: bool,
    action: &'a CopyAction,
    rules: CopyRules<'a>,
    selected: Vec<Selected>,
}

impl<'a> Copy<'a> {
    pub(super) fn prepare(
        view: &'a dyn View,
        action: &'a CopyAction,
        owner: Option<Owner>,
        is_cancelled: &'a dyn Fn() -> bool,
    ) -> Result<Self, FileOpError> {
        let mode = match action.mode_str.as_str() {
            "" => action.mode.map(|mode| ModeChange::Octal(mode & 0o7777)),
            text => Some(ModeChange::parse(text)?),
        };
        let rules = CopyRules {
            look: Look {
                owner,
                mode,
                mtime: action.timestamp.map(Time::from_nanos),
            },
            parent_mode: parent_mode(action),
            dir_contents: action.dir_copy_contents,
            always_replace: action.always_replace,
            filter: Filter::new(&action.include, &action.exclude)?,
            required: if action.include.is_empty() {
                &[]
            } else {
                &action.required_paths
            },
            is_cancelled,
        };
        let selected = select::select(view, &action.src, action.allow_wildcard, action.follow_symlink)?;
        if selected.is_empty() && !action.allow_empty_wildcard {
            return Err(FileOpError::NoMatch(action.src.clone()));
        }
        let text = action.dest.as_str();
        Ok(Self {
            view,
            dest: clean(text),
            into: text.ends_with('/') || text.ends_with("/.") || matches!(text, "" | "."),
            action,
            rules,
            selected,
        })
    }

    /// Whether something below the destination may have to be hidden, or files be modified in place.
    pub(super) fn needs_mount(&self, unpack: &dyn Unpack) -> Result<bool, FileOpError> {
        if self.rules.always_replace {
            return Ok(!self.selected.is_empty());
        }
        for selected in &self.selected {
            if self.archive(selected, unpack)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The file that is selected, or that a selected link leads to, if it is an archive to be extracted.
    fn archive(&self, selected: &Selected, unpack: &dyn Unpack) -> Result<Option<File>, FileOpError> {
        if !self.action.attempt_unpack {
            return Ok(None);
        }
        let attempt = || {
            let found = if selected.at.node.is_symlink() {
                view::find(self.view, &selected.named, Links::Follow)?
            } else {
                Some(selected.at.clone())
            };
            let Some(at) = found.filter(|at| at.node.is_file()) else {
                return Ok(None);
            };
            let mut file = self.view.open(&at)?;
            if !unpack.is_archive(&mut file)? {
                return Ok(None);
            }
            std::io::Seek::rewind(&mut file)?;
            Ok(Some(file))
        };
        attempt().map_err(FileOpError::path("open", &selected.at.path))
    }

    pub(super) fn run(&self, dest: &mut Dest<'_>, unpack: &dyn Unpack) -> Result<(), FileOpError> {
        if !self.action.create_dest_path {
            self.require_parent(dest)?;
        }
        for selected in &self.selected {
            match self.archive(selected, unpack)? {
                Some(file) => self.extract(dest, file, unpack)?,
                None => {
                    let from = (selected.named.as_path(), &selected.at);
                    copy::copy(dest, self.view, from, (&self.dest, self.into), &self.rules)?;
                }
            }
        }
        Ok(())
    }

    fn require_parent(&self, dest: &Dest<'_>) -> Result<(), FileOpError> {
        let attempt = || {
            let real = dest.resolve(&self.dest, Links::Follow)?.path;
            let parent = dest.resolve(real.parent().unwrap_or(Path::new("")), Links::Keep)?;
            parent.found.ok_or_else(|| rustix::io::Errno::NOENT.into()).map(drop)
        };
        attempt().map_err(|error: std::io::Error| FileOpError::NoParent {
            dest: self.action.dest.clone(),
            reason: reason(&error),
        })
    }

    fn extract(&self, dest: &Dest<'_>, file: File, unpack: &dyn Unpack) -> Result<(), FileOpError> {
        let look = DirLook {
            mode: 0o755,
            ..self.rules.parents()
        };
        let (real, made) = dest.make_dirs(&self.dest, &look)?;
        let attempt = || {
            // Opened through `writable`, so that it is there even if it was only below so far.
            drop(dest.writable(&real)?);
            let into = dest.upper.sub_root(&real)?;
            unpack.extract(file, &into, self.rules.look.owner)
        };
        attempt().map_err(FileOpError::path("unpack", &self.dest))?;
        look.restore_times(dest, &made)
    }
}
