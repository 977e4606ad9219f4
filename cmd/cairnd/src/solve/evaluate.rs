//! Making the results that a frontend came to, for those who take them.

use cairn_solver::{AttestationSource, FrontendRefs, FrontendResult, SolveError};
use cairn_worker::service::{self, ExportInput, ExportRefs};
use futures_util::future::try_join_all;

use crate::failure::Failure;
use crate::jobs::Job;

/// Makes all results of a frontend, and has their files brought here that exporters need.
pub(super) async fn evaluate(
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
