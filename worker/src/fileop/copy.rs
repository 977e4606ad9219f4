//! The rules of copying.
//!
//! A copy walks its source with a list of its own instead of recursion; a directory is made when it is entered, or, with
//! patterns, when the first thing in it counts; it gets its look when it is left, so that its time is the source's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dest::{Dest, DirLook, Writable};
use super::error::{FileOpError, shown};
use super::place::{self, Look};
use crate::checksum::select::{Filter, FilterState};
use crate::sys::{Metadata, Time, at};
use crate::tree::dir::Body;
use crate::tree::node::{Node, Origin};
use crate::tree::view::{self, Links, Located, View};

/// How to copy, apart from what and where to.
pub(super) struct CopyRules<'a> {
    pub(super) look: Look,
    /// Of directories that are made on the way.
    pub(super) parent_mode: u32,
    pub(super) dir_contents: bool,
    pub(super) always_replace: bool,
    pub(super) filter: Option<Filter>,
    pub(super) required: &'a [String],
    pub(super) is_cancelled: &'a dyn Fn() -> bool,
}

impl CopyRules<'_> {
    /// What parents of a destination, and a new top directory, look like.
    pub(super) fn parents(&self) -> DirLook {
        DirLook {
            mode: self.parent_mode,
            owner: self.look.owner.unwrap_or((0, 0)),
            mtime: self.look.mtime,
        }
    }
}

/// Copies what was selected as `named` to `to`; `into` if that is a directory whatever is there.
pub(super) fn copy(
    dest: &mut Dest<'_>,
    view: &dyn View,
    (named, source): (&Path, &Located),
    (to, into): (&Path, bool),
    rules: &CopyRules<'_>,
) -> Result<(), FileOpError> {
    require(view, source, rules)?;
    let parents = rules.parents();
    let ensured = if into { to } else { to.parent().unwrap_or(to) };
    let (_, mut made) = dest.make_dirs(ensured, &parents)?;
    let walked = dest.resolve(to, Links::Follow).map_err(FileOpError::path("stat", to))?;
    let (mut target, found) = (walked.path, walked.found);
    let is_dir = source.node.is_dir();
    let contents = is_dir && rules.dir_contents;
    let enters = match &found {
        Some(there) => !contents && (is_dir || there.is_dir()),
        None => false,
    };
    if enters && let Some(name) = named.file_name() {
        target.push(name);
    }
    let ensured = if contents && found.is_none() {
        Some(target.as_path())
    } else {
        target.parent()
    };
    if let Some(ensured) = ensured {
        made.extend(dest.make_dirs(ensured, &parents)?.1);
    }
    let mut copier = Copier {
        dest,
        view,
        rules,
        linked: HashMap::new(),
        frames: Vec::new(),
        current: None,
    };
    copier.run(source, target)?;
    parents.restore_times(dest, &made)
}

/// Checks that the paths which have to be copied are there.
fn require(view: &dyn View, source: &Located, rules: &CopyRules<'_>) -> Result<(), FileOpError> {
    for required in rules.required {
        let names: Vec<_> = view::components(Path::new(required)).collect();
        if names.is_empty() {
            // What is selected is below the source, never the source itself.
            return Err(FileOpError::MissingRequired(shown(&source.path)));
        }
        let mut at = Some(source.clone());
        for name in names {
            let Some(dir) = at.take().filter(|at| at.node.is_dir()) else {
                break;
            };
            let path = dir.path.join(&name);
            // Symbolic links on the way are copied, not followed.
            let found = view.child(&dir, &name).map_err(FileOpError::path("lstat", &path))?;
            at = found.map(|node| Located { path, node });
        }
        if at.is_none() {
            return Err(FileOpError::MissingRequired(shown(&source.path.join(required))));
        }
    }
    Ok(())
}

struct Copier<'d, 'a, 'v> {
    dest: &'d mut Dest<'a>,
    view: &'v dyn View,
    rules: &'v CopyRules<'v>,
    /// Where the first name of a file with several was copied to.
    linked: HashMap<FileId, PathBuf>,
    /// The directories down to the current one.
    frames: Vec<Frame>,
    /// The directory last written to.
    current: Option<(PathBuf, Writable)>,
}

#[derive(PartialEq, Eq, Hash)]
enum FileId {
    Inode(u64, u64),
    Group(Arc<Path>),
}

struct Frame {
    source: Located,
    target: PathBuf,
    state: FrameState,
}

