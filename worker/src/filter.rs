//! Filters on records, in containerd's syntax.
//!
//! A filter is a list of terms joined by commas, all of which must hold: `field`, `field==value`, `field!=value` or
//! `field~=regex`; a field is a path such as `labels."a.b"`. Of several filters one must match; an empty one always does.

mod parse;

use cairn_solver::worker::WorkerInfo;
use regex::Regex;

pub use self::parse::FilterError;
use self::parse::Parser;
use crate::service::UsageRecord;

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

impl Filters {
    /// Parses filters.
    ///
    /// # Errors
    /// [`FilterError`] says where.
    pub fn parse(filters: &[String]) -> Result<Self, FilterError> {
        let parsed = filters.iter().map(|filter| Parser::new(filter).filter());
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Whether a record matches, whose fields `field` knows.
    pub fn matches(&self, field: impl Fn(&[&str]) -> Field) -> bool {
        let holds = |term: &Term| {
            let path: Vec<&str> = term.path.iter().map(String::as_str).collect();
            let value = field(&path);
            let text = match &value {
                Field::Text(text) => text,
                Field::Absent | Field::Present => "",
            };
            match &term.test {
                Test::Present => value != Field::Absent,
                Test::Equal(want) => value != Field::Absent && text == want,
                Test::NotEqual(want) => text != want,
                // What is not there is like an empty text.
                Test::Matches(regex) => regex.is_match(text),
            }
        };
        self.0.is_empty() || self.0.iter().any(|terms| terms.iter().all(holds))
    }
}

/// The fields of a usage record.
pub fn usage_field(record: &UsageRecord, path: &[&str]) -> Field {
    let flag = |set: bool| if set { Field::Present } else { Field::Absent };
    let text = |text: String| match text.as_str() {
        "" => Field::Absent,
        _ => Field::Text(text),
    };
    match path {
        ["id"] => text(record.id.clone()),
        ["parents"] => text(record.parents.join(";")),
        ["description"] => text(record.description.clone()),
        ["type"] => text(record.record_type.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filters: &[&str]) -> Result<bool, FilterError> {
        let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
        Ok(Filters::parse(&filters)?.matches(|path| match path {
            ["type"] => Field::Text("regular".to_owned()),
            ["description"] => Field::Text("copy /a/b".to_owned()),
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
            (&["type == regular, mutable"], true),
            (&["type==regular,inuse"], false),
            (&["inuse", "mutable"], true),
            (&["inuse", ""], true),
            (&["labels.\"a.b\"==\"x,y\""], true),
            (&["description~=/\\/a\\/b$/"], true),
            (&["description~=|copy /a|"], true),
            (&["description~=\"^copy \\x2fa\\057b$\""], true),
            (&["parents~=^$"], true),
            (&["parents!=x"], true),
            (&["parents==x"], false),
            (&["mutable!=x"], true),
            (&["mutable==x"], false),
        ] {
            assert_eq!(matches(filters), Ok(want), "{filters:?}");
        }
    }

    #[test]
    fn records_have_no_empty_fields() {
        let record = UsageRecord {
            id: "a".to_owned(),
            mutable: false,
            in_use: false,
            size: 0,
            parents: Vec::new(),
            created_at: std::time::SystemTime::UNIX_EPOCH,
            last_used_at: None,
            usage_count: 1,
            description: String::new(),
            record_type: "regular".to_owned(),
            shared: false,
        };
        for (path, want) in [
            ("id", Field::Text("a".to_owned())),
            ("parents", Field::Absent),
            ("description", Field::Absent),
            ("type", Field::Text("regular".to_owned())),
            ("private", Field::Present),
            ("shared", Field::Absent),
            ("immutable", Field::Present),
            ("other", Field::Absent),
        ] {
            assert_eq!(usage_field(&record, &[path]), want, "{path}");
        }
    }
}
