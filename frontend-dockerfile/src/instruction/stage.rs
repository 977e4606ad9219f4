//! `FROM` and `ARG`: what stages are made of.

use crate::flags::FlagKind;
use crate::gofmt;
use crate::syntax::{Args, Node};

/// `FROM [--platform=P] <base> [AS <name>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The base as written.
    pub base: String,
    /// The stage's name, lower-case.
    pub name: Option<String>,
    /// `--platform` as written.
    pub platform: Option<String>,
}

/// One name of an `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDecl {
    /// The name as written; quotes are part of it.
    pub name: String,
    /// The default as written, if there is one.
    pub default: Option<String>,
}

pub(super) fn from(node: &Node, args: Args) -> Result<From, String> {
    let mut words = super::list(args).into_iter();
    let words = (words.next(), words.next(), words.next(), words.next());
    let (base, name) = match words {
        (Some(base), None, ..) => (base, None),
        (Some(base), Some(keyword), Some(name), None) if keyword.eq_ignore_ascii_case("as") => {
            (base, Some(stage_name(&name)?))
        }
        _ => return Err("FROM requires either one or three arguments".to_owned()),
    };
    let flags = super::flags(node, &[("platform", FlagKind::Text)])?;
    Ok(From {
        base,
        name,
        platform: flags.text("platform").map(str::to_owned),
    })
}

fn stage_name(written: &str) -> Result<String, String> {
    let name = written.to_lowercase();
    let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
    if valid {
        return Ok(name);
    }
    Err(format!(
        "invalid name for build stage: {}, name can't start with a number or contain symbols",
        gofmt::quote(written)
    ))
}

/// Flag words of `ARG` have always been dropped without a word.
pub(super) fn arg(args: Args) -> Result<Vec<ArgDecl>, String> {
    let Args::Words(words) = args else {
        return Err("ARG requires at least one argument".to_owned());
    };
    if words.is_empty() {
        return Err("ARG requires at least one argument".to_owned());
    }
    words
        .iter()
        .map(|word| {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (word.as_str(), None),
            };
            if name.is_empty() {
                return Err("ARG names can not be blank".to_owned());
            }
            Ok(ArgDecl {
                name: name.to_owned(),
                default,
            })
        })
        .collect()
}
