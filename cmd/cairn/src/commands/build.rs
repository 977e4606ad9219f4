//! `cairn build`.

mod policy;
mod typed;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_client::{
    ClientError, Id, LocalDir, OutputTarget, ReceiveMode, SecretSource, SolveOptions, SolveOutput, Solved,
};
use cairn_proto::control::CacheOptionsEntry;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::{Failure, why};
use crate::args::ProgressMode;
use crate::build_plan::{BuildPlan, CachePlan, Call, Context, Destination, Dockerfile, Output, SecretOrigin};
use crate::daemon::Daemon;
use crate::error::CliError;
use crate::exit::ExitCode;
use crate::signals::Signals;
use crate::surroundings::Surroundings;
use crate::ui::view::{Followed, follow};
use crate::ui::{self, Theme, failure, summary};
pub(super) use typed::Typed;

const FRONTEND: &str = "dockerfile.v0";
/// News that may wait for the view.
const NEWS: usize = 64;

/// Builds, and shows it.
pub(super) async fn run(
    daemon: &Daemon,
    plan: &BuildPlan,
    mut typed: Typed,
    signals: &mut Signals,
    surroundings: &Surroundings,
) -> Result<(), Failure> {
    let started = Instant::now();
    let theme = Theme::of(surroundings);
    let reference = Id::random().map_err(ClientError::Id)?;
    let options = SolveOptions {
        reference: Some(reference.clone()),
        source_policy: policy::read(surroundings)?,
        ..solve_options(plan, &mut typed, surroundings)
    };
    let (events, news) = mpsc::channel(NEWS);
    let cancel = CancellationToken::new();

    let solve = Box::pin(daemon.client().solve(options, events, cancel.clone()));
    let view = follow(news, plan.progress, theme, started);
    let (result, followed) = tokio::select! {
        both = async { tokio::join!(solve, view) } => both,
        never = obey(signals, cancel) => match never {},
    };
    let finished = result.map_err(CliError::from).and_then(|solved| match &plan.call {
        Some(call) => answered(plan, call, &solved, &followed, theme),
        None => finish(plan, &solved, &followed, theme).map(|()| ExitCode::Success),
    });
    if plan.explain {
        tokio::select! {
            () = explain(daemon, &reference) => {}
            () = signals.next() => {}
        }
    }
    match finished {
        Ok(ExitCode::Success) => Ok(()),
        // It has been said why.
        Ok(code) => Err(Failure::Reported(code)),
        Err(error) => {
            ui::remark(&failure::render(&error, Some(&followed.progress), &theme));
            Err(Failure::Reported(error.exit_code()))
        }
    }
}

/// Says why steps ran. The build is what it is, even if that cannot be told.
async fn explain(daemon: &Daemon, build: &Id) {
    match why::explain(daemon.client(), build.as_str()).await {
        Ok(text) => ui::remark(&text),
        Err(error) => ui::remark(&format!("warning: no explanation: {error}\n")),
    }
}

/// Prints what the daemon answered. Its odd remarks are progress, and so is what they are about.
fn answered(
    plan: &BuildPlan,
    call: &Call,
    solved: &Solved,
    followed: &Followed,
    theme: Theme,
) -> Result<ExitCode, CliError> {
    if let Some(path) = &plan.metadata_file {
        write_metadata(path, &solved.response)?;
    }
    if matches!(plan.progress, ProgressMode::Tty | ProgressMode::Plain) {
        ui::remark(&summary::warnings(&followed.progress, &theme));
    }
    let answer = Answer::read(call, &solved.response)?;
    ui::print(&answer.render(call.format))?;
    ui::remark(&answer.complaint(theme));
    Ok(answer.exit_code())
}

/// Tells about the result in the way that was asked for.
fn finish(plan: &BuildPlan, solved: &Solved, followed: &Followed, theme: Theme) -> Result<(), CliError> {
    if let Some(path) = &plan.metadata_file {
        write_metadata(path, &solved.response)?;
    }
    let takes_stdout = plan
        .outputs
        .iter()
        .any(|output| output.destination == Destination::Stdout);
    match plan.progress {
        ProgressMode::Quiet if takes_stdout => Ok(()),
        ProgressMode::Quiet => match summary::digest(&solved.response) {
            Some(digest) => ui::print(&format!("{}\n", ui::text::clean(digest))),
            None => Ok(()),
        },
        ProgressMode::Rawjson => Ok(()),
        ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => {
            let Followed { progress, elapsed } = followed;
            ui::remark(&summary::render(
                &plan.outputs,
                &solved.response,
                progress,
                *elapsed,
                &theme,
            ));
            Ok(())
        }
    }
}

/// The first signal stops the build and lets it say its last words; the second ends the process.
async fn obey(signals: &mut Signals, cancel: CancellationToken) -> Infallible {
    loop {
        signals.next().await;
        if cancel.is_cancelled() {
            ui::restore_cursor();
            std::process::exit(ExitCode::Cancelled as i32);
        }
        cancel.cancel();
    }
}

