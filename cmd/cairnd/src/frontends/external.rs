//! Frontends from images: run in a container, where they reach the daemon through their standard streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_session::windows;
use cairn_solver::llb::{ContentCache, Mount, MountKind, NetMode};
use cairn_solver::{Bridge as _, BuildBridge, FrontendError, FrontendRequest, FrontendResult, SolveError, WorkerError};
use cairn_worker::service::{
    Container, ContainerRequest, OwnDir, Process, ProcessError, ProcessRequest, Streams, WorkerService,
};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;

use super::image::FrontendImage;
use super::stderr;
use super::stdio::Stdio;
use crate::config::FrontendRules;
use crate::convert;
use crate::failure::Failure;
use crate::gateway::{Answer, Forwarder};
use crate::services;

/// How long a frontend may take to end once its connection is closed.
const LAST_MOMENTS: Duration = Duration::from_secs(5);
/// How long its last words are awaited once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Calls of one frontend at the same time.
const MAX_CALLS: u32 = 1000;
/// Bytes under way of one call.
const STREAM_WINDOW: u32 = 1 << 20;
/// Where a frontend finds its own definition.
const METADATA_DIR: &str = "/run/config/buildkit/metadata";

/// Has the frontend in an image carry out a request.
///
/// # Cancel safety
/// Dropping the future ends the frontend.
pub(super) async fn solve(
    worker: &Arc<dyn WorkerService>,
    bridge: Arc<BuildBridge>,
    request: FrontendRequest,
    rules: &FrontendRules,
) -> Result<FrontendResult, FrontendError> {
    if request.options.contains_key("gateway-devel") {
        let message = "development gateway is no longer supported";
        return Err(FrontendError::Option(message.to_owned()));
    }
    let source = request
        .options
        .get("source")
        .filter(|source| !source.is_empty())
        .cloned();
    let source = source.ok_or_else(|| FrontendError::Option("no source specified for gateway".to_owned()))?;
    let image = FrontendImage::find(&bridge, &source, &request).await?;
    image.check_origin(&bridge, rules).await?;
    image.check_caps(&request)?;
    let root = bridge.solve(image.definition.clone()).await?;
    let root = match &root {
        Some(root) => bridge.evaluate_whole(root).await?,
        None => None,
    };
    let child = bridge.child()?;
    let env = environment(&child, &image, &request.options);
    let (forwarder, answer) = Forwarder::new(child.clone(), request.inputs, worker.clone());
    let context = forwarder.context(&source);
    let asked = ContainerRequest {
        mounts: vec![root_mount(root.is_some())],
        inputs: root.into_iter().map(Some).collect(),
        own_dirs: vec![OwnDir {
            dest: METADATA_DIR.into(),
            files: vec![("frontend.bin".to_owned(), image.definition.to_wire().encode_to_vec())],
        }],
        network: if image.has_no_network() {
            NetMode::None
        } else {
            NetMode::Sandbox
        },
        ..ContainerRequest::default()
    };
    let container = worker.container(asked, &context).await.map_err(SolveError::from)?;
    let process = ProcessRequest {
        args: image.args(),
        env,
        cwd: image.cwd(),
        streams: Streams::Pipes {
            stdin: true,
            stdout: true,
            stderr: true,
        },
        ..ProcessRequest::default()
    };
    let process = container.start(process, &context).await.map_err(not_started)?;
    let outcome = talk(process, &*container, forwarder, answer, &source).await;
    container.release().await;
    let result = outcome?;
    bridge.adopt(&child, &result);
    Ok(result)
}

fn root_mount(has_input: bool) -> Mount {
    Mount {
        dest: "/".to_owned(),
        input: has_input.then_some(0),
        selector: String::new(),
        readonly: false,
        output: None,
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
    }
}

/// What a frontend is told by its environment.
fn environment(bridge: &BuildBridge, image: &FrontendImage, options: &BTreeMap<String, String>) -> Vec<String> {
    let mut env = image.env();
    for (number, (key, value)) in options.iter().enumerate() {
        env.push(format!("BUILDKIT_FRONTEND_OPT_{number}={key}={value}"));
    }
    env.push(format!("BUILDKIT_SESSION_ID={}", bridge.session_id()));
    env.push("BUILDKIT_EXPORTEDPRODUCT=buildkit".to_owned());
    env.push(format!("BUILDKIT_WORKERS={}", workers(bridge)));
    env
}

fn workers(bridge: &BuildBridge) -> serde_json::Value {
    let version = convert::version();
    let workers = bridge.workers().into_iter().map(|worker| {
        let platforms = worker.platforms.iter().map(|platform| {
            let mut object = json!({ "architecture": platform.architecture, "os": platform.os });
            if !platform.variant.is_empty() {
                object["variant"] = platform.variant.clone().into();
            }
            object
        });
        json!({
            "id": worker.id,
            "labels": worker.labels,
            "platforms": platforms.collect::<Vec<_>>(),
            "gcPolicy": null,
            "buildkitVersion": {
                "package": version.package,
                "version": version.version,
                "revision": version.revision,
                "dockerfileVersion": version.dockerfile_version,
            },
            "cdiDevices": devices(bridge),
        })
    });
    workers.collect()
}

