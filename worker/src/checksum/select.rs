//! Which files a path, a wildcard or a list of patterns names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cairn_patterns::glob::{self, Glob};
use cairn_patterns::{DirState, PatternSet};

use super::{ChecksumCause, near};
use crate::sys::root::clean;
use crate::tree::view::{self, Links, Located, View};

/// Something that a path or wildcard names.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The path by which it was named, relative to the root; its last element is the name of a copy.
    pub named: PathBuf,
    /// What is there, after symbolic links.
    pub at: Located,
}

/// What `path` names in `view`; more or less than one file only if it is a `wildcard`.
///
/// Elements before the first with a wildcard are taken literally. Symbolic links among these are followed, those that a
/// wildcard matches are not; the link that is named in the end, or right before the wildcards, only if `follow`.
///
/// # Errors
/// [`ChecksumCause::NotFound`] if a literal path, what comes before a wildcard, or a match that is followed, leads nowhere.
pub fn select(view: &dyn View, path: &str, wildcard: bool, follow: bool) -> Result<Vec<Selected>, ChecksumCause> {
    let links = if follow { Links::Follow } else { Links::Keep };
    let names = if wildcard && glob::has_wildcard(path) {
        expand(view, path, links)?
    } else {
        vec![clean(path)]
    };
    let located = names.into_iter().map(|named| {
        let found = view::find(view, &named, links).map_err(|source| read_error(&named, source))?;
        match found {
            Some(at) => Ok(Selected { named, at }),
            None => Err(not_found(view, &named)),
        }
    });
    located.collect()
}

fn not_found(view: &dyn View, path: &Path) -> ChecksumCause {
    ChecksumCause::NotFound {
        path: shown_path(path),
        near: near::path(view, path).map(|near| shown_path(&near)),
    }
}

/// The paths that a wildcard matches, in order. What comes before the first wildcard has to be there; there is nothing in
/// a link at its end that is not followed.
fn expand(view: &dyn View, pattern: &str, links: Links) -> Result<Vec<PathBuf>, ChecksumCause> {
    // Cleaning works on text, as if the pattern were a path.
    let cleaned = clean(pattern);
    let cleaned = cleaned.to_str().expect("made from text");
    let elements: Vec<&str> = cleaned.split('/').filter(|element| !element.is_empty()).collect();
    let literal = elements
        .iter()
        .take_while(|element| !glob::has_wildcard(element))
        .count();
    let base: PathBuf = elements[..literal].iter().collect();
    let globs = elements[literal..].iter().map(Glob::new);
    let globs: Vec<Glob> = globs.collect::<Result<_, _>>().map_err(ChecksumCause::Wildcard)?;
    let found = view::find(view, &base, links).map_err(|source| read_error(&base, source))?;
    let top = found.ok_or_else(|| not_found(view, &base))?;
    let mut level = vec![(base, top)];
    for glob in globs {
        let mut next = Vec::new();
        for (named, dir) in level.iter().filter(|(_, at)| at.node.is_dir()) {
            let children = view::children(view, dir).map_err(|source| read_error(&dir.path, source))?;
            for child in children {
                let name = child.path.file_name().unwrap_or_default();
                if glob.matches(name.as_bytes()) {
                    next.push((named.join(name), child));
                }
            }
        }
        level = next;
    }
    Ok(level.into_iter().map(|(named, _)| named).collect())
}

/// A path as errors name it.
pub fn shown(path: &str) -> String {
    shown_path(&clean(path))
}

pub(crate) fn shown_path(path: &Path) -> String {
    format!("/{}", path.display())
}

pub(crate) fn read_error(path: &Path, source: io::Error) -> ChecksumCause {
    ChecksumCause::Read {
        path: shown_path(path),
        source,
    }
}

/// Which of the files below a directory count, by `.dockerignore` patterns relative to it.
#[derive(Clone, Debug)]
pub struct Filter {
    /// `None` if everything is included.
    include: Option<PatternSet>,
    exclude: PatternSet,
}

/// Where a walk with a [`Filter`] stands.
#[derive(Clone, Debug)]
pub struct FilterState {
    include: Option<DirState>,
    exclude: DirState,
}

impl Filter {
    /// A filter; `None` if everything counts.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Option<Self>, ChecksumCause> {
        if include.is_empty() && exclude.is_empty() {
            return Ok(None);
        }
        let included = PatternSet::new(include).map_err(ChecksumCause::Include)?;
        Ok(Some(Self {
            include: (!include.is_empty()).then_some(included),
            exclude: PatternSet::new(exclude).map_err(ChecksumCause::Exclude)?,
        }))
    }

    /// The state at the directory that the patterns are relative to.
    pub fn top(&self) -> FilterState {
        FilterState {
            include: self.include.as_ref().map(PatternSet::root),
            exclude: self.exclude.root(),
        }
    }

    /// The state at the entry `name` of the directory where `parent` is.
    ///
    /// # Errors
    /// A pattern that means nothing and was to be matched.
    pub fn enter(&self, parent: &FilterState, name: &OsStr) -> Result<FilterState, ChecksumCause> {
        let name = name.as_bytes();
        let included = self.include.as_ref().zip(parent.include.as_ref());
        let include = included.map(|(set, state)| set.enter(state, name)).transpose();
        Ok(FilterState {
            include: include.map_err(ChecksumCause::MatchInclude)?,
            exclude: self
                .exclude
                .enter(&parent.exclude, name)
                .map_err(ChecksumCause::MatchExclude)?,
        })
    }
}

impl FilterState {
    /// Whether what is here counts.
    pub fn counts(&self) -> bool {
        self.include.as_ref().is_none_or(DirState::is_match) && !self.exclude.is_match()
    }

    /// Whether something below could count.
    pub fn may_count_below(&self) -> bool {
        self.include.as_ref().is_none_or(DirState::may_match_below) && self.exclude.may_exempt_below()
    }
}
