//! What the process finds around itself, read once so that decisions can be tested.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// Directory, environment and terminals of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// The working directory.
    pub(crate) directory: PathBuf,
    /// Variables whose name and value are text.
    pub(crate) variables: BTreeMap<String, String>,
    /// Whether standard output goes to a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether standard error goes to a terminal.
    pub(crate) stderr_is_terminal: bool,
    /// Whether this is the system's administrator.
    pub(crate) is_root: bool,
}

impl Surroundings {
    /// Looks around.
    pub(crate) fn read() -> Result<Self, CliError> {
        let directory = std::env::current_dir().map_err(|source| CliError::System {
            action: "find the working directory",
            source,
        })?;
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Ok(Self {
            directory,
            variables: std::env::vars_os().filter_map(text).collect(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            is_root: rustix::process::geteuid().is_root(),
        })
    }

    /// The value of a variable; none when it is empty.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A path of the command line as an absolute one.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }
}
