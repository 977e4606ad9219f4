//! `HEALTHCHECK`.

use std::num::ParseIntError;

use crate::flags::{FlagKind, FlagSpec, Flags};
use crate::gofmt;
use crate::syntax::{Args, Node};

use super::config::{CommandLine, command};

/// How a container's health is found out. Durations are in ns; 0 means inherited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `NONE`, or `CMD` or `CMD-SHELL` with what follows.
    pub test: Vec<String>,
    /// Time between two checks.
    pub interval: i64,
    /// How long one may take.
    pub timeout: i64,
    /// Time for which failures do not count.
    pub start_period: i64,
    /// Time between two checks during that time.
    pub start_interval: i64,
    /// How many failures in a row count.
    pub retries: i64,
}

const FLAGS: &FlagSpec = &[
    ("interval", FlagKind::Text),
    ("timeout", FlagKind::Text),
    ("start-period", FlagKind::Text),
    ("start-interval", FlagKind::Text),
    ("retries", FlagKind::Text),
];

pub(super) fn healthcheck(node: &Node, args: Args) -> Result<Healthcheck, String> {
    let Args::Typed { kind, rest } = args else {
        return Err("HEALTHCHECK requires at least one argument".to_owned());
    };
    let upper = kind.to_uppercase();
    match upper.as_str() {
        "" => Err("HEALTHCHECK requires at least one argument".to_owned()),
        "NONE" => match *rest {
            Args::Text(text) if text.is_empty() => Ok(Healthcheck {
                test: vec!["NONE".to_owned()],
                ..Healthcheck::default()
            }),
            _ => Err("HEALTHCHECK NONE takes no arguments".to_owned()),
        },
        _ => {
            let flags = Flags::parse(&node.flags, FLAGS)?;
            if upper != "CMD" {
                let unknown = gofmt::quote(&upper);
                return Err(format!("Unknown type {unknown} in HEALTHCHECK (try CMD)"));
            }
            Ok(Healthcheck {
                test: test(*rest)?,
                interval: time(&flags, "interval", "Interval")?,
                timeout: time(&flags, "timeout", "Interval")?,
                start_period: time(&flags, "start-period", "Interval")?,
                start_interval: time(&flags, "start-interval", "Interval")?,
                retries: retries(&flags)?,
            })
        }
    }
}

fn test(args: Args) -> Result<Vec<String>, String> {
    let test = match command(args) {
        CommandLine::Exec(items) if !items.is_empty() => [vec!["CMD".to_owned()], items].concat(),
        CommandLine::Shell(text) if !text.is_empty() => vec!["CMD-SHELL".to_owned(), text],
        _ => return Err("Missing command after HEALTHCHECK CMD".to_owned()),
    };
    Ok(test)
}

fn time(flags: &Flags<'_>, name: &str, kind: &str) -> Result<i64, String> {
    let Some(value) = flags.text(name) else { return Ok(0) };
    let nanos = gofmt::parse_duration(value)?;
    if nanos != 0 && nanos < 1_000_000 {
        return Err(format!("{kind} {} cannot be less than 1ms", gofmt::quote(name)));
    }
    Ok(nanos)
}

fn retries(flags: &Flags<'_>) -> Result<i64, String> {
    let Some(value) = flags.text("retries") else {
        return Ok(0);
    };
    let number: i32 = value
        .parse()
        .map_err(|error: ParseIntError| gofmt::parse_int_error(value, &error))?;
    if number < 0 {
        return Err(format!("--retries cannot be negative ({number})"));
    }
    Ok(i64::from(number))
}
