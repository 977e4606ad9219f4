//! Resolution of paths whose symbolic links are to be followed, and sent along.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use cairn_patterns::glob::{self, Glob};
use cairn_proto::names;

use super::LocalTreeError;

/// How many places following may lead to.
const MAX_PLACES: usize = 65_536;
const MAX_PATH: usize = 4096;

/// All places that must be sent so that `paths` can be read: each path with every link on the way and what
/// it leads to. `None` if that is everything. Links resolve inside `root`, as if it were the root directory.
pub(super) fn resolve(root: &Path, paths: &[String]) -> Result<Option<Vec<Vec<u8>>>, LocalTreeError> {
    let mut resolver = Resolver {
        root,
        places: BTreeSet::new(),
        seen: HashSet::new(),
        waiting: Vec::new(),
    };
    for path in paths {
        let path = cairn_patterns::clean_bytes(&[b"./", path.as_bytes()].concat());
        match path.strip_prefix(b"..") {
            // Above the directory: a place that nothing is in, not one inside of it.
            Some([] | [b'/', ..]) => resolver.add(&path)?,
            _ => resolver.wait(&path)?,
        }
    }
    while let Some(path) = resolver.waiting.pop() {
        if path.is_empty() {
            return Ok(None);
        }
        resolver.follow(&path)?;
    }
    Ok(Some(resolver.places.into_iter().collect()))
}

struct Resolver<'a> {
    root: &'a Path,
    places: BTreeSet<Vec<u8>>,
    seen: HashSet<Vec<u8>>,
    waiting: Vec<Vec<u8>>,
}

impl Resolver<'_> {
    /// Walks down one path to its end, or to the first link, from which it goes on later.
    fn follow(&mut self, path: &[u8]) -> Result<(), LocalTreeError> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            let (current, rest) = path.split_at(end);
            let targets = self.targets(current)?;
            if !targets.is_empty() {
                self.add(current)?;
                return targets
                    .iter()
                    .try_for_each(|target| self.wait(&[target, b"/".as_slice(), rest].concat()));
            }
        }
        self.add(path)
    }

    /// Remembers a path to follow, unless it was followed before or only grows by going round in a circle.
    fn wait(&mut self, path: &[u8]) -> Result<(), LocalTreeError> {
        let path = inside(path);
        if path.len() <= MAX_PATH && self.seen.insert(path.clone()) {
            self.waiting.push(path);
        }
        self.check()
    }

    fn add(&mut self, place: &[u8]) -> Result<(), LocalTreeError> {
        self.places.insert(place.to_owned());
        self.check()
    }

    fn check(&self) -> Result<(), LocalTreeError> {
        if self.places.len() > MAX_PLACES || self.seen.len() > MAX_PLACES {
            return Err(LocalTreeError::TooManyLinks {
                root: self.root.to_owned(),
            });
        }
        Ok(())
    }

    /// Where the links lead that `path` names, which may end in a wildcard; nowhere if it names no link.
    fn targets(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, LocalTreeError> {
        let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (b"".as_slice(), path),
        };
        if !glob::has_wildcard(name) {
            return Ok(self.link(dir, name)?.into_iter().collect());
        }
        // What is no valid pattern is refused later, with all other patterns.
        let Ok(glob) = Glob::new(name) else {
            return Ok(Vec::new());
        };
        let full = self.root.join(names::path(dir));
        let Some(entries) = present(fs::read_dir(&full), &full)? else {
            return Ok(Vec::new());
        };
        let mut targets = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| LocalTreeError::Read {
                path: full.clone(),
                source,
            })?;
            let name = entry.file_name().into_vec();
            if glob.matches(&name) {
                targets.extend(self.link(dir, &name)?);
            }
        }
        Ok(targets)
    }

    fn link(&self, dir: &[u8], name: &[u8]) -> Result<Option<Vec<u8>>, LocalTreeError> {
        let path = self.root.join(names::path(dir)).join(names::path(name));
        let target = match fs::read_link(&path) {
            // Not a link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            result => present(result, &path)?,
        };
        let Some(target) = target else { return Ok(None) };
        let target = target.as_os_str().as_bytes();
        Ok(Some(if target.starts_with(b"/") {
            inside(target)
        } else {
            inside(&[dir, b"/", target].concat())
        }))
    }
}

/// Cleans a path, taking the tree for the root directory; the result has no leading slash.
fn inside(path: &[u8]) -> Vec<u8> {
    let mut cleaned = cairn_patterns::clean_bytes(&[b"/", path].concat());
    cleaned.remove(0);
    cleaned
}

fn present<T>(result: io::Result<T>, path: &Path) -> Result<Option<T>, LocalTreeError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(LocalTreeError::Read {
            path: PathBuf::from(path),
            source,
        }),
    }
}