fn solve_options(plan: &BuildPlan, typed: &mut Typed, surroundings: &Surroundings) -> SolveOptions {
    let directory = |path: &Path| LocalDir {
        path: path.to_owned(),
        keeps_owner: false,
    };
    let named = plan.named.dirs.iter();
    let mut local_dirs: BTreeMap<_, _> = named.map(|(name, path)| (name.clone(), directory(path))).collect();
    let mut offer = |name: &str, path: Option<&Path>| {
        local_dirs.extend(path.map(|path| (name.to_owned(), directory(path))));
    };
    let (typed_context, typed_dockerfile) = (typed.context_dir(), typed.dockerfile_dir());
    offer(
        "context",
        match &plan.context {
            Context::Local(path) => Some(path),
            Context::Stdin => typed_context.as_deref(),
            Context::Remote(_) => None,
        },
    );
    offer(
        "dockerfile",
        match &plan.dockerfile {
            Dockerfile::Local { directory, .. } => Some(directory),
            Dockerfile::Stdin | Dockerfile::InContext(_) => typed_dockerfile.as_deref(),
        },
    );
    let mut frontend_attrs = plan.frontend_attrs.clone();
    let mut uploads = HashMap::new();
    if let Some((url, id, archive)) = typed.take_archive() {
        frontend_attrs.insert("context".to_owned(), url);
        uploads.insert(id, archive);
    }
    let secrets = plan.secrets.iter().map(|secret| {
        let source = match &secret.origin {
            SecretOrigin::File(path) => SecretSource::File(path.clone()),
            SecretOrigin::Variable(name) => SecretSource::Env(name.clone()),
        };
        (secret.id.clone(), source)
    });
    let caches = |plans: &[CachePlan]| -> Vec<CacheOptionsEntry> {
        let entries = plans.iter().map(|plan| CacheOptionsEntry {
            r#type: plan.kind.clone(),
            attrs: plan.attrs.clone(),
        });
        entries.collect()
    };
    SolveOptions {
        cache_imports: caches(&plan.cache_from),
        cache_exports: caches(&plan.cache_to),
        frontend: FRONTEND.to_owned(),
        frontend_attrs,
        outputs: plan.outputs.iter().map(solve_output).collect(),
        shared_key: match &plan.context {
            Context::Local(path) => cairn_client::shared_key(path),
            Context::Remote(_) | Context::Stdin => String::new(),
        },
        local_dirs,
        layouts: plan.named.layouts.clone(),
        uploads,
        secrets: secrets.collect(),
        ssh_agents: plan.agents.clone(),
        entitlements: plan.allow.clone(),
        docker_config: docker_config(surroundings),
        ..SolveOptions::default()
    }
}

fn solve_output(output: &Output) -> SolveOutput {
    let mirrors = output.attrs.get("mode").is_some_and(|mode| mode == "delete");
    let target = match &output.destination {
        Destination::Daemon => None,
        Destination::File(path) => Some(OutputTarget::file(path.clone())),
        Destination::Stdout => Some(OutputTarget::stdout()),
        Destination::Directory(path) => Some(OutputTarget::Directory {
            path: path.clone(),
            mode: if mirrors {
                ReceiveMode::Mirror
            } else {
                ReceiveMode::Merge
            },
        }),
    };
    SolveOutput {
        kind: output.kind.to_owned(),
        attrs: output.attrs.clone(),
        target,
    }
}

/// Where `docker login` keeps credentials.
fn docker_config(surroundings: &Surroundings) -> Option<PathBuf> {
    let own = surroundings.variable("DOCKER_CONFIG").map(|dir| surroundings.path(dir));
    let usual = || {
        surroundings
            .variable("HOME")
            .map(|home| Path::new(home).join(".docker"))
    };
    own.or_else(usual).map(|dir| dir.join("config.json"))
}

fn write_metadata(path: &Path, response: &BTreeMap<String, String>) -> Result<(), CliError> {
    let mut text = metadata(response).to_string();
    text.push('\n');
    std::fs::write(path, text).map_err(|source| CliError::File {
        action: "write metadata to",
        path: path.to_owned(),
        source,
    })
}

/// What exporters answered; what is JSON in there becomes JSON here.
fn metadata(response: &BTreeMap<String, String>) -> Value {
    let value = |key: &str, text: &str| {
        let decoded = (key == "containerimage.descriptor")
            .then(|| STANDARD.decode(text).ok())
            .flatten();
        let json = match key {
            "result.json" => serde_json::from_str(text).ok(),
            _ => decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        };
        json.unwrap_or_else(|| Value::from(text))
    };
    response
        .iter()
        .map(|(key, text)| (key.clone(), value(key, text)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_holds_descriptors_as_json() {
        let response = [
            ("containerimage.descriptor", "eyJzaXplIjoxfQ=="),
            ("image.name", "x"),
            ("result.json", "[1]"),
        ];
        let response = response.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(
            metadata(&response).to_string(),
            r#"{"containerimage.descriptor":{"size":1},"image.name":"x","result.json":[1]}"#
        );
    }

    #[test]
    fn credentials_are_where_docker_keeps_them() {
        let around = |variables: &[(&str, &str)]| Surroundings {
            directory: "/home/me".into(),
            variables: variables
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..Surroundings::default()
        };
        assert_eq!(docker_config(&around(&[])), None);
        assert_eq!(
            docker_config(&around(&[("HOME", "/h")])),
            Some("/h/.docker/config.json".into())
        );
        let both = around(&[("HOME", "/h"), ("DOCKER_CONFIG", "cfg")]);
        assert_eq!(docker_config(&both), Some("/home/me/cfg/config.json".into()));
    }
}
