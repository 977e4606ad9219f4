//! `--output`, `--tag` and `--push`: what becomes of the result.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::csv;
use crate::error::CliError;
use crate::surroundings::Surroundings;

/// One thing made of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// The exporter that the daemon uses.
    pub(crate) kind: &'static str,
    /// Its options.
    pub(crate) attrs: BTreeMap<String, String>,
    /// Where it goes.
    pub(crate) destination: Destination,
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// It stays with the daemon, or goes from there to a registry.
    Daemon,
    /// Files in a directory of this machine.
    Directory(PathBuf),
    /// One file of this machine.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// What the user called an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Registry,
    Oci,
    Docker,
    Local,
    Tar,
    CacheOnly,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "image" => Self::Image,
            "registry" => Self::Registry,
            "oci" => Self::Oci,
            "docker" => Self::Docker,
            "local" => Self::Local,
            "tar" => Self::Tar,
            "cacheonly" => Self::CacheOnly,
            _ => return None,
        })
    }

    fn exporter(self) -> Option<&'static str> {
        Some(match self {
            Self::Image | Self::Registry => "image",
            Self::Oci => "oci",
            Self::Docker => "docker",
            Self::Local => "local",
            Self::Tar => "tar",
            Self::CacheOnly => return None,
        })
    }

    fn is_named(self) -> bool {
        matches!(self, Self::Image | Self::Registry | Self::Oci | Self::Docker)
    }
}

impl Output {
    /// Whether the result goes to a registry.
    pub(crate) fn is_pushed(&self) -> bool {
        self.attrs.get("push").is_some_and(|value| is_true(value))
    }
}

/// Works out all outputs from the three options together.
pub(super) fn resolve(
    outputs: &[String],
    tags: &[String],
    push: bool,
    surroundings: &Surroundings,
) -> Result<Vec<Output>, CliError> {
    let tags: Vec<&str> = tags.iter().map(|tag| checked_tag(tag)).collect::<Result<_, _>>()?;
    let mut resolved = Vec::new();
    for text in outputs {
        resolved.extend(parse(text, &tags, surroundings)?);
    }
    if outputs.is_empty() && (push || !tags.is_empty()) {
        resolved.push(image(&tags));
    }
    if push {
        let mut images = resolved.iter_mut().filter(|output| output.kind == "image").peekable();
        if images.peek().is_none() {
            return Err(CliError::usage("--push needs an image, but none of the outputs is one"));
        }
        for output in images {
            output.attrs.insert("push".to_owned(), "true".to_owned());
        }
    }
    if resolved
        .iter()
        .any(|output| output.is_pushed() && !output.attrs.contains_key("name"))
    {
        return Err(CliError::usage_hint(
            "an image without a name cannot be pushed",
            "name it with -t NAME[:TAG]",
        ));
    }
    if resolved
        .iter()
        .filter(|output| output.destination == Destination::Stdout)
        .count()
        > 1
    {
        return Err(CliError::usage("only one output can go to standard output"));
    }
    Ok(resolved)
}

fn image(tags: &[&str]) -> Output {
    let mut attrs = BTreeMap::new();
    if !tags.is_empty() {
        attrs.insert("name".to_owned(), csv::join(tags.iter().copied()));
    }
    Output {
        kind: "image",
        attrs,
        destination: Destination::Daemon,
    }
}

fn checked_tag(tag: &str) -> Result<&str, CliError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c);
    if tag.is_empty() || tag.starts_with(['-', '/', ':']) || !tag.chars().all(allowed) {
        return Err(CliError::usage(format!("{tag:?} is not the name of an image")));
    }
    Ok(tag)
}

fn parse(text: &str, tags: &[&str], surroundings: &Surroundings) -> Result<Option<Output>, CliError> {
    let invalid = |reason: &str| CliError::usage(format!("invalid --output {text:?}: {reason}"));
    if text.is_empty() {
        return Err(invalid("it is empty"));
    }
    if let Some((kind, dest)) = bare(text) {
        let destination = destination(kind, Some(dest.to_owned()), surroundings).map_err(|e| invalid(&e))?;
        return Ok(kind.exporter().map(|kind| Output {
            kind,
            attrs: BTreeMap::new(),
            destination,
        }));
    }
    let (mut kind, mut dest, mut attrs) = (None, None, BTreeMap::new());
    for (key, value) in csv::pairs("--output", text)? {
        match key.as_str() {
            "type" => kind = value,
            "dest" => dest = Some(value.unwrap_or_default()),
            _ => {
                // A bare `push` is `push=true`, as everywhere in this API.
                attrs.insert(key, value.unwrap_or_else(|| "true".to_owned()));
            }
        }
    }
    let kind = kind.ok_or_else(|| invalid("it has no type"))?;
    let kind = Kind::parse(&kind).ok_or_else(|| {
        invalid(&format!(
            "type {kind:?} is none of image, registry, oci, docker, local, tar, cacheonly"
        ))
    })?;
    if attrs.get("tar").is_some_and(|value| !is_true(value)) && matches!(kind, Kind::Oci | Kind::Docker) {
        return Err(invalid("tar=false is not supported"));
    }
    if kind == Kind::Registry {
        attrs.insert("push".to_owned(), "true".to_owned());
    }
    if kind.is_named() && !tags.is_empty() && !attrs.contains_key("name") {
        attrs.insert("name".to_owned(), csv::join(tags.iter().copied()));
    }
    let destination = destination(kind, dest, surroundings).map_err(|reason| invalid(&reason))?;
    Ok(kind.exporter().map(|kind| Output {
        kind,
        attrs,
        destination,
    }))
}

/// `-o dir` and `-o -`.
fn bare(text: &str) -> Option<(Kind, &str)> {
    match text {
        "-" => Some((Kind::Tar, text)),
        _ if !text.contains('=') && !text.contains(',') => Some((Kind::Local, text)),
        _ => None,
    }
}

fn destination(kind: Kind, dest: Option<String>, surroundings: &Surroundings) -> Result<Destination, String> {
    match (kind, dest.as_deref()) {
        (_, Some("")) => Err("dest is empty".to_owned()),
        (Kind::Image | Kind::Registry | Kind::CacheOnly, None) => Ok(Destination::Daemon),
        (Kind::Image | Kind::Registry | Kind::CacheOnly, Some(_)) => Err("this type has no dest".to_owned()),
        (Kind::Local, None) => Err("type=local needs dest=DIRECTORY".to_owned()),
        (Kind::Local, Some("-")) => Err("a directory cannot go to standard output".to_owned()),
        (Kind::Local, Some(dest)) => {
            let path = surroundings.path(dest);
            if path.exists() && !path.is_dir() {
                return Err(format!("{path:?} is not a directory"));
            }
            Ok(Destination::Directory(path))
        }
        (Kind::Oci | Kind::Docker | Kind::Tar, None | Some("-")) => {
            if surroundings.stdout_is_terminal {
                return Err("an archive is not written to a terminal: redirect it, or give dest=FILE".to_owned());
            }
            Ok(Destination::Stdout)
        }
        (Kind::Oci | Kind::Docker | Kind::Tar, Some(dest)) => {
            let path = surroundings.path(dest);
            if path.is_dir() {
                return Err(format!("{path:?} is a directory"));
            }
            // Found out only when it is written, this would cost the whole build.
            if let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) {
                return Err(format!("there is no directory {dir:?}"));
            }
            Ok(Destination::File(path))
        }
    }
}

/// The daemon's idea of a true option; an empty value is one.
fn is_true(value: &str) -> bool {
    matches!(value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True")
}
