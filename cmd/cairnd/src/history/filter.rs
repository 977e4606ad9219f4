//! Which records a listener wants.
//!
//! Of several filters one must match. A filter is a line of comma separated terms, all of which must hold: `ref`,
//! `status` and `repository` in containerd's syntax, and `startedAt`, `completedAt` and `duration` compared with a
//! point in time, or with a length of time, which is how long ago something was.

use std::time::{Duration, SystemTime};

use cairn_proto::control::BuildHistoryRecord;
use cairn_worker::filter::{Field, FilterError, Filters};

use crate::config;

/// Filters of a listener; none match everything.
pub(super) struct RecordFilters(Vec<RecordFilter>);

struct RecordFilter {
    terms: Filters,
    times: Vec<Comparison>,
}

struct Comparison {
    subject: Subject,
    operator: Operator,
    /// Nanoseconds since the epoch, or of a duration.
    value: i128,
}

#[derive(Clone, Copy)]
enum Subject {
    Started,
    Completed,
    Duration,
}

#[derive(Clone, Copy)]
enum Operator {
    AtLeast,
    AtMost,
    More,
    Less,
}

/// Longest first, so that none is taken for the beginning of another.
const OPERATORS: [(&str, Operator); 4] = [
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    (">", Operator::More),
    ("<", Operator::Less),
];

/// Text that is no filter.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordFilterError {
    #[error("failed to parse history filters {filter}: {source}")]
    Term { filter: String, source: FilterError },
    #[error("failed to parse history filters {0}: extraneous or missing \" in quoted-field")]
    Quote(String),
    #[error("invalid time {0}")]
    Time(String),
    #[error("invalid duration {0}")]
    Duration(String),
}

impl RecordFilters {
    /// Parses filters; lengths of time before now are taken from `now`.
    pub(super) fn parse(filters: &[String], now: SystemTime) -> Result<Self, RecordFilterError> {
        let parsed = filters.iter().map(|filter| RecordFilter::parse(filter, now));
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// Whether a record matches.
    pub(super) fn matches(&self, record: &BuildHistoryRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| filter.matches(record))
    }
}

impl RecordFilter {
    fn parse(filter: &str, now: SystemTime) -> Result<Self, RecordFilterError> {
        let fields = fields(filter).ok_or_else(|| RecordFilterError::Quote(filter.to_owned()))?;
        let mut times = Vec::new();
        let mut terms = Vec::new();
        for field in fields {
            match Comparison::parse(&field, now)? {
                Some(comparison) => times.push(comparison),
                None => terms.push(field),
            }
        }
        let terms = Filters::parse(&[terms.join(",")]).map_err(|source| RecordFilterError::Term {
            filter: filter.to_owned(),
            source,
        })?;
        Ok(Self { terms, times })
    }

    fn matches(&self, record: &BuildHistoryRecord) -> bool {
        self.times.iter().all(|comparison| comparison.holds(record))
            && self.terms.matches(|path| match path {
                ["ref"] => text(Some(&record.r#ref)),
                ["status"] => Field::Text(status(record).to_owned()),
                ["repository"] => text(repository(record).as_ref()),
                _ => Field::Absent,
            })
    }
}

impl Comparison {
    /// The comparison in a term, if it is one.
    fn parse(term: &str, now: SystemTime) -> Result<Option<Self>, RecordFilterError> {
        let found = OPERATORS
            .iter()
            .find_map(|(sign, operator)| term.split_once(sign).map(|(name, value)| (name, *operator, value)));
        let Some((name, operator, value)) = found else {
            return Ok(None);
        };
        let subject = match name {
            "startedAt" => Subject::Started,
            "completedAt" => Subject::Completed,
            "duration" => Subject::Duration,
            _ => return Ok(None),
        };
        let duration = config::go_duration(value);
        let value = match (subject, duration) {
            (Subject::Duration, Some(duration)) => nanoseconds(duration),
            (Subject::Duration, None) => return Err(RecordFilterError::Duration(value.to_owned())),
            (_, Some(ago)) => since_epoch(now) - nanoseconds(ago),
            (_, None) => match value.parse::<jiff::Timestamp>() {
                Ok(time) => time.as_nanosecond(),
                Err(_) => return Err(RecordFilterError::Time(value.to_owned())),
            },
        };
        Ok(Some(Self {
            subject,
            operator,
            value,
        }))
    }

    fn holds(&self, record: &BuildHistoryRecord) -> bool {
        let wire = |time: &prost_types::Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        let started = record.created_at.as_ref().map_or(0, wire);
        // What has not ended yet counts as having taken no time.
        let value = match (self.subject, record.completed_at.as_ref()) {
            (Subject::Started, _) => started,
            (Subject::Completed | Subject::Duration, None) => 0,
            (Subject::Completed, Some(completed)) => wire(completed),
            (Subject::Duration, Some(completed)) => wire(completed) - started,
        };
        match self.operator {
            Operator::AtLeast => value >= self.value,
            Operator::AtMost => value <= self.value,
            Operator::More => value > self.value,
            Operator::Less => value < self.value,
        }
    }
}

fn text(value: Option<&String>) -> Field {
    let value = value.filter(|value| !value.is_empty());
    value.map_or(Field::Absent, |value| Field::Text(value.clone()))
}

/// How a build is doing, or did, in one word.
fn status(record: &BuildHistoryRecord) -> &'static str {
    match (&record.completed_at, &record.error) {
        (None, _) => "running",
        (Some(_), None) => "completed",
        (Some(_), Some(error)) if error.message.contains("context canceled") => "canceled",
        (Some(_), Some(_)) => "error",
    }
}

/// Where the sources are from: what the client says, or the remote context.
fn repository(record: &BuildHistoryRecord) -> Option<String> {
    let attrs = &record.frontend_attrs;
    if let Some(source) = attrs.get("vcs:source") {
        return Some(source.clone());
    }
    let context = attrs.get("context")?;
    let is_remote = context.contains("://") || context.split_once(':').is_some_and(|(host, _)| host.contains('@'));
    let remote = context.split(['#', '?']).next()?;
    is_remote.then(|| remote.to_owned())
}

fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

fn since_epoch(time: SystemTime) -> i128 {
    nanoseconds(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// The fields of a line of comma separated values: a field may stand in quotes, in which a double quote means one.
/// None if a quote does not end.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            loop {
                let (part, after) = rest.split_once('"')?;
                field.push_str(part);
                rest = after;
                match rest.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        rest = after;
                    }
                    None => break,
                }
            }
        }
        let end = rest.find(',').unwrap_or(rest.len());
        field.push_str(&rest[..end]);
        fields.push(field);
        match rest.get(end + 1..) {
            Some(after) => rest = after,
            None => return Some(fields),
        }
    }
}

