//! One Solve call from beginning to end.

mod evaluate;
mod outputs;
mod platforms;
mod request_options;

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_proto::control::{SolveRequest, SolveResponse};
use cairn_solver::llb::Definition;
use cairn_solver::{Bridge as _, BuildOptions, FrontendRefs, FrontendRequest, FrontendResult, SolveError, SourceJudge};
use cairn_worker::service::ExportRefs;
use tokio::sync::oneshot;
use tonic::Code;

use self::evaluate::evaluate;
use self::outputs::Outputs;
use crate::caches;
use crate::daemon::Daemon;
use crate::entitlements::Granted;
use crate::explain::Remember;
use crate::failure::Failure;
use crate::history::{Made, Recorder};
use crate::jobs::Job;
use crate::limits;
use crate::policy::{self, SessionJudge};
use crate::provenance;
use crate::sbom;
use crate::traces::{OpenTrace, Parent};

/// Version of the form of an answer that is no build; clients read it beside `result.*`.
const ANSWER_VERSION: &str = "version";
/// What can be stated about results.
const ATTESTATIONS: [&str; 2] = ["provenance", "sbom"];
/// Output versions that can be asked for; 0 is the newest.
const COMPATIBILITY_VERSIONS: [i64; 4] = [0, 10, 20, 30];

/// What is built.
enum Work {
    /// A graph; `None` is scratch.
    Definition(Definition),
    /// What a frontend makes of the options.
    Frontend(String),
    /// What the client makes of it, through the gateway.
    Client,
}