/// The devices that steps may ask for, as clients of the API spell them; null if there are none.
fn devices(bridge: &BuildBridge) -> serde_json::Value {
    let devices = bridge.devices().unwrap_or_else(|error| {
        tracing::warn!(%error, "a frontend is told of no devices");
        None
    });
    let devices = devices.unwrap_or_default();
    if devices.is_empty() {
        return serde_json::Value::Null;
    }
    let devices = devices.iter().map(|device| {
        json!({
            "name": device.name,
            "autoAllow": device.is_auto_allowed,
            "annotations": device.annotations,
            "onDemand": false,
        })
    });
    devices.collect()
}

/// How a frontend's process ended.
enum Ended {
    /// By itself.
    Exit(Result<u32, ProcessError>),
    /// It stayed although its connection was closed, and was ended.
    Lingered,
}

/// Serves a frontend until it ends, and finds out what it came to.
async fn talk(
    process: Process,
    container: &dyn Container,
    forwarder: Arc<Forwarder>,
    mut answer: Answer,
    source: &str,
) -> Result<FrontendResult, FrontendError> {
    let (Some(stdin), Some(stdout), Some(stderr)) = (process.stdin, process.stdout, process.stderr) else {
        let message = "a frontend without standard streams".to_owned();
        return Err(SolveError::from(WorkerError::Failed(message)).into());
    };
    let closed = CancellationToken::new();
    let connection = Stdio::new(stdout, stdin, closed.clone());
    let served = Server::builder()
        .max_concurrent_streams(Some(MAX_CALLS))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(windows::CONNECTION)
        .add_routes(services::routes_of_frontend(forwarder))
        .serve_with_incoming(stream::iter([Ok::<_, std::io::Error>(connection)]).chain(stream::pending()));
    let server = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::debug!(%error, "serving a frontend ended");
        }
    }));
    let mut words = AbortOnDropHandle::new(tokio::spawn(stderr::follow(stderr, source.to_owned())));
    let mut exit = process.exit;
    let ended = tokio::select! {
        exit = &mut exit => Ended::Exit(exit),
        () = closed.cancelled() => match tokio::time::timeout(LAST_MOMENTS, &mut exit).await {
            Ok(exit) => Ended::Exit(exit),
            Err(_) => {
                container.release().await;
                Ended::Lingered
            }
        },
    };
    drop(server);
    let words = match tokio::time::timeout(LAST_WORDS, &mut words).await {
        Ok(Ok(tail)) => tail.text(),
        _ => String::new(),
    };
    let answer = answer.try_recv().ok();
    conclude(answer, ended, &words)
}

/// An error that the frontend returned counts before the failure of its process, and that before a result.
fn conclude(
    answer: Option<Result<FrontendResult, Failure>>,
    ended: Ended,
    words: &str,
) -> Result<FrontendResult, FrontendError> {
    let with_words = |message: String| match words {
        "" => message,
        words => format!("{message}: {words}"),
    };
    let answer = match answer {
        Some(Err(failure)) => return Err(failure.into()),
        Some(Ok(result)) => Some(result),
        None => None,
    };
    match ended {
        Ended::Exit(Ok(0)) => answer.ok_or_else(|| {
            let message = with_words("no result for incomplete build".to_owned());
            FrontendError::from(Failure::unknown(message))
        }),
        Ended::Exit(Ok(code)) => Err(Failure::of_exit(code)
            .with_message(with_words(format!("exit code: {code}")))
            .into()),
        Ended::Exit(Err(error)) => Err(not_started(error)),
        Ended::Lingered => {
            let message = with_words("frontend grpc server closed unexpectedly".to_owned());
            Err(Failure::unknown(message).into())
        }
    }
}

fn not_started(error: ProcessError) -> FrontendError {
    let error = match error {
        ProcessError::Gone => WorkerError::Cancelled,
        ProcessError::Failed(error) => error,
    };
    match error {
        WorkerError::Cancelled => SolveError::Cancelled.into(),
        error => SolveError::from(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(answer: Option<Result<FrontendResult, Failure>>, ended: Ended) -> Option<String> {
        conclude(answer, ended, "last words")
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn errors_count_before_failures_and_those_before_results() {
        let result = || Some(Ok(FrontendResult::default()));
        let error = || Some(Err(Failure::unknown("its own error")));
        assert_eq!(message(result(), Ended::Exit(Ok(0))), None);
        let own = Some("its own error".to_owned());
        assert_eq!(message(error(), Ended::Exit(Ok(0))), own);
        assert_eq!(message(error(), Ended::Exit(Ok(3))), own);
        assert_eq!(message(error(), Ended::Lingered), own);
        let failed = Some("exit code: 3: last words".to_owned());
        assert_eq!(message(result(), Ended::Exit(Ok(3))), failed);
        assert_eq!(message(None, Ended::Exit(Ok(3))), failed);
        let missing = message(None, Ended::Exit(Ok(0))).unwrap();
        assert!(missing.starts_with("no result for incomplete build"), "{missing}");
        let cancelled = Ended::Exit(Err(WorkerError::Cancelled.into()));
        assert_eq!(message(result(), cancelled), Some("context canceled".to_owned()));
    }
}
