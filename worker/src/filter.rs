//! Filters on records, in containerd's syntax.
//!
//! A filter is a list of terms joined by commas, all of which must hold: `field`, `field==value`, `field!=value` or
//! `field~=regex`; a field is a path such as `labels."a.b"`. Of several filters one must match.

use crate::service::UsageRecord;
use cairn_solver::worker::WorkerInfo;
use regex::Regex;

/// A list of filters. An empty one matches everything.
#[derive(Debug, Default)]
pub struct Filters(Vec<Vec<Term>>);

#[derive(Debug)]
struct Term {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// Value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// There is none, or it is false.
    Absent,
    /// A flag that is set.
    Present,
    /// Text.
    Text(String),
}

/// Text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse error in filter {filter:?} at character {position}: {message}")]
pub struct FilterError {
    filter: String,
    position: usize,
    message: String,
}

impl Filters {
    /// Parses filters.
    ///
    /// # Errors
    /// [`FilterError`] says where.
    pub fn parse(filters: &[String]) -> Result<Self, FilterError> {
        let parsed = filters.iter().filter(|filter| !filter.trim().is_empty());
        let parsed = parsed.map(|filter| Parser::new(filter).filter());
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Whether a record matches, whose fields `field` knows.
    pub fn matches(&self, field: impl Fn(&[&str]) -> Field) -> bool {
        let holds = |term: &Term| {
            let path: Vec<&str> = term.path.iter().map(String::as_str).collect();
            let value = field(&path);
            match (&term.test, &value) {
                (Test::Present, value) => *value != Field::Absent,
                (Test::Equal(want), Field::Text(value)) => value == want,
                (Test::NotEqual(want), Field::Text(value)) => value != want,
                (Test::Matches(regex), Field::Text(value)) => regex.is_match(value),
                (Test::NotEqual(_), _) => true,
                _ => false,
            }
        };
        self.0.is_empty() || self.0.iter().any(|terms| terms.iter().all(holds))
    }
}

/// The fields of a usage record.
pub fn usage_field(record: &UsageRecord, path: &[&str]) -> Field {
    let flag = |set: bool| if set { Field::Present } else { Field::Absent };
    match path {
        ["id"] => Field::Text(record.id.clone()),
        ["parents"] => Field::Text(record.parents.join(";")),
        ["description"] => Field::Text(record.description.clone()),
        ["type"] => Field::Text(record.record_type.clone()),
        ["inuse"] => flag(record.in_use),
        ["mutable"] => flag(record.mutable),
        ["immutable"] => flag(!record.mutable),
        ["shared"] => flag(record.shared),
        ["private"] => flag(!record.shared),
        _ => Field::Absent,
    }
}

/// The fields of a worker.
pub fn worker_field(worker: &WorkerInfo, path: &[&str]) -> Field {
    match path {
        ["id"] => Field::Text(worker.id.clone()),
        ["labels", name] => {
            let value = worker.labels.get(*name);
            value.map_or(Field::Absent, |value| Field::Text(value.clone()))
        }
        _ => Field::Absent,
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, message: impl Into<String>) -> FilterError {
        FilterError {
            filter: self.text.to_owned(),
            position: self.text[..self.at].chars().count(),
            message: message.into(),
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn filter(mut self) -> Result<Vec<Term>, FilterError> {
        let mut terms = vec![self.term()?];
        while self.eat(",") {
            terms.push(self.term()?);
        }
        if self.rest().is_empty() {
            Ok(terms)
        } else {
            Err(self.error("expected \",\" or the end"))
        }
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let mut path = vec![self.word("a field name", |c| c.is_alphanumeric() || matches!(c, '_' | '-'))?];
        while self.eat(".") {
            path.push(self.word("a field name", |c| c.is_alphanumeric() || matches!(c, '_' | '-' | '/'))?);
        }
        let value = |parser: &mut Self| parser.word("a value", |c| c != ',' && c != '"');
        let test = match self.operator()? {
            "==" => Test::Equal(value(self)?),
            "!=" => Test::NotEqual(value(self)?),
            "~=" => {
                let pattern = value(self)?;
                Test::Matches(Regex::new(&pattern).map_err(|error| self.error(error.to_string()))?)
            }
            _ => Test::Present,
        };
        Ok(Term { path, test })
    }

    /// One of the operators, as long as it goes; none where there is no test.
    fn operator(&mut self) -> Result<&'a str, FilterError> {
        let rest = self.rest();
        let end = rest.find(|c| !matches!(c, '=' | '!' | '~')).unwrap_or(rest.len());
        let operator = &rest[..end];
        if !matches!(operator, "" | "==" | "!=" | "~=") {
            return Err(self.error(format!("unsupported operator {operator:?}")));
        }
        self.at += end;
        Ok(operator)
    }

    /// A quoted text, or the longest run of `allowed` characters.
    fn word(&mut self, what: &str, allowed: impl Fn(char) -> bool) -> Result<String, FilterError> {
        if self.eat("\"") {
            return self.quoted();
        }
        let rest = self.rest();
        let end = rest.find(|c| !allowed(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.error(format!("expected {what}")));
        }
        self.at += end;
        Ok(rest[..end].to_owned())
    }

    fn quoted(&mut self) -> Result<String, FilterError> {
        let mut text = String::new();
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices() {
            match c {
                '"' if !escaped => {
                    self.at += offset + 1;
                    return Ok(text);
                }
                '\\' if !escaped => escaped = true,
                c => {
                    text.push(c);
                    escaped = false;
                }
            }
        }
        Err(self.error("a quote that does not end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filters: &[&str]) -> Result<bool, FilterError> {
        let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
        Ok(Filters::parse(&filters)?.matches(|path| match path {
            ["type"] => Field::Text("regular".to_owned()),
            ["labels", "a.b"] => Field::Text("x,y".to_owned()),
            ["mutable"] => Field::Present,
            _ => Field::Absent,
        }))
    }

    #[test]
    fn table() {
        for (filters, want) in [
            (&[] as &[&str], true),
            (&["type==regular"], true),
            (&["type==other"], false),
            (&["type!=other"], true),
            (&["type~=^reg"], true),
            (&["mutable"], true),
            (&["inuse"], false),
            (&["type==regular,mutable"], true),
            (&["type==regular,inuse"], false),
            (&["inuse", "mutable"], true),
            (&["labels.\"a.b\"==\"x,y\""], true),
        ] {
            assert_eq!(matches(filters), Ok(want), "{filters:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for filter in [
            "==x",
            "type==",
            "type~=(",
            "type==\"x",
            "a b",
            "type=x",
            "type===x",
            "type=!x",
            "a.,b",
        ] {
            assert!(matches(&[filter]).is_err(), "{filter}");
        }
    }
}
