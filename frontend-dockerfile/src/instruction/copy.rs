//! `COPY` and `ADD`.

use std::collections::HashMap;

use crate::flags::{FlagKind, FlagSpec};
use crate::syntax::{Args, Heredoc, Node};

/// A `COPY` or `ADD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Where to, as written.
    pub dest: String,
    /// `--from`: a stage, an index, a context or an image.
    pub from: Option<String>,
    /// `--chown`, unexpanded.
    pub chown: Option<String>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<String>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `--checksum`, unexpanded.
    pub checksum: Option<String>,
    /// `--unpack`
    pub unpack: Option<bool>,
}

/// Something to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path or URL, unexpanded.
    Word(String),
    /// A file whose content is in the Dockerfile.
    Heredoc(Heredoc),
}

const COPY_FLAGS: &FlagSpec = &[
    ("from", FlagKind::Text),
    ("chown", FlagKind::Text),
    ("chmod", FlagKind::Text),
    ("link", FlagKind::Switch),
    ("parents", FlagKind::Switch),
    ("exclude", FlagKind::List),
];

const ADD_FLAGS: &FlagSpec = &[
    ("chown", FlagKind::Text),
    ("chmod", FlagKind::Text),
    ("link", FlagKind::Switch),
    ("exclude", FlagKind::List),
    ("keep-git-dir", FlagKind::Switch),
    ("checksum", FlagKind::Text),
    ("unpack", FlagKind::Switch),
];

pub(super) fn copy(node: &Node, args: Args) -> Result<Copy, String> {
    parse(node, args, COPY_FLAGS, "COPY")
}

pub(super) fn add(node: &Node, args: Args) -> Result<Copy, String> {
    parse(node, args, ADD_FLAGS, "ADD")
}

fn parse(node: &Node, args: Args, flags: &FlagSpec, word: &str) -> Result<Copy, String> {
    let is_json = matches!(args, Args::Json(_));
    let mut sources = super::list(args);
    let dest = sources
        .pop()
        .filter(|_| !sources.is_empty())
        .ok_or_else(|| too_few(word))?;
    let flags = super::flags(node, flags)?;
    // Of two with the same name the last body counts, for both.
    let heredocs = node.heredocs.iter().map(|heredoc| (heredoc.name.as_str(), heredoc));
    let heredocs: HashMap<&str, &Heredoc> = heredocs.collect();
    let heredoc_for = |word: &str| {
        let own = Heredoc::from_word(word)?;
        match heredocs.get(own.name.as_str()) {
            Some(announced) => Some(Heredoc {
                body: announced.body.clone(),
                ..own
            }),
            // In quotes it announces no body, and is a file without one.
            None if is_json => Some(own),
            None => None,
        }
    };
    if heredoc_for(&dest).is_some() {
        return Err(format!("{word} cannot accept a heredoc as a destination"));
    }
    let source = |word: String| match heredoc_for(&word) {
        Some(heredoc) => CopySource::Heredoc(heredoc),
        None => CopySource::Word(word),
    };
    let sources: Vec<CopySource> = sources.into_iter().map(source).collect();
    let text = |name| flags.text(name).map(str::to_owned);
    check_heredocs(&sources)?;
    Ok(Copy {
        sources,
        dest,
        from: text("from"),
        chown: text("chown"),
        chmod: text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.list("exclude").map(str::to_owned).collect(),
        keep_git_dir: flags.switch("keep-git-dir"),
        checksum: text("checksum"),
        unpack: flags.switch("unpack"),
    })
}

/// Most bytes that one instruction may copy out of the Dockerfile: a large body that is named many times would take all
/// memory there is.
const MAX_HEREDOC_BYTES: usize = 64 << 20;

fn check_heredocs(sources: &[CopySource]) -> Result<(), String> {
    let bodies = sources.iter().map(|source| match source {
        CopySource::Heredoc(heredoc) => heredoc.body.len(),
        CopySource::Word(_) => 0,
    });
    match bodies.sum::<usize>() {
        0..=MAX_HEREDOC_BYTES => Ok(()),
        _ => Err(format!("heredocs come to more than {} MiB", MAX_HEREDOC_BYTES >> 20)),
    }
}

fn too_few(word: &str) -> String {
    format!("{word} requires at least two arguments, but only one was provided. Destination could not be determined")
}
