//! What a build hands over, and to whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_proto::control::{Exporter, SolveRequest};
use cairn_solver::progress::{VertexProgress, Warning};
use cairn_solver::{SolveError, WorkerError};
use cairn_worker::service::{self, ExportInput, ExporterRequest};
use futures_util::future::try_join_all;
use jiff::Timestamp;

use crate::caches::CacheExports;
use crate::client_exporters::ExportingClient;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::jobs::Job;
use crate::provenance::{self, About, Predicates, Provenance, Watch};

/// What a build hands over.
pub(super) struct Outputs {
    pub(super) exporters: Vec<Box<dyn service::Exporter>>,
    pub(super) caches: CacheExports,
    /// Whom to ask for more exporters.
    pub(super) client: ExportingClient,
    /// How it is to be stated how results were made.
    provenance: Option<provenance::Settings>,
    /// Whether the build is remembered.
    is_recorded: bool,
    about: About,
}

impl Outputs {
    /// What a client asks for. Nothing is done yet.
    ///
    /// # Errors
    /// What of it makes no sense.
    pub(super) fn of(daemon: &Daemon, request: &mut SolveRequest) -> Result<Self, Failure> {
        let provenance = provenance::Settings::of(&request.frontend_attrs).map_err(Failure::unknown)?;
        Ok(Self {
            exporters: exporters(daemon, request)?,
            caches: CacheExports::of(daemon.worker.as_ref(), request.cache.as_ref())?,
            is_recorded: !request.internal,
            about: About {
                id: request.r#ref.clone(),
                started: Timestamp::now(),
                compatibility_version: request.compatibility_version,
                environment: daemon.environment.clone(),
                recorded: provenance::recorded(&request.frontend_attrs),
                watch: Watch::of(provenance.as_ref()),
            },
            provenance,
            client: ExportingClient::of(request),
        })
    }

    /// Whether it is to be measured what steps use of the machine.
    pub(super) fn measures(&self) -> bool {
        self.about.watch.is_on()
    }

    /// Finds out how results were made, and has it stated with them if the client wants that. `None` if nobody wants
    /// to know.
    pub(super) async fn state(
        &self,
        job: &Arc<Job>,
        results: &provenance::Results,
        input: &mut ExportInput,
    ) -> Result<Option<Provenance>, Failure> {
        if self.provenance.is_none() && !self.is_recorded {
            return Ok(None);
        }
        let provenance = match Provenance::of(job, results, input, &self.about).await {
            Ok(provenance) => provenance,
            // Nobody asked for it.
            Err(error) if self.provenance.is_none() => {
                self.unrecorded(&error);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(settings) = &self.provenance {
            provenance.attest(settings, input)?;
        }
        Ok(Some(provenance))
    }

    /// Runs all exporters at the same time, and returns what each says. Users are told of `findings`, with the first.
    pub(super) async fn export(
        &self,
        job: &Job,
        input: &ExportInput,
        findings: &[String],
    ) -> Result<Vec<BTreeMap<String, String>>, Failure> {
        if self.exporters.is_empty() && !findings.is_empty() {
            let step = job
                .build
                .step(&format!("{}-verify", job.build.session()), "Verifying build result");
            tell(&step.context().progress, findings);
            step.finish(Ok(()))?;
        }
        let exports = self.exporters.iter().enumerate().map(async |(index, exporter)| {
            let key = format!("{}-export-{index}", job.build.session());
            let step = job.build.step(&key, exporter.title());
            let context = step.context();
            if index == 0 {
                tell(&context.progress, findings);
            }
            step.finish(exporter.export(input, &context).await)
        });
        Ok(try_join_all(exports).await?)
    }

    /// States for the record of the build how its results were made, which were handed over.
    pub(super) async fn record(&self, provenance: Option<Provenance>) -> Predicates {
        let Some(provenance) = provenance.filter(|_| self.is_recorded) else {
            return Predicates::new();
        };
        let recorded = provenance.record(self.provenance.as_ref()).await;
        recorded.unwrap_or_else(|error| {
            self.unrecorded(&error);
            Predicates::new()
        })
    }

    fn unrecorded(&self, error: &SolveError) {
        tracing::debug!(build = self.about.id, %error, "it is not recorded how results were made");
    }
}

fn tell(progress: &VertexProgress, findings: &[String]) {
    for finding in findings {
        progress.warn(Warning {
            short: finding.clone().into(),
            ..Warning::default()
        });
    }
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
