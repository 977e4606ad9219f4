//! Instructions that only change the image config.

use crate::syntax::{Args, KeyValue, Node, keyword};

/// A command in exec form (`["a", "b"]`) or shell form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// Program and arguments.
    Exec(Vec<String>),
    /// Text for the shell.
    Shell(String),
}

/// A key and a value, still quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

pub(super) fn command_line(node: &Node, args: Args) -> Result<CommandLine, String> {
    super::flags(node, &[])?;
    Ok(command(args))
}

pub(super) fn command(args: Args) -> CommandLine {
    match args {
        Args::Json(items) => CommandLine::Exec(items),
        Args::Text(text) => CommandLine::Shell(text),
        _ => CommandLine::Shell(String::new()),
    }
}

pub(super) fn pairs(node: &Node, args: Args, word: &str) -> Result<Vec<Pair>, String> {
    super::flags(node, &[])?;
    let Args::Pairs { pairs, .. } = args else {
        return Err(format!("{word} requires at least one argument"));
    };
    if pairs.is_empty() {
        return Err(format!("{word} requires at least one argument"));
    }
    if pairs.iter().any(|pair| pair.key.is_empty()) {
        return Err(format!("{word} names can not be blank"));
    }
    let pairs = pairs.into_iter().map(|KeyValue { key, value }| Pair { key, value });
    Ok(pairs.collect())
}

pub(super) fn single(node: &Node, args: Args, word: &str) -> Result<String, String> {
    let text = one_text(args, word)?;
    super::flags(node, &[])?;
    Ok(text)
}

pub(super) fn one_text(args: Args, word: &str) -> Result<String, String> {
    match args {
        Args::Text(text) if !text.is_empty() => Ok(text),
        _ => Err(format!("{word} requires exactly one argument")),
    }
}

pub(super) fn expose(node: &Node, args: Args) -> Result<Vec<String>, String> {
    let mut words = super::list(args);
    if words.is_empty() {
        return Err("EXPOSE requires at least one argument".to_owned());
    }
    super::flags(node, &[])?;
    words.sort();
    Ok(words)
}

pub(super) fn volume(node: &Node, args: Args) -> Result<Vec<String>, String> {
    let paths: Vec<String> = super::list(args).iter().map(|path| path.trim().to_owned()).collect();
    if paths.is_empty() {
        return Err("VOLUME requires at least one argument".to_owned());
    }
    super::flags(node, &[])?;
    if paths.iter().any(String::is_empty) {
        return Err("VOLUME specified can not be an empty string".to_owned());
    }
    Ok(paths)
}

pub(super) fn shell(node: &Node, args: Args) -> Result<Vec<String>, String> {
    super::flags(node, &[])?;
    match args {
        Args::Json(items) if !items.is_empty() => Ok(items),
        Args::Text(text) if !text.is_empty() => Err("SHELL requires the arguments to be in JSON form".to_owned()),
        _ => Err("SHELL requires at least one argument".to_owned()),
    }
}

/// The text of the trigger, as images carry it: the instruction, then its here-documents.
pub(super) fn onbuild(node: &Node, args: Args) -> Result<String, String> {
    let Args::Nested(inner) = args else {
        return Err("ONBUILD requires at least one argument".to_owned());
    };
    super::flags(node, &[])?;
    match keyword(inner.word()) {
        "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        word @ ("MAINTAINER" | "FROM") => return Err(format!("{word} isn't allowed as an ONBUILD trigger")),
        _ => {}
    }
    let mut text = node.rest().to_owned();
    for heredoc in &inner.heredocs {
        text.push('\n');
        text.push_str(&heredoc.body);
        text.push_str(&heredoc.name);
    }
    Ok(text)
}
