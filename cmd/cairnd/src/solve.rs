//! One Solve call from beginning to end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_proto::control::{CacheOptions, Exporter, SolveRequest, SolveResponse};
use cairn_proto::exporter::exporter_server;
use cairn_solver::llb::Definition;
use cairn_solver::{
    AttestationSource, Bridge as _, BuildOptions, Entitlement, FrontendRefs, FrontendRequest, FrontendResult,
    SolveError, WorkerError,
};
use cairn_worker::service::{self, ExportInput, ExportRefs, ExporterRequest};
use futures_util::future::try_join_all;
use tokio::sync::oneshot;
use tonic::Code;

use crate::daemon::Daemon;
use crate::explain::Remember;
use crate::failure::Failure;
use crate::history::{Made, Recorder};
use crate::jobs::Job;

/// Method by which a client offers exporters of its own.
const FIND_EXPORTERS: &str = "/moby.exporter.v1.Exporter/FindExporters";
/// Version of the form of an answer that is no build; clients read it beside `result.*`.
const ANSWER_VERSION: &str = "version";
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

/// Carries out a Solve call.
///
/// # Cancel safety
/// Dropping the future gives the build up.
pub(crate) async fn solve(daemon: &Daemon, mut request: SolveRequest) -> Result<SolveResponse, Failure> {
    refuse_unsupported(daemon, &request).await?;
    let exporters = exporters(daemon, &mut request)?;
    let entitlements = entitlements(daemon, &request.entitlements)?;
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
    let build = daemon.engine.build(BuildOptions {
        session: request.session.clone(),
        entitlements,
        parallelism: daemon.config.max_parallelism_per_build,
    });
    let (job, answer) = Job::new(build.clone(), inputs.clone(), daemon.frontends.clone());
    let handle = daemon.jobs.register(&request.r#ref, job)?;
    let job = &handle.job;
    let recorder = Recorder::new(&daemon.history, build.clone(), &request);
    // Dropped before the handle and before the answer: who has the answer can ask why.
    let mut memory = Remember::new(daemon, build, &request);
    report_cache_imports(job, request.cache.as_ref());
    let outcome = work_through(job, work, inputs, answer, &exporters, &request).await;
    memory.ended(outcome.as_ref().err().map(Failure::message));
    drop(memory);
    // Who has the answer can read the record.
    recorder.finish(&outcome).await;
    drop(handle);
    Ok(SolveResponse {
        exporter_response: response(outcome?),
    })
}

/// What the client is told of what was made.
fn response(made: Made) -> BTreeMap<String, String> {
    let mut response: BTreeMap<String, String> = made.exported.into_iter().flatten().collect();
    for (key, value) in &made.metadata {
        if key.starts_with("frontend.") || key.starts_with("result.") || key == ANSWER_VERSION {
            response.insert(key.clone(), String::from_utf8_lossy(value).into_owned());
        }
    }
    response
}

/// Makes what is wanted and hands it over.
async fn work_through(
    job: &Arc<Job>,
    work: Work,
    inputs: BTreeMap<String, Definition>,
    answer: oneshot::Receiver<Result<FrontendResult, Failure>>,
    exporters: &[Box<dyn service::Exporter>],
    request: &SolveRequest,
) -> Result<Made, Failure> {
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
    let input = evaluate(job, result).await?;
    Ok(Made {
        exported: export(job, exporters, &input).await?,
        metadata: input.metadata,
    })
}

/// Has a frontend of this daemon carry out a request.
pub(crate) async fn run_frontend(job: &Job, name: &str, request: FrontendRequest) -> Result<FrontendResult, Failure> {
    Ok(job.bridge.clone().solve_frontend(name, request).await?)
}

/// Makes all results of a frontend, at the same time.
async fn evaluate(job: &Job, result: FrontendResult) -> Result<ExportInput, Failure> {
    let make = async |reference: Option<cairn_solver::BridgeRef>| match reference {
        None => Ok(None),
        Some(reference) => job.bridge.evaluate(&reference).await,
    };
    let refs = match result.refs {
        FrontendRefs::Single(reference) => ExportRefs::Single(make(reference).await?),
        FrontendRefs::Platforms(refs) => {
            let made = refs
                .into_iter()
                .map(async |(platform, reference)| Ok::<_, SolveError>((platform, make(reference).await?)));
            ExportRefs::Platforms(try_join_all(made).await?.into_iter().collect())
        }
    };
    let attestations = result.attestations.into_iter().map(async |(platform, statements)| {
        let made = statements.into_iter().map(async |mut statement| {
            let source = AttestationSource::Result(make(statement.source.take()).await?);
            Ok::<_, SolveError>(statement.with_source(source))
        });
        Ok::<_, SolveError>((platform, try_join_all(made).await?))
    });
    Ok(ExportInput {
        refs,
        metadata: result.metadata,
        attestations: try_join_all(attestations).await?.into_iter().collect(),
    })
}

/// Runs all exporters at the same time, and returns what each says.
async fn export(
    job: &Job,
    exporters: &[Box<dyn service::Exporter>],
    input: &ExportInput,
) -> Result<Vec<BTreeMap<String, String>>, Failure> {
    let exports = exporters.iter().enumerate().map(async |(index, exporter)| {
        let key = format!("{}-export-{index}", job.build.session());
        let step = job.build.step(&key, exporter.title());
        let context = step.context();
        step.finish(exporter.export(input, &context).await)
    });
    Ok(try_join_all(exports).await?)
}

fn exporters(daemon: &Daemon, request: &mut SolveRequest) -> Result<Vec<Box<dyn service::Exporter>>, Failure> {
    let mut wanted = request.exporters.clone();
    if wanted.is_empty() && !request.exporter_deprecated.is_empty() {
        wanted.push(Exporter {
            r#type: std::mem::take(&mut request.exporter_deprecated),
            attrs: std::mem::take(&mut request.exporter_attrs_deprecated),
        });
    }
    let epoch = request
        .frontend_attrs
        .get("build-arg:SOURCE_DATE_EPOCH")
        .filter(|text| text.parse::<i64>().is_ok());
    let is_old_form = !matches!(request.compatibility_version, 0 | 30);
    let exporters = wanted.into_iter().enumerate().map(|(index, mut exporter)| {
        if let Some(epoch) = epoch {
            exporter
                .attrs
                .entry("source-date-epoch".to_owned())
                .or_insert_with(|| epoch.clone());
        }
        if is_old_form {
            let mut default_to_off = |key: &str| {
                exporter
                    .attrs
                    .entry(key.to_owned())
                    .or_insert_with(|| "false".to_owned());
            };
            default_to_off("oci-artifact");
            if exporter.r#type != "oci" {
                default_to_off("oci-mediatypes");
            }
        }
        daemon.worker.exporter(&ExporterRequest {
            index,
            kind: exporter.r#type,
            attrs: exporter.attrs,
            session: request.session.clone(),
        })
    });
    Ok(exporters.collect::<Result<_, WorkerError>>()?)
}

