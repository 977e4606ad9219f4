//! `cairn why`, and what `cairn build --explain` says.

use std::time::SystemTime;

use cairn_client::{Client, ClientError};
use cairn_proto::explain::{Build, Cause, Explanation, Link, Verdict, WhyResponse};
use serde_json::{Value, json};

use super::Failure;
use crate::args::{WhyArgs, WhyFormat};
use crate::error::CliError;
use crate::quantity;
use crate::ui::{self, table, text::clean};

/// A shorter text is not taken for the beginning of an id.
const MIN_ID: usize = 6;

/// Answers why steps of a build ran.
pub(super) async fn run(client: &Client, args: &WhyArgs) -> Result<(), Failure> {
    if args.list {
        let builds = client.list_builds().await.map_err(refused)?;
        let text = match args.format {
            WhyFormat::Text => list(&builds, SystemTime::now()),
            WhyFormat::Json => line(&Value::from_iter(builds.iter().map(build_json))),
        };
        return Ok(ui::print(&text)?);
    }
    let (build, step) = match (args.build.as_deref(), args.step.as_deref()) {
        (Some(build), Some(step)) => (build, step),
        (Some(one), None) if is_build(client, one).await? => (one, ""),
        (step, None) => ("", step.unwrap_or_default()),
        (None, Some(step)) => ("", step),
    };
    let answer = client.why(build, step).await.map_err(refused)?;
    let text = match args.format {
        WhyFormat::Json => line(&answer_json(&answer)),
        WhyFormat::Text if step.is_empty() => brief(&answer),
        WhyFormat::Text => answer.explanations.iter().map(full).collect(),
    };
    Ok(ui::print(&text)?)
}

/// The causes of all steps of a build that ran.
pub(super) async fn explain(client: &Client, build: &str) -> Result<String, CliError> {
    let answer = client.why(build, "").await.map_err(refused)?;
    Ok(brief(&answer))
}

/// Whether `text` begins the id of a build that is remembered.
async fn is_build(client: &Client, text: &str) -> Result<bool, CliError> {
    let is_id = |c: char| c.is_ascii_alphanumeric();
    if text.len() < MIN_ID || !text.chars().all(is_id) {
        return Ok(false);
    }
    let builds = client.list_builds().await.map_err(refused)?;
    Ok(builds.iter().any(|build| build.id.starts_with(text)))
}

/// Other daemons of the same API cannot be asked.
fn refused(error: ClientError) -> CliError {
    match error.daemon_error() {
        Some(cause) if cause.is_unimplemented() => CliError::usage_hint(
            "the daemon does not explain builds",
            "only cairnd does; ask one, or leave out --addr to use the daemon inside this program",
        ),
        _ => error.into(),
    }
}

fn list(builds: &[Build], now: SystemTime) -> String {
    let row = |build: &Build| {
        let ended = SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(build.ended));
        let age = ended
            .and_then(|ended| now.duration_since(ended).ok())
            .unwrap_or_default();
        let ran = format!("{} of {}", build.ran, build.steps);
        let outcome = if build.error.is_empty() { "ok" } else { "failed" };
        vec![clean(&build.id), quantity::ago(age), ran, outcome.to_owned()]
    };
    let rows: Vec<Vec<String>> = builds.iter().map(row).collect();
    table::render(&["BUILD", "ENDED", "RAN", "OUTCOME"], &rows)
}

/// Every step that ran, in one line each.
fn brief(answer: &WhyResponse) -> String {
    let mut text = String::new();
    if let Some(build) = &answer.build {
        text = format!(
            "build {}: {} of {} steps ran\n",
            clean(&build.id),
            build.ran,
            build.steps
        );
    }
    for step in &answer.explanations {
        let failed = if step.failed { " (failed)" } else { "" };
        text.push_str(&format!(
            "#{} {}{failed}: {}\n",
            step.number,
            clean(&step.name),
            first_cause(step)
        ));
    }
    text
}

fn first_cause(step: &Explanation) -> String {
    let own = step.causes.first();
    let root = step.chain.last();
    match (own, root) {
        (None, _) if step.failed && step.verdict() != Verdict::Ran => "failed before it could run".to_owned(),
        (None, _) => "ran".to_owned(),
        (Some(own), None) => told(own),
        // That what it is built on changed says nothing that the root does not.
        (Some(own), Some(root)) if own.kind == "input" => because(root),
        (Some(own), Some(root)) => format!("{}, {}", told(own), because(root)),
    }
}

fn because(link: &Link) -> String {
    let cause = link.causes.first().map(told).unwrap_or_default();
    format!("because of {}: {cause}", clean(&link.name))
}

/// Everything about one step.
fn full(step: &Explanation) -> String {
    let place = if step.file.is_empty() {
        String::new()
    } else {
        format!(" ({}:{})", clean(&step.file), step.line)
    };
    let verdict = match step.verdict() {
        Verdict::NotNeeded => "was not needed",
        Verdict::Cached => "was cached: what it depends on is what it was before",
        Verdict::Received => "was received",
        Verdict::Ran => "ran",
    };
    let failed = if step.failed { ", and failed" } else { "" };
    let mut text = format!("#{} {}{place} {verdict}{failed}\n", step.number, clean(&step.name));
    for cause in &step.causes {
        text.push_str(&format!("  {}\n", told(cause)));
        for file in cause.files.iter().skip(3) {
            text.push_str(&format!("    {}\n", clean(&file.text)));
        }
    }
    let half = step.chain.len() / 2;
    for (at, link) in step.chain.iter().enumerate() {
        if step.links_left_out > 0 && at == half {
            text.push_str(&format!("    … {} steps between\n", step.links_left_out));
        }
        text.push_str(&format!("    {}\n", because(link)));
    }
    text
}

