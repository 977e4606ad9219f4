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
//! | [`environment`] | what operators add |
//! | [`usage`] | what was used of the machine |
//! | [`steps`], [`layers`] | definitions as lists of steps, and what those are known as |
//! | [`story`] | all that is known of one result |
//! | [`predicate`] | what is told of that, and the forms [`v1`] and [`v02`] |

mod capture;
mod environment;
mod layers;
mod materials;
mod predicate;
mod request;
mod settings;
mod steps;
mod story;
mod usage;
mod v02;
mod v1;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::attestation::{INLINE_ONLY, REASON};
use cairn_solver::progress::Warning;
use cairn_solver::{
    Attestation, AttestationSource, FrontendRefs, FrontendResult, Platform, PredicateSource, SolveError, WorkerError,
};
use cairn_worker::service::ExportInput;
use jiff::Timestamp;

pub(crate) use self::environment::Environment;
pub(crate) use self::environment::EnvironmentError;
use self::predicate::{Detail, Version};
pub(crate) use self::settings::{Settings, recorded};
use self::story::{Known, Story};
pub(crate) use self::usage::Watch;
use crate::failure::Failure;
use crate::jobs::Job;

/// What is said where there are no control groups.
const NOT_MEASURED: &str =
    "provenance does not tell what steps used of the machine: there are no control groups to count it";
/// Why a statement was made, in its notes.
const REASON_PROVENANCE: &str = "provenance";
/// Bytes of ops from which on a record of a build does not list the steps.
const MAX_RECORDED: usize = 4 << 20;
/// Most layers that a statement names, and a record.
const MAX_LAYERS: usize = 32_768;
const MAX_RECORDED_LAYERS: usize = 4_096;

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
pub(crate) struct About {
    /// The id of the build.
    pub(crate) id: String,
    pub(crate) started: Timestamp,
    /// The version of outputs that the client asked for; 0 is the newest.
    pub(crate) compatibility_version: i64,
    /// What operators add.
    pub(crate) environment: Environment,
    /// The form in which its record keeps them.
    pub(crate) recorded: Version,
    /// What it uses of the machine.
    pub(crate) watch: Watch,
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

/// How the results of a build were made.
pub(crate) struct Provenance {
    job: Arc<Job>,
    /// By the ids of platforms.
    stories: Vec<(String, Arc<Story>)>,
    is_single: bool,
    recorded: Version,
    watch: Watch,
}

impl Provenance {
    /// Finds out how `results` were made, which are now exported as `input`. A result of nothing has no story.
    ///
    /// # Errors
    /// If what the frontend says about the results does not fit them, or the build was given up.
    pub(crate) async fn of(
        job: &Arc<Job>,
        results: &Results,
        input: &ExportInput,
        about: &About,
    ) -> Result<Self, SolveError> {
        let listed = input.platforms()?;
        let platforms: Vec<Platform> = listed.iter().map(|(_, platform)| platform.clone()).collect();
        let mut stories = Vec::new();
        for (id, platform) in listed {
            let reference = match &results.refs {
                FrontendRefs::Single(reference) => reference.as_ref(),
                FrontendRefs::Platforms(refs) => refs.get(&id).and_then(Option::as_ref),
            };
            if let Some(reference) = reference {
                let story = Story::of(job, results, (reference, &platform), &platforms, about).await?;
                stories.push((id, Arc::new(story)));
            }
        }
        Ok(Self {
            job: job.clone(),
            stories,
            is_single: matches!(results.refs, FrontendRefs::Single(_)),
            recorded: about.recorded,
            watch: about.watch.clone(),
        })
    }

    /// States it of the results, as the client wants it.
    ///
    /// # Errors
    /// If it is not complete although it has to be.
    pub(crate) fn attest(&self, settings: &Settings, input: &mut ExportInput) -> Result<(), Failure> {
        let mut notes = settings.ignored.clone();
        if self.watch.is_on() && !self.job.forwarder.worker.can_measure() {
            notes.push(NOT_MEASURED.to_owned());
        }
        if !notes.is_empty() {
            warn(&self.job, &notes)?;
        }
        for (platform, story) in &self.stories {
            if settings.must_be_complete
                && let Some(cause) = story.incomplete()
            {
                return Err(Failure::unknown(format!(
                    "provenance materials are incomplete: {cause}"
                )));
            }
            let source = Testimony {
                job: self.job.clone(),
                story: story.clone(),
                settings: settings.clone(),
                watch: self.watch.clone(),
            };
            let source = AttestationSource::Predicate(Arc::new(source));
            let kind = settings.version.predicate_type();
            let statement = Attestation::new(kind, settings.file.clone(), source)
                .with_metadata(REASON, REASON_PROVENANCE)
                .with_metadata(INLINE_ONLY, settings.is_inline_only.to_string());
            input.attestations.entry(platform.clone()).or_default().push(statement);
        }
        Ok(())
    }

    /// States it for the record of the build, when all that is known is known.
    ///
    /// # Errors
    /// If a definition cannot be shown.
    pub(crate) async fn record(&self, settings: Option<&Settings>) -> Result<Predicates, SolveError> {
        let settings = settings.cloned().unwrap_or_default();
        let mut predicates = Predicates::new();
        for (platform, story) in &self.stories {
            let settings = Settings {
                version: self.recorded,
                detail: match story.size() <= MAX_RECORDED {
                    true => Detail::Max,
                    false => Detail::Min,
                },
                ..settings.clone()
            };
            let known = Known {
                watch: &self.watch,
                most_layers: MAX_RECORDED_LAYERS,
            };
            let predicate = Predicate {
                kind: self.recorded.predicate_type(),
                json: story.tell(&self.job, &settings, known).await?,
            };
            predicates.push(((!self.is_single).then(|| platform.clone()), predicate));
        }
        Ok(predicates)
    }
}

/// What is stated of a result, told when that is exported: only then it is known which layers it has.
struct Testimony {
    job: Arc<Job>,
    story: Arc<Story>,
    settings: Settings,
    watch: Watch,
}

impl std::fmt::Debug for Testimony {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Testimony")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl PredicateSource for Testimony {
    async fn tell(&self) -> Result<Bytes, WorkerError> {
        let known = Known {
            watch: &self.watch,
            most_layers: MAX_LAYERS,
        };
        let told = self.story.tell(&self.job, &self.settings, known).await;
        told.map_err(|error| match error {
            SolveError::Cancelled => WorkerError::Cancelled,
            SolveError::Worker(error) => error,
            other => WorkerError::Failed(other.to_string()),
        })
    }
}

/// Says what is not done.
fn warn(job: &Job, texts: &[String]) -> Result<(), Failure> {
    let step = job
        .build
        .step(&format!("{}-provenance", job.build.session()), "recording provenance");
    let context = step.context();
    for text in texts {
        context.progress.warn(Warning {
            level: 1,
            short: text.clone().into(),
            ..Warning::default()
        });
    }
    Ok(step.finish(Ok(()))?)
}