/// Parses filters, and asks them about a record that knows nothing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_filters(filters: &[String], now: SystemTime) {
    if let Ok(filters) = RecordFilters::parse(filters, now) {
        filters.matches(&BuildHistoryRecord::default());
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::rpc;

    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn record() -> BuildHistoryRecord {
        BuildHistoryRecord {
            r#ref: "abc".to_owned(),
            created_at: at(1_000_000),
            completed_at: at(1_000_090),
            frontend_attrs: [("context".to_owned(), "https://example.com/a.git#main".to_owned())].into(),
            ..BuildHistoryRecord::default()
        }
    }

    fn matches(filters: &[&str], record: &BuildHistoryRecord) -> bool {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_003_600);
        let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
        RecordFilters::parse(&filters, now).unwrap().matches(record)
    }

    #[test]
    fn table() {
        for (filters, want) in [
            (&[] as &[&str], true),
            (&["ref==abc"], true),
            (&["ref==x"], false),
            (&["ref==x", "ref==abc"], true),
            (&["ref==abc,status==error"], false),
            (&["status==completed"], true),
            (&["status!=completed"], false),
            (&["status~=^comp"], true),
            (&["repository==https://example.com/a.git"], true),
            (&["repository~=example"], true),
            (&["\"repository~=example\",ref==abc"], true),
            (&["other==abc"], false),
            (&["duration>1m"], true),
            (&["duration>90s"], false),
            (&["duration>=90s"], true),
            (&["duration<1m30s"], false),
            (&["duration<=1m30s"], true),
            // An hour ago.
            (&["startedAt>1h"], false),
            (&["startedAt>=1h"], true),
            (&["startedAt<59m"], true),
            (&["completedAt>1h"], true),
            (&["startedAt>1970-01-12T00:00:00Z"], true),
            (&["startedAt<1970-01-12T00:00:00Z,ref==abc"], false),
        ] {
            assert_eq!(matches(filters, &record()), want, "{filters:?}");
        }
    }

    #[test]
    fn status_is_one_word() {
        let failed = |message: &str| BuildHistoryRecord {
            error: Some(rpc::Status {
                message: message.to_owned(),
                ..rpc::Status::default()
            }),
            ..record()
        };
        let running = BuildHistoryRecord {
            completed_at: None,
            ..record()
        };
        for (record, want) in [
            (running, "running"),
            (record(), "completed"),
            (failed("exit code: 1"), "error"),
            (failed("build: context canceled"), "canceled"),
        ] {
            assert_eq!(status(&record), want);
            assert!(matches(&[&format!("status=={want}")], &record));
        }
    }

    #[test]
    fn the_clients_word_for_the_repository_counts() {
        let mut record = record();
        record.frontend_attrs.insert("vcs:source".to_owned(), "here".to_owned());
        assert_eq!(repository(&record).as_deref(), Some("here"));
        for (context, want) in [
            ("git@example.com:a.git", Some("git@example.com:a.git")),
            ("https://example.com/a?ref=b", Some("https://example.com/a")),
            ("local", None),
            (".", None),
        ] {
            record.frontend_attrs = [("context".to_owned(), context.to_owned())].into();
            assert_eq!(repository(&record).as_deref(), want, "{context}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for filter in [
            "ref=x",
            "\"ref==x",
            "startedAt>soon",
            "duration>2020-01-01T00:00:00Z",
            "==",
            "status==",
        ] {
            let parsed = RecordFilters::parse(&[filter.to_owned()], SystemTime::UNIX_EPOCH);
            assert!(parsed.is_err(), "{filter}");
        }
    }
}