/// A cause in words, with the time if there is one.
fn told(cause: &Cause) -> String {
    let at = i64::try_from(cause.at).ok().filter(|&at| at > 0);
    let at = at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let text = clean(&cause.text);
    match at {
        Some(at) => format!("{text}, at {}", at.strftime("%Y-%m-%d %H:%M:%S UTC")),
        None => text,
    }
}

fn line(json: &Value) -> String {
    format!("{json}\n")
}

fn answer_json(answer: &WhyResponse) -> Value {
    json!({
        "build": answer.build.as_ref().map(build_json),
        "steps": answer.explanations.iter().map(step_json).collect::<Vec<_>>(),
    })
}

fn build_json(build: &Build) -> Value {
    json!({
        "id": build.id,
        "started": build.started,
        "ended": build.ended,
        "error": build.error,
        "steps": build.steps,
        "ran": build.ran,
    })
}

fn step_json(step: &Explanation) -> Value {
    let verdict = match step.verdict() {
        Verdict::NotNeeded => "not-needed",
        Verdict::Cached => "cached",
        Verdict::Received => "received",
        Verdict::Ran => "ran",
    };
    json!({
        "number": step.number,
        "vertex": step.vertex,
        "name": step.name,
        "file": step.file,
        "line": step.line,
        "verdict": verdict,
        "failed": step.failed,
        "causes": step.causes.iter().map(cause_json).collect::<Vec<_>>(),
        "chain": step.chain.iter().map(|link| json!({
            "name": link.name,
            "causes": link.causes.iter().map(cause_json).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "links_left_out": step.links_left_out,
    })
}

/// A cause; what it does not have is left out.
fn cause_json(cause: &Cause) -> Value {
    let mut fields = serde_json::Map::new();
    fields.insert("kind".to_owned(), cause.kind.as_str().into());
    fields.insert("text".to_owned(), cause.text.as_str().into());
    let name = (!cause.name.is_empty()).then_some(&cause.name);
    for (key, value) in [("name", name), ("old", cause.old.as_ref()), ("new", cause.new.as_ref())] {
        if let Some(value) = value {
            fields.insert(key.to_owned(), value.as_str().into());
        }
    }
    if cause.at > 0 {
        fields.insert("at".to_owned(), cause.at.into());
    }
    if !cause.files.is_empty() {
        let files = cause
            .files
            .iter()
            .map(|file| json!({"path": file.path, "kind": file.kind, "text": file.text}));
        fields.insert("files".to_owned(), files.collect());
        fields.insert("more_files".to_owned(), cause.more_files.into());
    }
    fields.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(kind: &str, text: &str) -> Cause {
        Cause {
            kind: kind.to_owned(),
            text: text.to_owned(),
            ..Cause::default()
        }
    }

    fn link(name: &str, causes: Vec<Cause>) -> Link {
        Link {
            name: name.to_owned(),
            causes,
        }
    }

    fn answer() -> WhyResponse {
        let ran = |number, name: &str, causes, chain| Explanation {
            number,
            name: name.to_owned(),
            file: "Dockerfile".to_owned(),
            line: number,
            verdict: Verdict::Ran.into(),
            causes,
            chain,
            ..Explanation::default()
        };
        let argument = cause("argument", "argument `V` 1 → 2");
        let gone = Cause {
            at: 1_700_000_000_000,
            ..cause("evicted", "its result was evicted: pruned on request")
        };
        let root = link("[1/3] RUN a", vec![argument.clone()]);
        WhyResponse {
            build: Some(Build {
                id: "b1".to_owned(),
                steps: 5,
                ran: 3,
                ..Build::default()
            }),
            explanations: vec![
                ran(2, "[1/3] RUN a", vec![argument], Vec::new()),
                ran(3, "[2/3] RUN b", vec![cause("input", "built on x")], vec![root.clone()]),
                ran(4, "[3/3] COPY c", vec![cause("files", "`c` changed")], vec![root]),
                ran(5, "other", vec![gone], Vec::new()),
            ],
        }
    }

    #[test]
    fn each_step_has_a_line() {
        insta::assert_snapshot!(brief(&answer()), @r"
        build b1: 3 of 5 steps ran
        #2 [1/3] RUN a: argument `V` 1 → 2
        #3 [2/3] RUN b: because of [1/3] RUN a: argument `V` 1 → 2
        #4 [3/3] COPY c: `c` changed, because of [1/3] RUN a: argument `V` 1 → 2
        #5 other: its result was evicted: pruned on request, at 2023-11-14 22:13:20 UTC
        ");
    }

    #[test]
    fn one_step_is_told_in_full() {
        let mut step = answer().explanations.swap_remove(2);
        step.links_left_out = 7;
        step.chain
            .push(link("[0/3] FROM x", vec![cause("new", "never built before")]));
        insta::assert_snapshot!(full(&step), @r"
        #4 [3/3] COPY c (Dockerfile:4) ran
          `c` changed
            because of [1/3] RUN a: argument `V` 1 → 2
            … 7 steps between
            because of [0/3] FROM x: never built before
        ");
    }

    #[test]
    fn json_holds_what_there_is() {
        let step = &answer().explanations[3];
        assert_eq!(
            cause_json(&step.causes[0]).to_string(),
            r#"{"at":1700000000000,"kind":"evicted","text":"its result was evicted: pruned on request"}"#
        );
    }
}