fn entitlements(daemon: &Daemon, names: &[String]) -> Result<BTreeSet<Entitlement>, Failure> {
    let allow = |name: &String| {
        Entitlement::from_name(name)
            .filter(|entitlement| daemon.config.allowed_entitlements.contains(entitlement))
            .ok_or_else(|| {
                Failure::unknown(format!(
                    "granting entitlement {name} is not allowed by build daemon configuration"
                ))
            })
    };
    names.iter().map(allow).collect()
}

/// Says no to what would otherwise be ignored.
async fn refuse_unsupported(daemon: &Daemon, request: &SolveRequest) -> Result<(), Failure> {
    let unsupported = |what: &str| Err(Failure::unknown(format!("{what} not supported by this daemon")));
    if !COMPATIBILITY_VERSIONS.contains(&request.compatibility_version) {
        return Err(Failure::unknown(format!(
            "unsupported compatibility version {}",
            request.compatibility_version
        )));
    }
    if request
        .source_policy
        .as_ref()
        .is_some_and(|policy| !policy.rules.is_empty())
        || !request.source_policy_session.is_empty()
    {
        return unsupported("source policies are");
    }
    if request.proxy_network {
        return unsupported("proxied networking is");
    }
    if let Some(cache) = &request.cache {
        let kind = cache.exports.first().map(|entry| entry.r#type.as_str());
        if kind.is_some() || !cache.export_ref_deprecated.is_empty() {
            let kind = kind.unwrap_or("registry");
            return Err(Failure::unknown(format!("unknown cache exporter: {kind:?}")));
        }
    }
    let attestation = request
        .frontend_attrs
        .iter()
        .find(|(key, value)| key.starts_with("attest:") && !value.contains("disabled=true"));
    if let Some((key, _)) = attestation {
        return unsupported(&format!("attestations are (option {key})"));
    }
    if request.enable_session_exporter {
        let session = daemon
            .sessions
            .get(&request.session, cairn_session::LOOKUP_TIMEOUT)
            .await;
        if session.is_ok_and(|session| session.supports(FIND_EXPORTERS)) {
            return unsupported(&format!("exporters of clients ({}) are", exporter_server::SERVICE_NAME));
        }
    }
    Ok(())
}

/// A cache that cannot be imported does not fail the build, but the user is told.
fn report_cache_imports(job: &Arc<Job>, cache: Option<&CacheOptions>) {
    let Some(cache) = cache else { return };
    let legacy = cache.import_refs_deprecated.iter().cloned();
    let named = cache.imports.iter().map(|entry| {
        let name = entry.attrs.get("ref").or_else(|| entry.attrs.get("src"));
        name.cloned().unwrap_or_else(|| entry.r#type.clone())
    });
    for name in legacy.chain(named).collect::<BTreeSet<_>>() {
        let title = format!("importing cache manifest from {name}");
        let step = job.build.step(&title, &title);
        let error = WorkerError::Unsupported("importing caches is not supported by this daemon".to_owned());
        // The step carries the error; the build goes on.
        let _reported = step.finish::<()>(Err(error));
    }
}