#[derive(Clone, Copy)]
enum FrameState {
    /// Nothing in it counted so far.
    Waiting,
    /// It gets the source's look when it is left.
    Dressed,
    /// It was there before and is the top: it keeps its look, and gets the source's time, or this if that has none.
    Kept(Time),
}

enum Step {
    Visit(Box<Visit>),
    Leave,
}

struct Visit {
    source: Located,
    target: PathBuf,
    filter: Option<FilterState>,
    is_top: bool,
}

impl Copier<'_, '_, '_> {
    fn run(&mut self, source: &Located, target: PathBuf) -> Result<(), FileOpError> {
        // Patterns are about what is below a directory.
        let filter = self.rules.filter.as_ref().filter(|_| source.node.is_dir());
        let top = Visit {
            source: source.clone(),
            target,
            filter: filter.map(Filter::top),
            is_top: true,
        };
        let mut pending = vec![Step::Visit(Box::new(top))];
        while let Some(step) = pending.pop() {
            if (self.rules.is_cancelled)() {
                return Err(FileOpError::Cancelled);
            }
            match step {
                Step::Leave => self.leave()?,
                Step::Visit(visit) => self.visit(*visit, &mut pending)?,
            }
        }
        Ok(())
    }

    fn visit(&mut self, visit: Visit, pending: &mut Vec<Step>) -> Result<(), FileOpError> {
        let filter = visit.filter.as_ref();
        let counts = visit.is_top || filter.is_none_or(FilterState::counts);
        if visit.source.node.is_dir() {
            let enters = counts || filter.is_some_and(FilterState::may_count_below);
            return if enters {
                self.enter(visit, counts, pending)
            } else {
                Ok(())
            };
        }
        if !counts {
            return Ok(());
        }
        self.make_frames()?;
        self.leaf(&visit.source, &visit.target)
    }

    fn enter(&mut self, visit: Visit, counts: bool, pending: &mut Vec<Step>) -> Result<(), FileOpError> {
        pending.push(Step::Leave);
        if visit.is_top || visit.filter.as_ref().is_none_or(FilterState::may_count_below) {
            let children = view::children(self.view, &visit.source);
            let children = children.map_err(FileOpError::path("readdir", &visit.source.path))?;
            for child in children.into_iter().rev() {
                let name = child.path.file_name().unwrap_or_default();
                let around = visit.filter.as_ref().zip(self.rules.filter.as_ref());
                pending.push(Step::Visit(Box::new(Visit {
                    target: visit.target.join(name),
                    filter: around.map(|(state, filter)| filter.enter(state, name)).transpose()?,
                    source: child,
                    is_top: false,
                })));
            }
        }
        self.frames.push(Frame {
            source: visit.source,
            target: visit.target,
            state: FrameState::Waiting,
        });
        if counts { self.make_frames() } else { Ok(()) }
    }

    /// Makes the directories that lead to something that counts.
    fn make_frames(&mut self) -> Result<(), FileOpError> {
        let made = self
            .frames
            .iter()
            .rposition(|frame| !matches!(frame.state, FrameState::Waiting));
        for index in made.map_or(0, |index| index + 1)..self.frames.len() {
            let state = self.make_dir(&self.frames[index].target.clone(), index == 0)?;
            self.frames[index].state = state;
        }
        Ok(())
    }

    fn make_dir(&mut self, target: &Path, is_top: bool) -> Result<FrameState, FileOpError> {
        let failed = |error| FileOpError::path("mkdir", target)(error);
        let Some(name) = target.file_name() else {
            // The root itself is always there.
            let root = self.dest.upper.stat("").map_err(failed)?;
            return Ok(FrameState::Kept(root.mtime));
        };
        let always_replace = self.rules.always_replace;
        let dir = self.parent(target).map_err(failed)?;
        match dir.get(name).map_err(failed)? {
            Some(there) if there.metadata.is_dir() && is_top => return Ok(FrameState::Kept(there.metadata.mtime)),
            Some(there) if there.metadata.is_dir() => return Ok(FrameState::Dressed),
            Some(there) if always_replace => dir.clear(name, &there).map_err(failed)?,
            Some(_) => return Err(FileOpError::DirectoryOverFile(shown(target))),
            None => {}
        }
        at::mkdir(&dir.upper, name, 0o700).map_err(failed)?;
        Ok(FrameState::Dressed)
    }

    fn leave(&mut self) -> Result<(), FileOpError> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let failed = |error| FileOpError::path("chmod", &frame.target)(error);
        match frame.state {
            FrameState::Waiting => Ok(()),
            FrameState::Kept(time) => {
                let time = match &frame.source.node.origin {
                    // The root of what a client sent has no time of its own.
                    Origin::TreeRoot => self.rules.look.mtime.unwrap_or(time),
                    _ => self.rules.look.mtime_of(&frame.source.node),
                };
                let dir = self.dest.writable(&frame.target).map_err(failed)?;
                at::set_times_fd(&dir.upper, None, Some(time)).map_err(failed)
            }
            FrameState::Dressed => {
                let xattrs = self.view.xattrs(&frame.source);
                let xattrs = xattrs.map_err(FileOpError::path("listxattr", &frame.source.path))?;
                let dir = self.dest.writable(&frame.target).map_err(failed)?;
                let mut look = self.rules.look.clone();
                if matches!(frame.source.node.origin, Origin::TreeRoot) {
                    // It has no time of its own: the copy keeps that at which it was made.
                    let made = Metadata::of(&dir.upper).map_err(failed)?.mtime;
                    look.mtime = look.mtime.or(Some(made));
                }
                place::dress_fd(&dir.upper, &frame.source.node, &xattrs, &look).map_err(failed)
            }
        }
    }

    fn leaf(&mut self, source: &Located, target: &Path) -> Result<(), FileOpError> {
        let failed = |error| FileOpError::path("copy", target)(error);
        let Some(name) = target.file_name() else {
            return Err(FileOpError::FileOverDirectory(shown(target)));
        };
        let rules = self.rules;
        let dir = self.parent(target).map_err(failed)?;
        match dir.get(name).map_err(failed)? {
            Some(there) if there.metadata.is_dir() && rules.always_replace => {
                at::remove_all(&dir.upper, name).map_err(failed)?;
            }
            Some(there) if there.metadata.is_dir() => return Err(FileOpError::FileOverDirectory(shown(target))),
            Some(there) => dir.clear(name, &there).map_err(failed)?,
            None => {}
        }
        if !source.node.is_file() {
            return place::special(dir, name, &source.node, &rules.look).map_err(failed);
        }
        let id = file_id(&source.node);
        if let Some(first) = id.as_ref().and_then(|id| self.linked.get(id)).cloned() {
            return self.link(&first, source, target).map_err(failed);
        }
        let (_, dir) = self.current.as_ref().expect("opened above");
        let at = (dir, name, target);
        if let Err(error) = place::file(self.dest, at, self.view, source, &rules.look, rules.is_cancelled) {
            let is_cancelled = (rules.is_cancelled)();
            return Err(if is_cancelled {
                FileOpError::Cancelled
            } else {
                failed(error)
            });
        }
        if let Some(id) = id {
            self.linked.insert(id, target.to_owned());
        }
        Ok(())
    }

    /// Gives a copy of `source` at `first` the further name `target`.
    fn link(&mut self, first: &Path, source: &Located, target: &Path) -> std::io::Result<()> {
        let (dir, name) = self.dest.parent_of(target)?;
        let (first_dir, first_name) = self.dest.parent_of(first)?;
        at::hard_link(&first_dir.upper, &first_name, &dir.upper, &name)?;
        if let (Some(links), Some((_, body))) = (self.dest.links.as_deref_mut(), self.view.stored(&source.node)) {
            links.add_name(&body.key, first, target);
        }
        Ok(())
    }

    /// The directory that `target` is in.
    fn parent(&mut self, target: &Path) -> std::io::Result<&Writable> {
        let path = target.parent().unwrap_or(Path::new(""));
        if self.current.as_ref().is_none_or(|(current, _)| current != path) {
            // The old one first, so that there are never two.
            self.current = None;
            self.current = Some((path.to_owned(), self.dest.writable(path)?));
        }
        Ok(&self.current.as_ref().expect("just opened").1)
    }
}

/// What tells whether two names stand for one file; `None` if there is only this name.
fn file_id(node: &Node) -> Option<FileId> {
    match &node.origin {
        Origin::Inode { dev, ino, links } => (*links > 1).then_some(FileId::Inode(*dev, *ino)),
        Origin::Tree(entry) => match &entry.body {
            Body::File(file) => file.group.clone().map(FileId::Group),
            Body::Dir { .. } | Body::Special(_) => None,
        },
        Origin::TreeRoot => None,
    }
}
