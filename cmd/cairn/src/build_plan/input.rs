//! Finding the build context and the Dockerfile.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::CliError;
use crate::surroundings::Surroundings;

/// Prefixes that make a context a remote one.
const REMOTE: [&str; 6] = ["http://", "https://", "git://", "ssh://", "git@", "github.com/"];

/// Where the build's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Context {
    /// A directory of this machine.
    Local(PathBuf),
    /// A repository or an archive that the daemon fetches.
    Remote(String),
    /// An archive on standard input, or nothing, with a Dockerfile there.
    Stdin,
}

/// Where the instructions come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dockerfile {
    /// A file of this machine.
    Local {
        /// The directory it is in.
        directory: PathBuf,
        /// Its name there.
        name: String,
    },
    /// Standard input, read to its end.
    Stdin,
    /// A file in a remote context; the usual name when none is given.
    InContext(Option<String>),
}

impl Context {
    pub(super) fn find(given: &OsStr, surroundings: &Surroundings) -> Result<Self, CliError> {
        if given == "-" {
            return Ok(Self::Stdin);
        }
        let path = surroundings.path(given);
        if !given.is_empty() && path.is_dir() {
            return Ok(Self::Local(path));
        }
        let is_remote = |text: &&str| REMOTE.iter().any(|prefix| text.starts_with(prefix));
        if let Some(url) = given.to_str().filter(is_remote) {
            return Ok(Self::Remote(url.to_owned()));
        }
        let problem = if path.exists() {
            "is not a directory"
        } else {
            "does not exist"
        };
        Err(CliError::usage(format!("the build context {given:?} {problem}")))
    }

    pub(super) fn add_attrs(&self, attrs: &mut BTreeMap<String, String>) {
        if let Self::Remote(url) = self {
            attrs.insert("context".to_owned(), url.clone());
        }
    }
}

impl Dockerfile {
    /// A named file is looked for as every other path, and then in the context.
    pub(super) fn find(file: Option<&Path>, context: &Context, surroundings: &Surroundings) -> Result<Self, CliError> {
        match (file, context) {
            (Some(file), Context::Stdin) if file == Path::new("-") => {
                Err(CliError::usage("can't use stdin for both build context and dockerfile"))
            }
            (Some(file), _) if file == Path::new("-") => Ok(Self::Stdin),
            (Some(file), Context::Local(directory)) => named(file, directory, surroundings),
            (None, Context::Local(directory)) => usual(directory),
            (Some(file), Context::Remote(_) | Context::Stdin) => text(file).map(|name| Self::InContext(Some(name))),
            (None, Context::Remote(_) | Context::Stdin) => Ok(Self::InContext(None)),
        }
    }

    pub(super) fn add_attrs(&self, attrs: &mut BTreeMap<String, String>) {
        let filename = match self {
            Self::Local { name, .. } | Self::InContext(Some(name)) => name.clone(),
            Self::Stdin => "Dockerfile".to_owned(),
            Self::InContext(None) => return,
        };
        attrs.insert("filename".to_owned(), filename);
        if matches!(self, Self::Stdin) && attrs.contains_key("context") {
            // Otherwise the file would be looked for in the remote context.
            attrs.insert("dockerfilekey".to_owned(), "dockerfile".to_owned());
        }
    }
}

fn named(file: &Path, context: &Path, surroundings: &Surroundings) -> Result<Dockerfile, CliError> {
    let (given, in_context) = (surroundings.path(file), context.join(file));
    let found = [&given, &in_context].into_iter().find(|path| path.is_file());
    match found {
        Some(path) => local(path),
        None if given.is_dir() => Err(CliError::usage(format!("the Dockerfile {file:?} is a directory"))),
        None if given == in_context => Err(CliError::usage(format!("there is no Dockerfile at {given:?}"))),
        None => Err(CliError::usage(format!(
            "there is no Dockerfile at {given:?}, nor at {in_context:?}"
        ))),
    }
}

fn usual(context: &Path) -> Result<Dockerfile, CliError> {
    let names = ["Dockerfile", "dockerfile"];
    let found = names.iter().map(|name| context.join(name)).find(|path| path.is_file());
    match found {
        Some(path) => local(&path),
        None => Err(CliError::usage_hint(
            format!("there is no Dockerfile in {context:?}"),
            "name it with -f FILE",
        )),
    }
}

fn local(path: &Path) -> Result<Dockerfile, CliError> {
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => Ok(Dockerfile::Local {
            directory: directory.to_owned(),
            name: text(Path::new(name))?,
        }),
        _ => Err(CliError::usage(format!("{path:?} is not the path of a Dockerfile"))),
    }
}

fn text(path: &Path) -> Result<String, CliError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| CliError::usage(format!("the Dockerfile's name {path:?} is not valid UTF-8")))
}
