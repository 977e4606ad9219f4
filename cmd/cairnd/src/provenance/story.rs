//! All that is known of how one result was made, and telling it.

use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::json::JsonError;
use cairn_solver::llb::Definition;
use cairn_solver::{Bridge as _, BridgeRef, Platform, SolveError, WorkerError};
use jiff::Timestamp;

use super::capture::{self, Capture};
use super::layers::{self, Layers};
use super::predicate::{Claims, Detail, Facts, Metadata};
use super::usage::{Seen, Watch};
use super::{About, Results, Settings, materials, request, steps};
use crate::jobs::Job;

/// The frontend whose language has a version.
const DOCKERFILE: &str = "dockerfile.v0";

/// What comes to be known until it is told.
pub(super) struct Known<'a> {
    /// What was used of the machine.
    pub(super) watch: &'a Watch,
    /// How many of the layers that are known are named.
    pub(super) most_layers: usize,
}

/// What is known of how the result for one platform was made.
pub(super) struct Story {
    definition: Arc<Definition>,
    /// But its steps.
    facts: Facts,
}

impl Story {
    /// Collects what is to be told of one result: `own` is what it is made of, and its platform, one of `platforms`.
    pub(super) async fn of(
        job: &Job,
        results: &Results,
        own: (&BridgeRef, &Platform),
        platforms: &[Platform],
        about: &About,
    ) -> Result<Self, SolveError> {
        let (reference, platform) = own;
        let trace = job.bridge.trace();
        // What frontends read on the way counts for all results.
        let read = trace.results().into_iter().filter(|(id, _)| !results.ids.contains(id));
        let definitions: Vec<Arc<Definition>> = std::iter::once(reference.definition.clone())
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
        let told = request::tell(&trace.calls(&reference.id), &capture, trace);
        let mut request = told.asked.request;
        request.compatibility_version = about.compatibility_version;
        let facts = Facts {
            invocation: about.id.clone(),
            started: about.started,
            finished: Timestamp::now(),
            origin: told.asked.config_source,
            materials: materials::materials(&capture),
            is_complete: told.is_complete && capture.locals.is_empty(),
            has_network: capture.has_network,
            platform: host.to_string(),
            environment: about.environment.clone(),
            dockerfile_version: (request.frontend == DOCKERFILE).then_some(cairn_dockerfile::VERSION),
            request,
            steps: None,
            metadata: Metadata {
                vcs: told.vcs,
                ..Metadata::default()
            },
        };
        Ok(Self {
            definition: reference.definition.clone(),
            facts,
        })
    }

    /// Bytes of all that is told in full: the ops that it consists of, the files they come from, and how those were read.
    pub(super) fn size(&self) -> usize {
        let files = self.definition.source().into_iter().flat_map(|source| &source.infos);
        let files = files.map(|file| {
            let read_by = file.definition.iter().flat_map(|definition| &definition.def);
            file.data.len() + read_by.map(Bytes::len).sum::<usize>()
        });
        self.definition.size() + files.sum::<usize>()
    }

    /// Why not everything that was used can be named; `None` if it can.
    pub(super) fn incomplete(&self) -> Option<String> {
        if self.facts.is_complete {
            return None;
        }
        let locals = self.facts.request.locals.iter();
        let locals: Vec<&str> = locals.map(|local| local.name.as_str()).collect();
        Some(match &locals[..] {
            [] => "an input was made by another build".to_owned(),
            locals => format!("local sources are used: {}", locals.join(", ")),
        })
    }

    /// Tells it by now: the predicate in JSON.
    ///
    /// # Errors
    /// If a step cannot be shown, or the build was given up.
    pub(super) async fn tell(&self, job: &Job, settings: &Settings, known: Known<'_>) -> Result<Bytes, SolveError> {
        let (layers, seen) = match settings.detail {
            Detail::Min => (Layers::default(), Seen::default()),
            Detail::Max => (
                layers::known(job, &self.definition, known.most_layers).await?,
                known.watch.seen(job).await,
            ),
        };
        let (facts, definition, settings) = (self.facts.clone(), self.definition.clone(), settings.clone());
        let task = tokio::task::spawn_blocking(move || {
            let claims = Claims {
                builder_id: &settings.builder_id,
                is_reproducible: settings.is_reproducible,
            };
            let facts = match settings.detail {
                Detail::Min => facts.reduced(),
                Detail::Max => with_steps(facts, &definition, layers, seen).map_err(|error| error.to_string())?,
            };
            facts
                .to_json(settings.version, claims)
                .map_err(|error| error.to_string())
        });
        let failed = |cause: String| WorkerError::Failed(format!("failed to state how a result was made: {cause}"));
        let json = task.await.map_err(|error| failed(error.to_string()))?;
        Ok(json.map_err(failed)?.into())
    }
}

/// What steps run on that do not say.
fn host(job: &Job) -> Platform {
    let workers = job.bridge.workers().into_iter();
    let platform = workers.flat_map(|worker| worker.platforms).next();
    platform.unwrap_or_else(Platform::host)
}

fn with_steps(mut facts: Facts, definition: &Definition, layers: Layers, seen: Seen) -> Result<Facts, JsonError> {
    let mut steps = steps::steps(definition.ops())?;
    for (vertex, used) in &seen.steps {
        if let Some(&place) = steps.places.get(vertex) {
            steps.config.llb_definition[place].resource_usage = Some(used.into());
        }
    }
    facts.metadata.sys_usage = seen.machine;
    for (vertex, output, chain) in layers {
        if let Some(&place) = steps.places.get(&vertex) {
            let key = format!("{}:{output}", steps::name(place));
            facts.metadata.layers.insert(key, vec![chain]);
        }
    }
    facts.metadata.source = steps::source(definition, &steps)?;
    facts.steps = Some(steps.config);
    Ok(facts)
}
