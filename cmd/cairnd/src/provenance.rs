//! Statements about how results were made: provenance, in the forms that SLSA gives it.
//!
//! A predicate is made of what the engine says that the build really used, so it is the same whether steps ran or were
//! known. Every build gets one for its record; its results carry one if the client asks for that.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | what the client asks for |
//! | [`capture`], [`materials`] | what was used, and how it is named |
//! | [`request`] | what was asked for |
//! | [`steps`] | definitions as lists of steps |
//! | [`predicate`] | all of that, and the forms [`v1`] and [`v02`] |

mod capture;
mod materials;
mod predicate;
mod request;
mod settings;
mod steps;
mod v02;
mod v1;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::json::JsonError;
use cairn_solver::attestation::{INLINE_ONLY, REASON};
use cairn_solver::engine::FrontendCall;
use cairn_solver::llb::Definition;
use cairn_solver::{
    Attestation, AttestationSource, Bridge as _, Digest, FrontendRefs, FrontendResult, Platform, SolveError,
};
use cairn_worker::image::Descriptor;
use cairn_worker::service::ExportInput;
use jiff::Timestamp;

use self::capture::Capture;
use self::predicate::{Claims, Detail, Facts, Metadata, Version};
pub(crate) use self::settings::Settings;
use crate::failure::Failure;
use crate::jobs::Job;

/// Why a statement was made, in its notes.
const REASON_PROVENANCE: &str = "provenance";
/// The frontend whose language has a version.
const DOCKERFILE: &str = "dockerfile.v0";
/// Bytes of ops from which on a record of a build does not list the steps.
const MAX_RECORDED: usize = 4 << 20;
/// The form in which records keep it. Clients look for a member of version 0.2 in whatever they find there.
const RECORDED: Version = Version::V02;

/// What is stated of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Predicate {
    /// What it is, as a URL.
    pub(crate) kind: &'static str,
    /// The statement without its subject.
    pub(crate) json: Bytes,
}

/// What was stated of the result for a platform; `None` is the only result.
pub(crate) type Predicates = Vec<(Option<String>, Predicate)>;

/// What a build is told of in statements about it.
#[derive(Debug)]
pub(crate) struct About {
    /// The id of the build.
    pub(crate) id: String,
    pub(crate) started: Timestamp,
    /// The version of outputs that the client asked for; 0 is the newest.
    pub(crate) compatibility_version: i64,
}

/// The results that a frontend came to, before they are made.
pub(crate) struct Results {
    refs: FrontendRefs,
    /// All that the frontend returns, also what only holds statements.
    ids: BTreeSet<String>,
}

impl Results {
    /// Takes note of results.
    pub(crate) fn of(result: &FrontendResult) -> Self {
        Self {
            refs: result.refs.clone(),
            ids: result.references().map(|reference| reference.id.clone()).collect(),
        }
    }
}

/// Outputs of vertices, and the layers they are known as.
type Layers = Vec<(Digest, usize, Vec<Descriptor>)>;

/// What is known of how the result for one platform was made.
struct Story {
    /// The platform's id.
    id: String,
    definition: Arc<Definition>,
    facts: Facts,
}

/// How the results of a build were made.
pub(crate) struct Provenance {
    stories: Vec<Story>,
    is_single: bool,
}

impl Provenance {
    /// Finds out how `results` were made, which are now exported as `input`. A result of nothing has no story.
    ///
    /// # Errors
    /// If what the frontend says about the results does not fit them, or the build was given up.
    pub(crate) async fn of(
        job: &Job,
        results: &Results,
        input: &ExportInput,
        about: &About,
    ) -> Result<Self, SolveError> {
        let listed = input.platforms()?;
        let platforms: Vec<Platform> = listed.iter().map(|(_, platform)| platform.clone()).collect();
        let mut stories = Vec::new();
        for (id, platform) in &listed {
            let reference = match &results.refs {
                FrontendRefs::Single(reference) => reference.as_ref(),
                FrontendRefs::Platforms(refs) => refs.get(id).and_then(Option::as_ref),
            };
            let Some(reference) = reference else { continue };
            let calls = job.bridge.trace().calls(&reference.id);
            let own = (&reference.definition, platform);
            stories.push(Story {
                id: id.clone(),
                definition: reference.definition.clone(),
                facts: facts(job, results, own, &platforms, &calls, about).await?,
            });
        }
        Ok(Self {
            stories,
            is_single: matches!(results.refs, FrontendRefs::Single(_)),
        })
    }

    /// States it of the results, as the client wants it.
    ///
    /// # Errors
    /// If it is not complete although it has to be.
    pub(crate) async fn attest(&self, job: &Job, settings: &Settings, input: &mut ExportInput) -> Result<(), Failure> {
        if !settings.ignored.is_empty() {
            warn(job, &settings.ignored)?;
        }
        for story in &self.stories {
            if settings.must_be_complete && !story.facts.is_complete {
                return Err(Failure::unknown(incomplete(&story.facts)));
            }
            let layers = match settings.detail {
                Detail::Min => Layers::new(),
                Detail::Max => layers(job, &story.definition).await?,
            };
            let predicate = story.tell(settings.version, settings.detail, settings, layers).await?;
            let source = AttestationSource::Predicate(predicate.json);
            let statement = Attestation::new(predicate.kind, settings.file.clone(), source)
                .with_metadata(REASON, REASON_PROVENANCE)
                .with_metadata(INLINE_ONLY, settings.is_inline_only.to_string());
            input.attestations.entry(story.id.clone()).or_default().push(statement);
        }
        Ok(())
    }

