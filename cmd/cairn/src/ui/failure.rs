//! Saying what went wrong: what failed, its last words, the place in the Dockerfile, and what to do next.

use std::error::Error;

use cairn_client::{ClientError, DaemonError, Progress, Vertex, VertexState};

use super::text::clean;
use super::{Theme, excerpt};
use crate::error::CliError;

/// Lines of a failed step's output that are repeated.
const LOG_LINES: usize = 20;
const RULE: &str = "------";

/// The whole report.
pub(crate) fn render(error: &CliError, progress: Option<&Progress>, theme: &Theme) -> String {
    let mut report = String::new();
    let told = match error {
        CliError::Client(error) => error.daemon_error(),
        _ => None,
    };
    if matches!(error, CliError::Client(ClientError::Cancelled)) {
        return cancelled(progress, theme);
    }
    if let Some(told) = told {
        let vertex = progress.and_then(|progress| failed_vertex(told, progress));
        report.extend(vertex.and_then(|vertex| last_words(vertex, theme)));
        report.extend(told.details.sources.iter().find_map(excerpt::render));
    }
    report.push_str(&format!("{}: {}\n", theme.alarm("error"), chain(error)));
    if let Some(hint) = hint(error) {
        report.push_str(&format!("{}: {hint}\n", theme.strong("hint")));
    }
    report
}

/// The error and its causes, each said once.
fn chain(error: &CliError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    let lines: Vec<String> = text.lines().map(clean).collect();
    lines.join("\n  ")
}

/// The vertex that the error names, or the one that says it failed.
fn failed_vertex<'a>(error: &DaemonError, progress: &'a Progress) -> Option<&'a Vertex> {
    let named = error.details.vertex.as_ref().and_then(|digest| progress.vertex(digest));
    let failed = || {
        progress
            .vertices()
            .iter()
            .find(|vertex| vertex.state() == VertexState::Failed)
    };
    named.or_else(failed)
}

fn last_words(vertex: &Vertex, theme: &Theme) -> Option<String> {
    if vertex.log.is_empty() {
        return None;
    }
    let mut words = format!("{RULE}\n > {}:\n", theme.strong(&clean(&vertex.name)));
    for line in vertex.log.tail(LOG_LINES) {
        words.push_str(clean(&line).trim_end());
        words.push('\n');
    }
    words.push_str(RULE);
    words.push('\n');
    Some(words)
}

fn cancelled(progress: Option<&Progress>, theme: &Theme) -> String {
    let mut report = format!("{}\n", theme.odd("build cancelled"));
    let stopped = progress.into_iter().flat_map(|progress| progress.vertices());
    let stopped = stopped.filter(|vertex| matches!(vertex.state(), VertexState::Cancelled | VertexState::Running));
    for vertex in stopped {
        report.push_str(&format!("  stopped {}\n", clean(&vertex.name)));
    }
    report
}

/// The next step, where there is one.
fn hint(error: &CliError) -> Option<String> {
    match error {
        CliError::Usage { hint, .. } => hint.clone(),
        CliError::Client(ClientError::Connect { .. }) => {
            Some("start `cairnd` there, or leave the address out to build without a running daemon".to_owned())
        }
        CliError::NotRoot => {
            Some("run `cairn` as root, or let a `cairnd` build that you may talk to (`--addr`, `cairnd --group`)".to_owned())
        }
        CliError::Embedded(error) if matches!(**error, cairnd::StartError::InUse(_)) => Some(
            "wait for the other `cairn`, name the address of that `cairnd` with --addr, or another directory with --root"
                .to_owned(),
        ),
        CliError::Client(error) => error.daemon_error().and_then(|told| hint_at(&told.message)),
        _ => None,
    }
}

/// Some failures have a well-known way out.
fn hint_at(message: &str) -> Option<String> {
    let message = message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let hint = if has(&["no space left on device"]) {
        "make room with `cairn prune`"
    } else if has(&[
        "401 unauthorized",
        "403 forbidden",
        "authorization failed",
        "pull access denied",
        "denied:",
    ]) {
        "log in to the registry with `docker login`, whose credentials are used here"
    } else if has(&["unsupported request frontend."]) {
        "`--call` takes check, outline, targets and describe; what else there is depends on the frontend"
    } else if has(&["server gave http response to https client"]) {
        "mark the registry with `http = true` in the daemon's configuration"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use cairn_client::{ErrorDetails, LineRange, SourceLocation};
    use tonic::Code;

    use super::*;
    use crate::ui::script::{Message, moment};

    fn build_error(message: &str, details: ErrorDetails) -> CliError {
        let error = DaemonError {
            code: Code::Unknown,
            message: message.to_owned(),
            details,
        };
        CliError::Client(ClientError::Build(Box::new(error)))
    }

    fn progress(message: Message) -> Progress {
        let mut progress = Progress::new();
        progress.apply(&message.event(), moment(0));
        progress
    }

    #[test]
    fn a_failed_step_is_told_with_its_output_and_its_line() {
        let run = "[foo 2/2] RUN make";
        let failed = "process \"/bin/sh -c make\" did not complete successfully: exit code: 2";
        let message = Message::default().failed(run, 0, 10, failed);
        let progress = progress(message.log(run, 5, "make: *** No rule.\u{1b}[K  Stop.\n"));
        let source = SourceLocation {
            filename: "Dockerfile".into(),
            text: "from a as foo\nrun make\n".into(),
            ranges: vec![LineRange { first: 2, last: 2 }],
        };
        let details = ErrorDetails {
            vertex: Some(format!("sha256:{run}")),
            sources: vec![source],
            ..ErrorDetails::default()
        };
        let error = build_error(&format!("failed to solve: {failed}"), details);
        insta::assert_snapshot!(render(&error, Some(&progress), &Theme::plain()), @r#"
        ------
         > [foo 2/2] RUN make:
        make: *** No rule.  Stop.
        ------
        Dockerfile:2
        --------------------
           1 |     from a as foo
           2 | >>> run make
        --------------------
        error: failed to solve: process "/bin/sh -c make" did not complete successfully: exit code: 2
        "#);
    }

    #[test]
    fn some_failures_have_a_way_out() {
        let error = build_error("write /x: No space left on device", ErrorDetails::default());
        insta::assert_snapshot!(render(&error, None, &Theme::plain()), @r"
        error: write /x: No space left on device
        hint: make room with `cairn prune`
        ");
        let error = CliError::Embedded(Box::new(cairnd::StartError::InUse("/var/lib/cairn".into())));
        insta::assert_snapshot!(render(&error, None, &Theme::plain()), @r"
        error: failed to start the daemon in this process: failed to use state directory /var/lib/cairn: another daemon is using it
        hint: wait for the other `cairn`, name the address of that `cairnd` with --addr, or another directory with --root
        ");
        let error = CliError::usage_hint("there is no Dockerfile", "name it");
        insta::assert_snapshot!(render(&error, None, &Theme::plain()), @r"
        error: there is no Dockerfile
        hint: name it
        ");
    }

    #[test]
    fn a_cancelled_build_says_what_was_stopped() {
        let progress = progress(
            Message::default()
                .done("[a 1/1] RUN x", 0, 1)
                .started("[b 1/1] RUN y", 0)
                .failed("[c 1/1] RUN z", 0, 1, "context canceled"),
        );
        let error = CliError::Client(ClientError::Cancelled);
        insta::assert_snapshot!(render(&error, Some(&progress), &Theme::plain()), @r"
        build cancelled
          stopped [b 1/1] RUN y
          stopped [c 1/1] RUN z
        ");
    }
}
