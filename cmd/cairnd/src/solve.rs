//! One Solve call from beginning to end.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_proto::control::{Exporter, SolveRequest, SolveResponse};
use cairn_solver::llb::Definition;
use cairn_solver::{
    AttestationSource, Bridge as _, BuildOptions, FrontendRefs, FrontendRequest, FrontendResult, SolveError,
    SourceJudge, WorkerError,
};
use cairn_worker::service::{self, ExportInput, ExportRefs, ExporterRequest};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tonic::Code;

use crate::caches::{self, CacheExports};
use crate::client_exporters::ExportingClient;
use crate::daemon::Daemon;
use crate::entitlements::Granted;
use crate::explain::Remember;
use crate::failure::Failure;
use crate::history::{Made, Recorder};
use crate::jobs::Job;
use crate::limits;
use crate::policy::{self, SessionJudge};
use crate::provenance::{self, About, Predicates, Provenance};
use crate::sbom;
use crate::traces::Parent;

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
    let mut outputs = Outputs {
        exporters: exporters(daemon, &mut request)?,
        caches: CacheExports::of(daemon.worker.as_ref(), request.cache.as_ref())?,
        provenance: provenance::Settings::of(&request.frontend_attrs).map_err(Failure::unknown)?,
        is_recorded: !request.internal,
        about: About {
            id: request.r#ref.clone(),
            started: Timestamp::now(),
            compatibility_version: request.compatibility_version,
        },
        client: ExportingClient::of(&request),
    };
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
    let build = daemon.engine.build(BuildOptions {
        session: request.session.clone(),
        entitlements: granted.entitlements,
        devices: granted.devices,
        parallelism: daemon.config.max_parallelism_per_build,
        policies: policy::from_wire(request.source_policy.take().into_iter().collect()).await?,
        judge: judge(daemon, &request.source_policy_session),
    });
    let (job, answer) = Job::new(build.clone(), inputs.clone(), daemon.frontends.clone());
    let handle = daemon.jobs.register(&request.r#ref, job)?;
    let job = &handle.job;
    let recorder = Recorder::new(&daemon.history, build.clone(), &request, parent);
    // Dropped before the handle and before the answer: who has the answer can ask why.
    let mut memory = Remember::new(daemon, build, &request);
    let imports = caches::import_entries(request.cache.as_ref());
    caches::import(&job.build, daemon.worker.as_ref(), &imports);
    let outcome = work_through(daemon, job, work, inputs, answer, &mut outputs, &request).await;
    memory.ended(outcome.as_ref().err().map(Failure::message));
    drop(memory);
    // Who has the answer can read the record.
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
        if key.starts_with("frontend.") || key.starts_with("result.") || key == ANSWER_VERSION {
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
    let provenance = outputs.state(job, &results, &mut input).await?;
    let records = outputs.caches.records(&job.build, &definitions).await?;
    input.inline_cache = outputs.caches.inline(&records);
    let targets = match &input.refs {
        ExportRefs::Single(result) => result.iter().cloned().collect(),
        ExportRefs::Platforms(results) => results.values().flatten().cloned().collect(),
    };
    let (exported, cached) = tokio::try_join!(
        export(job, &outputs.exporters, &input),
        outputs.caches.run(&job.build, records, targets),
    )?;
    let made = Made {
        exported,
        cached,
        provenance,
        metadata: input.metadata,
    };
    outputs.client.finalize(&response(&made)).await?;
    Ok(made)
}

/// Has a frontend of this daemon carry out a request.
pub(crate) async fn run_frontend(job: &Job, name: &str, request: FrontendRequest) -> Result<FrontendResult, Failure> {
    Ok(job.bridge.clone().solve_frontend(name, request).await?)
}

/// What a build hands over.
struct Outputs {
    exporters: Vec<Box<dyn service::Exporter>>,
    caches: CacheExports,
    /// Whom to ask for more exporters.
    client: ExportingClient,
    /// How it is to be stated how results were made.
    provenance: Option<provenance::Settings>,
    /// Whether the build is remembered.
    is_recorded: bool,
    about: About,
}

impl Outputs {
    /// States how results were made: with them if the client wants that, and for the record of the build.
    async fn state(
        &self,
        job: &Job,
        results: &provenance::Results,
        input: &mut ExportInput,
    ) -> Result<Predicates, Failure> {
        if self.provenance.is_none() && !self.is_recorded {
            return Ok(Predicates::new());
        }
        let provenance = match Provenance::of(job, results, input, &self.about).await {
            Ok(provenance) => provenance,
            // Nobody asked for it.
            Err(error) if self.provenance.is_none() => {
                tracing::debug!(build = self.about.id, %error, "it is not recorded how results were made");
                return Ok(Predicates::new());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(settings) = &self.provenance {
            provenance.attest(job, settings, input).await?;
        }
        if !self.is_recorded {
            return Ok(Predicates::new());
        }
        provenance.record(self.provenance.as_ref()).await
    }
}

/// Makes all results of a frontend, and has their files brought here that exporters need.
async fn evaluate(
    job: &Job,
    result: FrontendResult,
    exporters: &[Box<dyn service::Exporter>],
) -> Result<ExportInput, Failure> {
    // What is stated is read from files, and says of files in which layer they are.
    let is_read = !exporters.is_empty() && !result.attestations.is_empty();
    let input = make(job, result.clone(), is_read).await?;
    if is_read || exporters.is_empty() || gather(job, exporters, &input).await? {
        return Ok(input);
    }
    make(job, result, true).await
}

/// Lets exporters get what they need of results that are elsewhere; tells whether that was everything.
async fn gather(job: &Job, exporters: &[Box<dyn service::Exporter>], input: &ExportInput) -> Result<bool, Failure> {
    let mut refs = input.refs.iter();
    let worker = job.build.engine().worker();
    if !refs.any(|made| worker.is_remote(made).unwrap_or(true)) {
        return Ok(true);
    }
    if exporters.iter().any(|exporter| exporter.needs_all_files()) {
        return Ok(false);
    }
    let gathering = exporters.iter().enumerate().map(async |(index, exporter)| {
        let key = format!("{}-gather-{index}", job.build.session());
        let step = job.build.step(&key, "looking for layers that are not here");
        let context = step.context();
        step.finish(exporter.gather(input, &context).await)
    });
    Ok(try_join_all(gathering).await?.into_iter().all(|is_enough| is_enough))
}

/// Makes all results of a frontend, at the same time; with all their files if they are to be looked into.
async fn make(job: &Job, result: FrontendResult, are_whole: bool) -> Result<ExportInput, Failure> {
    let make = async |reference: Option<cairn_solver::BridgeRef>| match reference {
        None => Ok(None),
        Some(reference) if are_whole => job.bridge.evaluate_whole(&reference).await,
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
        inline_cache: None,
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