    /// States it for the record of the build.
    ///
    /// # Errors
    /// If a definition cannot be shown.
    pub(crate) async fn record(&self, settings: Option<&Settings>) -> Result<Predicates, Failure> {
        let default = Settings::default();
        let mut predicates = Vec::new();
        for story in &self.stories {
            let detail = match story.definition.size() <= MAX_RECORDED {
                true => Detail::Max,
                false => Detail::Min,
            };
            let platform = (!self.is_single).then(|| story.id.clone());
            let predicate = story
                .tell(RECORDED, detail, settings.unwrap_or(&default), Layers::new())
                .await?;
            predicates.push((platform, predicate));
        }
        Ok(predicates)
    }
}

impl Story {
    async fn tell(
        &self,
        version: Version,
        detail: Detail,
        settings: &Settings,
        layers: Layers,
    ) -> Result<Predicate, Failure> {
        let (facts, definition, settings) = (self.facts.clone(), self.definition.clone(), settings.clone());
        let task = tokio::task::spawn_blocking(move || {
            let claims = Claims {
                builder_id: &settings.builder_id,
                is_reproducible: settings.is_reproducible,
            };
            let facts = match detail {
                Detail::Min => facts.reduced(),
                Detail::Max => with_steps(facts, &definition, layers).map_err(|error| error.to_string())?,
            };
            facts.to_json(version, claims).map_err(|error| error.to_string())
        });
        let failed = |cause: String| Failure::unknown(format!("failed to state how a result was made: {cause}"));
        let json = task.await.map_err(|error| failed(error.to_string()))?;
        Ok(Predicate {
            kind: version.predicate_type(),
            json: json.map_err(failed)?.into(),
        })
    }
}

/// Collects what is to be told of one result: `own` is its definition, and its platform, one of `platforms`.
async fn facts(
    job: &Job,
    results: &Results,
    own: (&Arc<Definition>, &Platform),
    platforms: &[Platform],
    calls: &[Arc<FrontendCall>],
    about: &About,
) -> Result<Facts, SolveError> {
    let (definition, platform) = own;
    let trace = job.bridge.trace();
    // What frontends read on the way counts for all results.
    let read = trace.results().into_iter().filter(|(id, _)| !results.ids.contains(id));
    let definitions: Vec<Arc<Definition>> = std::iter::once(definition.clone())
        .chain(read.map(|(_, definition)| definition))
        .collect();
    let host = host(job);
    let mut capture = Capture::default();
    for vertex in job.build.capture(&definitions).await? {
        capture.add(&vertex, &host);
    }
    let names = trace.names().into_iter().map(|mut name| {
        name.platform.get_or_insert_with(|| host.clone());
        name
    });
    capture.images = capture::of_platform(capture.images.drain(..).chain(names).collect(), platforms, platform);
    capture.locals.sort();
    let told = request::tell(calls, &capture, trace);
    let mut request = told.asked.request;
    request.compatibility_version = about.compatibility_version;
    Ok(Facts {
        invocation: about.id.clone(),
        started: about.started,
        finished: Timestamp::now(),
        origin: told.asked.config_source,
        materials: materials::materials(&capture),
        is_complete: told.is_complete && capture.locals.is_empty(),
        has_network: capture.has_network,
        platform: host.to_string(),
        dockerfile_version: (request.frontend == DOCKERFILE).then_some(cairn_dockerfile::VERSION),
        request,
        steps: None,
        metadata: Metadata {
            vcs: told.vcs,
            ..Metadata::default()
        },
    })
}

/// What steps run on that do not say.
fn host(job: &Job) -> Platform {
    let workers = job.bridge.workers().into_iter();
    let platform = workers.flat_map(|worker| worker.platforms).next();
    platform.unwrap_or_else(Platform::host)
}

/// The results of steps as layers, as far as they are known as such.
async fn layers(job: &Job, definition: &Arc<Definition>) -> Result<Layers, SolveError> {
    let worker = &job.forwarder.worker;
    let mut layers = Layers::new();
    for (vertex, outputs) in job.build.known_results(definition).await? {
        for (place, output) in outputs.iter().enumerate() {
            let known = match output {
                Some(output) => worker.known_layers(output).await?,
                None => None,
            };
            if let Some(known) = known.filter(|known| !known.is_empty()) {
                layers.push((vertex, place, known));
            }
        }
    }
    Ok(layers)
}

fn with_steps(mut facts: Facts, definition: &Definition, layers: Layers) -> Result<Facts, JsonError> {
    let steps = steps::steps(definition.ops())?;
    for (vertex, output, layers) in layers {
        if let Some(&place) = steps.places.get(&vertex) {
            let key = format!("{}:{output}", steps::name(place));
            facts.metadata.layers.insert(key, vec![layers]);
        }
    }
    facts.metadata.source = steps::source(definition, &steps)?;
    facts.steps = Some(steps.config);
    Ok(facts)
}

fn incomplete(facts: &Facts) -> String {
    let locals: Vec<&str> = facts.request.locals.iter().map(|local| local.name.as_str()).collect();
    let cause = match &locals[..] {
        [] => "an input was made by another build".to_owned(),
        locals => format!("local sources are used: {}", locals.join(", ")),
    };
    format!("provenance materials are incomplete: {cause}")
}

/// Says what is not done.
fn warn(job: &Job, texts: &[String]) -> Result<(), Failure> {
    let step = job
        .build
        .step(&format!("{}-provenance", job.build.session()), "recording provenance");
    let context = step.context();
    for text in texts {
        context.progress.warn(cairn_solver::progress::Warning {
            level: 1,
            short: text.clone().into(),
            detail: Vec::new(),
            url: String::new(),
            file: None,
            ranges: Vec::new(),
        });
    }
    Ok(step.finish(Ok(()))?)
}