/// Carries out a Solve call, which belongs to a trace.
///
/// # Cancel safety
/// Dropping the future gives the build up.
pub(crate) async fn solve(
    daemon: &Daemon,
    mut request: SolveRequest,
    parent: Parent,
) -> Result<SolveResponse, Failure> {
    limits::check(&request)?;
    refuse_unsupported(&request)?;
    let mut outputs = Outputs::of(daemon, &mut request)?;
    let granted = Granted::of(&request.entitlements, &daemon.config.allowed_entitlements)?;
    let work = match (request.definition.take(), request.frontend.as_str()) {
        (Some(_), frontend) if !frontend.is_empty() => {
            return Err(Failure::unknown(
                "cannot solve with both Definition and Frontend specified",
            ));
        }
        (Some(definition), _) => Work::Definition(Definition::from_wire(definition)),
        (None, "") => Work::Client,
        (None, frontend) => Work::Frontend(frontend.to_owned()),
    };
    let inputs: BTreeMap<String, Definition> = std::mem::take(&mut request.frontend_inputs)
        .into_iter()
        .map(|(name, definition)| (name, Definition::from_wire(definition)))
        .collect();
    let trace = Recorder::trace(&daemon.history, &request, parent);
    let build = daemon.engine.build(BuildOptions {
        session: request.session.clone(),
        entitlements: granted.entitlements,
        devices: granted.devices,
        parallelism: daemon.config.max_parallelism_per_build,
        policies: policy::from_wire(request.source_policy.take().into_iter().collect()).await?,
        judge: judge(daemon, &request.source_policy_session),
        measures: outputs.measures(),
        trace: trace.as_ref().and_then(OpenTrace::of_client),
    });
    let (job, answer) = Job::new(build.clone(), inputs.clone(), daemon.frontends.clone());
    let handle = daemon.jobs.register(&request.r#ref, job)?;
    let job = &handle.job;
    let recorder = Recorder::new(&daemon.history, build.clone(), &request, trace);
    // Dropped before the handle and before the answer: who has the answer can ask why.
    let mut memory = Remember::new(daemon, build, &request);
    let imports = caches::import_entries(request.cache.as_ref());
    caches::import(&job.build, daemon.worker.as_ref(), &imports);
    let outcome = work_through(daemon, job, work, inputs, answer, &mut outputs, &request).await;
    // Whoever has the answer may count on what was made, also on that of steps before one that failed.
    daemon.settle().await;
    memory.ended(outcome.as_ref().err().map(Failure::message));
    drop(memory);
    recorder.finish(&outcome).await;
    drop(handle);
    Ok(SolveResponse {
        exporter_response: response(&outcome?),
    })
}

/// The client that decides about sources while the build runs, if one does.
fn judge(daemon: &Daemon, session: &str) -> Option<Arc<dyn SourceJudge>> {
    let judge = || SessionJudge::new(daemon.sessions.clone(), session.to_owned());
    (!session.is_empty()).then(|| Arc::new(judge()) as Arc<dyn SourceJudge>)
}

/// What the client is told of what was made.
fn response(made: &Made) -> BTreeMap<String, String> {
    let told = made.cached.iter().chain(made.exported.iter().flatten());
    let mut response: BTreeMap<String, String> = told.map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in &made.metadata {
        let is_answer = key.starts_with("result.") || key == ANSWER_VERSION;
        if key.starts_with("frontend.") || made.is_answered_here && is_answer {
            response.insert(key.clone(), String::from_utf8_lossy(value).into_owned());
        }
    }
    response
}

/// Makes what is wanted and hands it over.
async fn work_through(
    daemon: &Daemon,
    job: &Arc<Job>,
    work: Work,
    inputs: BTreeMap<String, Definition>,
    answer: oneshot::Receiver<Result<FrontendResult, Failure>>,
    outputs: &mut Outputs,
    request: &SolveRequest,
) -> Result<Made, Failure> {
    let is_answered_here = !matches!(work, Work::Client);
    let result = match work {
        Work::Definition(definition) => {
            let reference = job.bridge.solve(definition).await?;
            FrontendResult {
                refs: FrontendRefs::Single(reference),
                ..FrontendResult::default()
            }
        }
        Work::Frontend(name) => {
            let request = FrontendRequest {
                options: request.frontend_attrs.clone(),
                inputs,
            };
            run_frontend(job, &name, request).await?
        }
        Work::Client => answer
            .await
            .map_err(|_| Failure::new(Code::Cancelled, SolveError::Cancelled.to_string()))??,
    };
    let result = sbom::complete(job, request, result).await?;
    let added = outputs.client.find(daemon, &result, outputs.exporters.len()).await?;
    outputs.exporters.extend(added);
    let definitions: Vec<Arc<Definition>> = result.refs.iter().map(|made| made.definition.clone()).collect();
    let results = provenance::Results::of(&result);
    let mut input = evaluate(job, result, &outputs.exporters).await?;
    let wanted = request.frontend_attrs.get("platform").map(String::as_str);
    let findings = platforms::findings(wanted, &input)?;
    let provenance = outputs.state(job, &results, &mut input).await?;
    let records = outputs.caches.records(&job.build, &definitions).await?;
    input.inline_cache = outputs.caches.inline(&records);
    let targets = match &input.refs {
        ExportRefs::Single(result) => result.iter().cloned().collect(),
        ExportRefs::Platforms(results) => results.values().flatten().cloned().collect(),
    };
    let (exported, cached) = tokio::try_join!(
        outputs.export(job, &input, &findings),
        outputs.caches.run(&job.build, records, targets),
    )?;
    let mut metadata = input.metadata;
    let asked = request_options::told(&request.frontend_attrs);
    metadata.insert(request_options::NAME.to_owned(), asked);
    let made = Made {
        exported,
        cached,
        provenance: outputs.record(provenance).await,
        metadata,
        is_answered_here,
    };
    outputs.client.finalize(&response(&made)).await?;
    Ok(made)
}

/// Has a frontend of this daemon carry out a request.
pub(crate) async fn run_frontend(job: &Job, name: &str, request: FrontendRequest) -> Result<FrontendResult, Failure> {
    Ok(job.bridge.clone().solve_frontend(name, request).await?)
}

/// Says no to what would otherwise be ignored.
fn refuse_unsupported(request: &SolveRequest) -> Result<(), Failure> {
    let unsupported = |what: &str| Err(Failure::unknown(format!("{what} not supported by this daemon")));
    if !COMPATIBILITY_VERSIONS.contains(&request.compatibility_version) {
        return Err(Failure::unknown(format!(
            "unsupported compatibility version {}",
            request.compatibility_version
        )));
    }
    if request.proxy_network {
        return unsupported("proxied networking is");
    }
    sbom::asked(&request.frontend_attrs)?;
    let mut attestations = request
        .frontend_attrs
        .keys()
        .filter_map(|key| key.strip_prefix("attest:"));
    if let Some(unknown) = attestations.find(|kind| !ATTESTATIONS.contains(kind)) {
        return Err(Failure::unknown(format!("unknown attestation type {unknown:?}")));
    }
    Ok(())
}
