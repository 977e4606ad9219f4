//! The directories in which devices are described, and which devices there are in them now.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_solver::llb::CdiDevice;
use cairn_solver::{Device, DeviceError};
use parking_lot::Mutex;

use super::CdiConfig;
use super::edits::{CdiError, Origin};
use super::spec::{Spec, SpecError, Syntax};
use crate::executor::Edits;

/// Most files in one directory that are read.
const MAX_FILES: usize = 256;
/// Largest file.
const MAX_SIZE: u64 = 1 << 20;
/// Most devices in all.
const MAX_DEVICES: usize = 1024;

/// Devices of the host, as files describe them. They are read again when they have changed.
pub struct Cdi {
    config: CdiConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was read, as far as can be told without reading it again.
    seen: Option<Vec<Seen>>,
    known: Arc<Known>,
}

/// A file, or a directory, as it was when it was read.
#[derive(PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    /// Device and inode, size, and when it was changed; or why it cannot be looked at.
    state: Result<(u64, u64, u64, i64, i64), io::ErrorKind>,
}

/// What the files say.
#[derive(Default)]
struct Known {
    /// Sorted by name.
    devices: Arc<[Device]>,
    sources: BTreeMap<String, Source>,
}

/// Where a device is described.
#[derive(Clone)]
struct Source {
    file: Arc<SpecFile>,
    /// Its place in the file.
    index: usize,
}

/// A file that describes devices.
struct SpecFile(Spec);

/// Why a file is left out.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("failed to read it: {0}")]
    Io(#[from] io::Error),
    #[error("it is no file")]
    NoFile,
    #[error("others than the administrator can write it, or its directory")]
    Untrusted,
    #[error("it has more than {MAX_SIZE} bytes")]
    TooLarge,
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl Cdi {
    /// The devices of these directories, some of which may not be there.
    pub fn new(config: CdiConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
        }
    }

    /// The devices that there are, sorted by name. Looks whether the files have changed.
    pub fn devices(&self) -> Arc<[Device]> {
        self.known().devices.clone()
    }

    /// What is changed about a container that gets these devices, named in full: which ones a step gets was settled
    /// before, and nothing else may come in place of one that is gone. Blocks.
    ///
    /// # Errors
    /// [`CdiError`] names the device that cannot be had.
    pub fn edits(&self, asked: &[CdiDevice]) -> Result<Edits, CdiError> {
        let known = self.known();
        let mut edits = Edits::default();
        let mut files: Vec<&Arc<SpecFile>> = Vec::new();
        for asked in asked {
            let Some(Source { file, index }) = known.sources.get(&asked.name) else {
                if asked.optional {
                    tracing::warn!(device = asked.name, "an optional device is not there any more");
                    continue;
                }
                return Err(DeviceError::Missing(asked.name.clone()).into());
            };
            let origin = Origin { device: &asked.name };
            // What a file says of all its devices is done once.
            if !files.iter().any(|known| Arc::ptr_eq(known, file)) {
                files.push(file);
                origin.collect(&file.0.container_edits, &mut edits)?;
            }
            origin.collect(&file.0.devices[*index].container_edits, &mut edits)?;
        }
        Ok(edits)
    }

    fn known(&self) -> Arc<Known> {
        let (files, seen) = self.look();
        let mut state = self.state.lock();
        if state.seen.as_ref() != Some(&seen) {
            state.known = Arc::new(self.read(&files));
            state.seen = Some(seen);
        }
        state.known.clone()
    }

    /// The files that there are, by directory, and what tells that they have changed.
    fn look(&self) -> (Vec<Vec<PathBuf>>, Vec<Seen>) {
        let mut seen = Vec::new();
        let mut files = Vec::new();
        for dir in &self.config.dirs {
            seen.push(Seen::at(dir.clone()));
            let mut of_dir = list(dir);
            of_dir.sort();
            seen.extend(of_dir.iter().cloned().map(Seen::at));
            files.push(of_dir);
        }
        (files, seen)
    }

    fn read(&self, files: &[Vec<PathBuf>]) -> Known {
        let mut sources: BTreeMap<String, Source> = BTreeMap::new();
        for (dir, files) in self.config.dirs.iter().zip(files) {
            if files.len() >= MAX_FILES {
                tracing::warn!(dir = %dir.display(), "only {MAX_FILES} files that describe devices are read");
            }
            sources.extend(read_dir(files));
        }
        while sources.len() > MAX_DEVICES {
            let dropped = sources.pop_last();
            if let (MAX_DEVICES, Some((name, _))) = (sources.len(), dropped) {
                tracing::warn!("there are more than {MAX_DEVICES} devices: those from {name} on are left out");
            }
        }
        let devices = sources.iter().map(|(name, source)| {
            let spec = &source.file.0;
            let mut annotations = spec.annotations.clone();
            annotations.extend(spec.devices[source.index].annotations.clone());
            Device::new(name.clone(), annotations, &self.config.auto_allowed)
        });
        Known {
            devices: devices.collect(),
            sources,
        }
    }
}

impl Seen {
    fn at(path: PathBuf) -> Self {
        let state = std::fs::metadata(&path).map(|metadata| {
            (
                metadata.dev(),
                metadata.ino(),
                metadata.size(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            )
        });
        Self {
            path,
            state: state.map_err(|error| error.kind()),
        }
    }
}

/// Files of a directory that describe devices; none if there is no such directory.
fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "could not look for descriptions of devices");
            return Vec::new();
        }
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths
        .filter(|path| Syntax::of(path).is_some())
        .take(MAX_FILES)
        .collect()
}

/// What the files of one directory say. Of a device that two of them describe, none is right.
fn read_dir(files: &[PathBuf]) -> BTreeMap<String, Source> {
    let mut sources: BTreeMap<String, Option<Source>> = BTreeMap::new();
    for path in files {
        let file = match SpecFile::read(path) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a description of devices is left out");
                continue;
            }
        };
        for (index, device) in file.0.devices.iter().enumerate() {
            let name = format!("{}={}", file.0.kind, device.name);
            let source = Source {
                file: file.clone(),
                index,
            };
            sources
                .entry(name.clone())
                .and_modify(|other| {
                    tracing::warn!(device = name, file = %path.display(), "a device is described twice: it is left out");
                    *other = None;
                })
                .or_insert(Some(source));
        }
    }
    let described = sources.into_iter();
    described.filter_map(|(name, source)| Some((name, source?))).collect()
}

impl SpecFile {
    fn read(path: &Path) -> Result<Self, FileError> {
        // What is no file must not make the daemon wait.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(FileError::NoFile);
        }
        // It decides what of the host steps see, and may call programs there.
        let dir = path.parent().unwrap_or(Path::new("/"));
        if !is_administrators(&metadata) || !is_administrators(&std::fs::metadata(dir)?) {
            return Err(FileError::Untrusted);
        }
        let mut text = String::new();
        file.take(MAX_SIZE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(FileError::TooLarge);
        }
        let syntax = Syntax::of(path).unwrap_or(Syntax::Yaml);
        Ok(Self(Spec::parse(&text, syntax)?))
    }
}

/// Whether nobody but the administrator, or who the daemon runs as, can write it.
fn is_administrators(metadata: &std::fs::Metadata) -> bool {
    let is_owner = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
    is_owner && metadata.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests;
