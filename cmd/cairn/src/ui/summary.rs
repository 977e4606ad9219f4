//! The last words of a build that succeeded.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_client::Progress;

use super::text::clean;
use super::{Theme, excerpt};
use crate::build_plan::{Destination, Output};
use crate::csv;
use crate::quantity;

/// Warnings shown in full.
const WARNINGS: usize = 20;

/// What was made, where it is, and what it took.
pub(crate) fn render(
    outputs: &[Output],
    response: &BTreeMap<String, String>,
    progress: &Progress,
    elapsed: Duration,
    theme: &Theme,
) -> String {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for output in outputs {
        pairs.extend(outcome(output, response));
    }
    if let Some(digest) = digest(response) {
        pairs.push(("digest", clean(digest)));
    }
    let (steps, cached) = progress.steps();
    pairs.push((
        "time",
        format!("{}, {cached} of {steps} steps cached", quantity::seconds(elapsed)),
    ));
    if outputs.is_empty() {
        pairs.push((
            "note",
            "the result stays in the build cache: name an image with -t, or an output with -o".to_owned(),
        ));
    }
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut summary = warnings(progress, theme);
    summary.push_str(&theme.strong("built"));
    summary.push('\n');
    for (key, value) in pairs {
        summary.push_str(&format!("  {key:<width$}  {value}\n"));
    }
    summary
}

/// The digest of the image, when there is one.
pub(crate) fn digest(response: &BTreeMap<String, String>) -> Option<&str> {
    response.get("containerimage.digest").map(String::as_str)
}

fn outcome(output: &Output, response: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    let key = match &output.destination {
        Destination::Daemon if output.is_pushed() => "pushed",
        Destination::Daemon => "image",
        Destination::Directory(path) => return vec![("files", path.display().to_string())],
        Destination::File(path) => return vec![("file", path.display().to_string())],
        Destination::Stdout => return vec![("file", "standard output".to_owned())],
    };
    let names = response.get("image.name").or_else(|| output.attrs.get("name"));
    let names = names.map(|names| csv::fields(names).unwrap_or_else(|_| vec![names.clone()]));
    names.into_iter().flatten().map(|name| (key, clean(&name))).collect()
}

/// The warnings of a build.
pub(crate) fn warnings(progress: &Progress, theme: &Theme) -> String {
    let warnings = progress.warnings();
    let mut text = String::new();
    for warning in warnings.iter().take(WARNINGS) {
        text.push_str(&format!("{}: {}\n", theme.odd("warning"), clean(&warning.short)));
        for detail in &warning.detail {
            text.push_str(&format!("  {}\n", clean(detail)));
        }
        if !warning.url.is_empty() {
            text.push_str(&format!("  {}\n", clean(&warning.url)));
        }
        text.extend(warning.source.as_ref().and_then(excerpt::render));
    }
    if warnings.len() > WARNINGS {
        text.push_str(&format!("{} more warnings\n", warnings.len() - WARNINGS));
    }
    text
}

#[cfg(test)]
mod tests {
    use cairn_client::ProgressEvent;
    use cairn_proto::control::{StatusResponse, VertexWarning};

    use super::*;
    use crate::ui::script::{Message, moment};

    fn output(kind: &'static str, attrs: &[(&str, &str)], destination: Destination) -> Output {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Output {
            kind,
            attrs: attrs.iter().map(owned).collect(),
            destination,
        }
    }

    #[test]
    fn names_digest_time_and_cached_steps() {
        let mut progress = Progress::new();
        let message = Message::default().cached("[1/2] FROM x", 0).done("[2/2] RUN y", 0, 1);
        progress.apply(&message.event(), moment(0));
        let outputs = [
            output("image", &[("name", "hello:multi,hello:2")], Destination::Daemon),
            output("image", &[("name", "r/x"), ("push", "true")], Destination::Daemon),
            output("local", &[], Destination::Directory("/out".into())),
        ];
        let response = [("containerimage.digest".to_owned(), "sha256:abc".to_owned())].into();
        let elapsed = Duration::from_millis(12_340);
        insta::assert_snapshot!(render(&outputs, &response, &progress, elapsed, &Theme::plain()), @r"
        built
          image   hello:multi
          image   hello:2
          pushed  r/x
          files   /out
          digest  sha256:abc
          time    12.3s, 1 of 2 steps cached
        ");
    }

    #[test]
    fn a_result_without_output_is_remarked_on_and_warnings_are_shown() {
        let mut progress = Progress::new();
        let warning = VertexWarning {
            short: b"SecretsUsedInArgOrEnv: no\x1b[2J".to_vec().into(),
            url: "https://example.org".into(),
            ..VertexWarning::default()
        };
        let status = StatusResponse {
            warnings: vec![warning],
            ..StatusResponse::default()
        };
        progress.apply(&ProgressEvent::Status(status), moment(0));
        let summary = render(
            &[],
            &BTreeMap::new(),
            &progress,
            Duration::from_secs(1),
            &Theme::plain(),
        );
        insta::assert_snapshot!(summary, @r"
        warning: SecretsUsedInArgOrEnv: no
          https://example.org
        built
          time  1.0s, 0 of 0 steps cached
          note  the result stays in the build cache: name an image with -t, or an output with -o
        ");
    }
}
