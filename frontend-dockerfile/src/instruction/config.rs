//! Instructions that only change the image config.

use crate::syntax::{Args, Node, keyword};

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

pub(super) fn command_line(node: &Node) -> Result<CommandLine, String> {
    super::flags(node, &[])?;
    Ok(command(&node.args))
}

pub(super) fn command(args: &Args) -> CommandLine {
    match args {
        Args::Json(items) => CommandLine::Exec(items.clone()),
        Args::Text(text) => CommandLine::Shell(text.clone()),
        _ => CommandLine::Shell(String::new()),
    }
}

pub(super) fn pairs(node: &Node, word: &str) -> Result<Vec<Pair>, String> {
    super::flags(node, &[])?;
    let Args::Pairs { pairs, .. } = &node.args else {
        return Err(format!("{word} requires at least one argument"));
    };
    if pairs.is_empty() {
        return Err(format!("{word} requires at least one argument"));
    }
    if pairs.iter().any(|pair| pair.key.is_empty()) {
        return Err(format!("{word} names can not be blank"));
    }
    Ok(pairs
        .iter()
        .map(|pair| Pair {
            key: pair.key.clone(),
            value: pair.value.clone(),
        })
        .collect())
}

pub(super) fn single(node: &Node, word: &str) -> Result<String, String> {
    super::flags(node, &[])?;
    one_text(node, word)
}

pub(super) fn one_text(node: &Node, word: &str) -> Result<String, String> {
    match &node.args {
        Args::Text(text) if !text.is_empty() => Ok(text.clone()),
        _ => Err(format!("{word} requires exactly one argument")),
    }
}

pub(super) fn expose(node: &Node) -> Result<Vec<String>, String> {
    super::flags(node, &[])?;
    let mut words = super::list(node);
    if words.is_empty() {
        return Err("EXPOSE requires at least one argument".to_owned());
    }
    words.sort();
    Ok(words)
}

pub(super) fn volume(node: &Node) -> Result<Vec<String>, String> {
    super::flags(node, &[])?;
    let paths: Vec<String> = super::list(node).iter().map(|path| path.trim().to_owned()).collect();
    if paths.is_empty() {
        return Err("VOLUME requires at least one argument".to_owned());
    }
    if paths.iter().any(String::is_empty) {
        return Err("VOLUME specified can not be an empty string".to_owned());
    }
    Ok(paths)
}

pub(super) fn shell(node: &Node) -> Result<Vec<String>, String> {
    super::flags(node, &[])?;
    match &node.args {
        Args::Json(items) if !items.is_empty() => Ok(items.clone()),
        Args::Text(text) if !text.is_empty() => Err("SHELL requires the arguments to be in JSON form".to_owned()),
        _ => Err("SHELL requires at least one argument".to_owned()),
    }
}

/// The text of the trigger, as images carry it: the instruction, then its here-documents.
pub(super) fn onbuild(node: &Node) -> Result<String, String> {
    super::flags(node, &[])?;
    let Args::Nested(inner) = &node.args else {
        return Err("ONBUILD requires at least one argument".to_owned());
    };
    match keyword(&inner.word) {
        "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        word @ ("MAINTAINER" | "FROM") => return Err(format!("{word} isn't allowed as an ONBUILD trigger")),
        _ => {}
    }
    let mut text = node.rest.clone();
    for heredoc in &inner.heredocs {
        text.push('\n');
        text.push_str(&heredoc.body);
        text.push_str(&heredoc.name);
    }
    Ok(text)
}
