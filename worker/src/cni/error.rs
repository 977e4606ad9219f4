//! Why there is no network.

use std::io;
use std::path::{Path, PathBuf};

/// Why a network cannot be had, or not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The file that describes a network cannot be read.
    #[error("failed to read cni config {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What describes a network makes no sense.
    #[error("invalid cni config {origin}: {message}")]
    Config {
        /// The file.
        origin: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is no directory of plugins.
    #[error("failed to read cni binary dir {path:?}")]
    PluginDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A plugin that a network needs is not there.
    #[error("failed to find cni plugin {plugin:?}, which {origin} needs, in {dir:?}")]
    NoPlugin {
        /// Its name.
        plugin: String,
        /// What names it.
        origin: String,
        /// Where it should be.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A plugin could not put a namespace into a network.
    #[error("CNI setup error: plugin type={plugin:?} failed (add) for network {network:?} of {origin}: {cause}")]
    Add {
        /// Its name.
        plugin: String,
        /// The network's name.
        network: String,
        /// What describes the network.
        origin: String,
        /// Why.
        cause: Box<PluginError>,
    },
    /// A plugin could not take a namespace out of a network.
    #[error("CNI teardown error: plugin type={plugin:?} failed (delete) for network {network:?} of {origin}: {cause}")]
    Delete {
        /// Its name.
        plugin: String,
        /// The network's name.
        network: String,
        /// What describes the network.
        origin: String,
        /// Why.
        cause: Box<PluginError>,
    },
    /// The name of the bridge is that of something else.
    #[error("{0:?} already exists but is not a bridge")]
    NotABridge(String),
    /// The daemon is stopping.
    #[error("no more networks are made: the daemon is stopping")]
    Closed,
    /// A system call or file operation of ours failed.
    #[error("failed to {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CniError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// What was wrong with a call of a plugin.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It could not be started, or not be talked to.
    #[error("failed to {doing}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It says itself what is wrong.
    #[error("{0}")]
    Said(String),
    /// It failed without saying why in the way it should have.
    #[error("it ended with {status}{}", if said.is_empty() { " and no error message".to_owned() } else { format!(": {said:?}") })]
    Failed {
        /// How it ended.
        status: String,
        /// What it printed.
        said: String,
    },
    /// It took too long, and was killed.
    #[error("it did not end within {0} seconds and was killed")]
    Timeout(u64),
    /// It printed too much, and was killed.
    #[error("it printed more than {0} bytes and was killed")]
    Flood(usize),
    /// It succeeded without the result that it should have printed.
    #[error("it printed no result, but {0:?}")]
    NoResult(String),
}
