//! The shapes that arguments come in.

use std::borrow::Cow;

use serde_json::Value;

use crate::gofmt;

use super::words;

/// `key=value`, still quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Left of the first `=`.
    pub key: String,
    /// Right of it.
    pub value: String,
}

/// The arguments of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Args {
    /// A JSON array of strings.
    Json(Vec<String>),
    /// Words.
    Words(Vec<String>),
    /// The text as one string; empty if there is none.
    Text(String),
    /// Keys and values; `legacy` is the form `key value`.
    Pairs {
        /// The pairs.
        pairs: Vec<KeyValue>,
        /// Whether the form was `key value`.
        legacy: bool,
    },
    /// A word and what is behind it.
    Typed {
        /// The word; empty if there is none.
        kind: String,
        /// What follows.
        rest: Box<Self>,
    },
    /// Another instruction.
    Nested(Box<super::Node>),
}

impl Default for Args {
    /// None.
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// Parses the exec form. `None` means that the text is not of that form.
fn json(text: &str) -> Option<Result<Vec<String>, String>> {
    if !text.starts_with('[') {
        return None;
    }
    let Ok(Value::Array(items)) = serde_json::from_str(&with_whole_pairs(text)) else {
        return None;
    };
    let strings: Option<Vec<String>> = items
        .into_iter()
        .map(|item| match item {
            Value::String(text) => Some(text),
            _ => None,
        })
        .collect();
    Some(strings.ok_or_else(|| "when using JSON array syntax, arrays must be comprised of strings only".to_owned()))
}

/// JSON with every half of a surrogate pair replaced. Who reads it elsewhere is not strict about them.
fn with_whole_pairs(json: &str) -> Cow<'_, str> {
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
    };
    if !json.contains("\\ud") && !json.contains("\\uD") {
        return json.into();
    }
    let (mut whole, mut rest) = (String::with_capacity(json.len()), json);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        whole.push_str(before);
        let length = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => 0,
            (Some(_), _) => 6,
            (None, _) => escape.chars().take(2).map(char::len_utf8).sum(),
        };
        if length == 0 {
            whole.push_str("\\ufffd");
            rest = &escape[6..];
        } else {
            whole.push_str(&escape[..length]);
            rest = &escape[length..];
        }
    }
    whole.push_str(rest);
    whole.into()
}

pub(super) fn json_or_words(text: &str) -> Result<Args, String> {
    match json(text) {
        Some(strings) => strings.map(Args::Json),
        None => Ok(Args::Words(words::at_blanks(text))),
    }
}

pub(super) fn json_or_text(text: &str) -> Result<Args, String> {
    match json(text) {
        Some(strings) => strings.map(Args::Json),
        None => Ok(Args::Text(text.to_owned())),
    }
}

pub(super) fn typed(text: &str) -> Result<Args, String> {
    let (kind, rest) = match text.find(char::is_whitespace) {
        Some(at) => (&text[..at], text[at..].trim()),
        None => (text, ""),
    };
    Ok(Args::Typed {
        kind: kind.to_owned(),
        rest: Box::new(json_or_text(rest)?),
    })
}

/// `k=v …` or the legacy `k v`. `instruction` is named in errors.
pub(super) fn pairs(text: &str, escape: char, instruction: &str) -> Result<Args, String> {
    let words = words::quoted(text, escape);
    let Some(first) = words.first() else {
        return Ok(Args::Pairs {
            pairs: Vec::new(),
            legacy: false,
        });
    };
    if !first.contains('=') {
        let (key, value) = words::first_word(text);
        if value.is_empty() {
            return Err(format!("{instruction} must have two arguments"));
        }
        let pairs = vec![KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
        }];
        return Ok(Args::Pairs { pairs, legacy: true });
    }
    let pairs = words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Ok(KeyValue {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            None => Err(format!(
                "Syntax error - can't find = in {}. Must be of the form: name=value",
                gofmt::quote(word)
            )),
        })
        .collect::<Result<_, _>>()?;
    Ok(Args::Pairs { pairs, legacy: false })
}
