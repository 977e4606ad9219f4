//! What one tree has that another has not, as a layer.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::compare::{are_alike, have_same_content};
use super::error::LayerError;
use super::list::LayerList;
use super::record::Describe;
use super::seed::{copy_attributes, copy_file};
use super::store::LayerStore;
use crate::sys::{FileKind, Metadata, Root, Time};

impl LayerStore {
    /// A layer over nothing which, laid over `lower`, gives what `upper` gives: what is new or different there, and
    /// marks where something is gone. Both are walked, and what differs is copied.
    ///
    /// # Errors
    /// [`LayerError::NotUnpacked`] unless [`LayerStore::ensure_unpacked`] went before, for both.
    pub fn difference(
        &self,
        lower: &LayerList,
        upper: &LayerList,
        describe: &Describe,
    ) -> Result<LayerList, LayerError> {
        let below = self.mount_readonly(lower)?;
        let above = self.mount_readonly(upper)?;
        let layer = self.prepare(&self.scratch())?;
        let mut walk = Walk {
            lower: below.root(),
            upper: above.root(),
            to: layer.upper(),
            made: HashMap::new(),
            linked: HashMap::new(),
        };
        walk.run()
            .map_err(LayerError::io("write what differs to", &layer.path()))?;
        above.unmount()?;
        below.unmount()?;
        layer.commit(describe)
    }
}

/// Two trees on their way to a third.
struct Walk<'a> {
    lower: &'a Root,
    upper: &'a Root,
    to: &'a Root,
    /// Directories that were made, with what they are like.
    made: HashMap<PathBuf, Metadata>,
    /// Where files that have several names were first copied to.
    linked: HashMap<(u64, (u32, u32)), PathBuf>,
}

impl Walk<'_> {
    fn run(&mut self) -> io::Result<()> {
        // It is there already.
        let root = self.upper.stat("")?;
        copy_attributes(self.upper, self.to, Path::new(""), &root)?;
        self.made.insert(PathBuf::new(), root);
        let mut pending = vec![(PathBuf::new(), true)];
        while let Some((dir, is_below)) = pending.pop() {
            let mut names = HashSet::new();
            for entry in self.upper.read_dir(&dir)? {
                let path = dir.join(&entry.name);
                let metadata = self.upper.lstat(&path)?;
                let below = if is_below { self.below(&path)? } else { None };
                if metadata.is_dir() {
                    let is_below = below.as_ref().is_some_and(Metadata::is_dir);
                    if !self.is_same_dir(&path, &metadata, below.as_ref())? {
                        self.make_dir(&path)?;
                    }
                    pending.push((path, is_below));
                } else if !self.is_same(&path, &metadata, below.as_ref())? {
                    self.copy(&path, &metadata)?;
                }
                names.insert(entry.name);
            }
            if is_below {
                self.mark_what_is_gone(&dir, &names)?;
            }
        }
        // Last, as filling a directory changes its times.
        for (dir, metadata) in &self.made {
            self.to.set_times(dir, Some(metadata.atime), Some(metadata.mtime))?;
        }
        Ok(())
    }

    fn below(&self, path: &Path) -> io::Result<Option<Metadata>> {
        match self.lower.lstat(path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn mark_what_is_gone(&mut self, dir: &Path, names: &HashSet<OsString>) -> io::Result<()> {
        for entry in self.lower.read_dir(dir)? {
            if !names.contains(&entry.name) {
                self.make_dir(dir)?;
                self.to.mknod(dir.join(&entry.name), libc::S_IFCHR, (0, 0))?;
            }
        }
        Ok(())
    }

    fn copy(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        self.make_dir(path.parent().unwrap_or(Path::new("")))?;
        if metadata.nlink > 1 {
            let file = (metadata.ino, metadata.dev);
            if let Some(first) = self.linked.get(&file) {
                return self.to.hard_link(first, path);
            }
            self.linked.insert(file, path.to_owned());
        }
        copy_file(self.upper, self.to, path, metadata)?;
        copy_attributes(self.upper, self.to, path, metadata)?;
        self.to.set_times(path, Some(metadata.atime), Some(metadata.mtime))
    }

    /// Makes a directory of the upper tree, and those around it, unless they were made.
    fn make_dir(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|path| !self.made.contains_key(*path))
            .collect();
        for path in missing.into_iter().rev() {
            let metadata = self.upper.lstat(path)?;
            self.to.create_dir(path, metadata.permissions())?;
            copy_attributes(self.upper, self.to, path, &metadata)?;
            self.made.insert(path.to_owned(), metadata);
        }
        Ok(())
    }

    /// Whether a directory is the same in both, whatever is in it. That it was changed inside is no difference.
    fn is_same_dir(&self, path: &Path, ours: &Metadata, below: Option<&Metadata>) -> io::Result<bool> {
        Ok(below.is_some_and(|below| are_alike(ours, below)) && self.have_same_xattrs(path)?)
    }

    /// Whether something that is no directory is the same in both.
    fn is_same(&self, path: &Path, ours: &Metadata, below: Option<&Metadata>) -> io::Result<bool> {
        let Some(below) = below else { return Ok(false) };
        if !are_alike(ours, below) || ours.mtime != below.mtime || !self.have_same_xattrs(path)? {
            return Ok(false);
        }
        match ours.kind() {
            FileKind::File if ours.size != below.size => Ok(false),
            FileKind::File => Ok(is_of_a_clock(ours.mtime) || self.holds_the_same(path)?),
            FileKind::Symlink => Ok(self.upper.read_link(path)? == self.lower.read_link(path)?),
            FileKind::CharDevice | FileKind::BlockDevice => Ok(ours.rdev == below.rdev),
            FileKind::Dir | FileKind::Fifo | FileKind::Socket => Ok(true),
        }
    }

    fn have_same_xattrs(&self, path: &Path) -> io::Result<bool> {
        Ok(self.upper.xattrs(path)? == self.lower.xattrs(path)?)
    }

    fn holds_the_same(&self, path: &Path) -> io::Result<bool> {
        let ((upper, _), (lower, _)) = (self.upper.open_regular(path)?, self.lower.open_regular(path)?);
        have_same_content(upper, lower)
    }
}

/// Whole seconds are what somebody has set, and may have set for two files; a clock shows the same nanosecond once.
fn is_of_a_clock(time: Time) -> bool {
    time.nanos != 0
}

#[cfg(test)]
mod tests;
