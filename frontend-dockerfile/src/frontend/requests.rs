//! Answers to requests for something else than a build.

use std::collections::HashSet;

use cairn_solver::frontend::{FrontendError, FrontendResult};
use cairn_solver::{SolveError, WorkerError};

use crate::checks::{self, Finding};
use crate::dockerfile::Dockerfile;
use crate::error::DockerfileError;
use crate::options::Options;
use crate::subrequest::{self, Answer, BuildError, Lint, Subrequest};

use super::{Build, Built};

/// Refuses to do without a capability that the client insists on. Some of them (`elsewhere`) may only be refused once it
/// is clear that no other frontend takes over.
pub(super) fn check_caps(options: &Options, elsewhere: bool) -> Result<(), FrontendError> {
    let mut missing = options.missing_caps.iter();
    match missing.find(|cap| cap.may_be_elsewhere == elsewhere) {
        Some(cap) => Err(FrontendError::Capability(cap.name.clone())),
        None => Ok(()),
    }
}

impl Build<'_> {
    /// Answers the request.
    pub(super) async fn answer(&self) -> Result<FrontendResult, FrontendError> {
        let answer = match self.options.subrequest() {
            Some(Subrequest::Describe) => subrequest::describe(),
            Some(Subrequest::Targets) => self.targets()?,
            Some(Subrequest::Outline) => self.outline().await?,
            Some(Subrequest::Lint) => self.lint().await?,
            Some(Subrequest::ConvertLlb) => self.convert().await?,
            None => {
                let id = self.options.request.clone().unwrap_or_default();
                return Err(FrontendError::Subrequest(id));
            }
        };
        Ok(answer.into())
    }

    /// Needs nothing but the text: a file of which only some stage cannot be built still has stages.
    fn targets(&self) -> Result<Answer, FrontendError> {
        let data = &self.inputs.file.data;
        let file = Dockerfile::parse(data);
        if data.is_empty() {
            return Err(self.located(DockerfileError::whole("file with no instructions")));
        }
        if !file.errors.is_empty() && !has_only_arguments(&file) {
            return Err(self.all_errors(&file));
        }
        Ok(subrequest::targets(&file, data))
    }

    async fn outline(&self) -> Result<Answer, FrontendError> {
        let file = Dockerfile::parse(&self.inputs.file.data);
        let built = self.lowered(&file).await?;
        Ok(subrequest::outline(
            &file,
            &built.plan,
            &built.lowered.notes,
            &self.inputs.file.data,
        ))
    }

    async fn convert(&self) -> Result<Answer, FrontendError> {
        let file = Dockerfile::parse(&self.inputs.file.data);
        let built = self.lowered(&file).await?;
        subrequest::convert(built.lowered.definition.as_ref()).map_err(|error| FrontendError::Option(error.to_string()))
    }

    /// The build for the platform that is built on, as far as it goes without building; it is said what is odd about it.
    async fn lowered(&self, file: &Dockerfile) -> Result<Built, FrontendError> {
        if file.has_syntax_errors {
            return Err(self.all_errors(file));
        }
        let checks = self.check_config()?;
        let mut found = checks::findings(file);
        let built = self.lower_all(file, vec![self.host.clone()], &mut found).await;
        let found = checks::select(found, &checks, file);
        self.tell(&found);
        let built = built?;
        self.check_violations(&checks, &found)?;
        let first = built.into_iter().next();
        first.ok_or_else(|| FrontendError::Option("there is no platform to build for".to_owned()))
    }

    /// What is wrong is a part of the answer, and what is odd is not told otherwise.
    async fn lint(&self) -> Result<Answer, FrontendError> {
        let file = Dockerfile::parse(&self.inputs.file.data);
        let mut found = Vec::new();
        let error = match self.lint_all(&file, &mut found).await {
            Ok(()) => None,
            Err(error) if is_cancelled(&error) => return Err(error),
            Err(error) => Some(BuildError::of(&error, &self.inputs.file)),
        };
        let lint = Lint {
            found,
            error,
            file: &self.inputs.file,
            source: self.inputs.source.as_ref(),
        };
        Ok(lint.answer())
    }

    /// Checks the file for every platform, until it cannot be built for one.
    async fn lint_all(&self, file: &Dockerfile, all: &mut Vec<Finding>) -> Result<(), FrontendError> {
        if file.has_syntax_errors {
            return Err(self.all_errors(file));
        }
        let checks = self.check_config()?;
        let mut said = HashSet::new();
        for platform in self.platforms() {
            let mut found = checks::findings(file);
            let built = self.lower_all(file, vec![platform], &mut found).await;
            let found = checks::select(found, &checks, file);
            let outcome = built.and_then(|_| self.check_violations(&checks, &found));
            // What was found for a platform before is not told again; what is found twice in one is.
            let key = |finding: &Finding| (finding.message.clone(), finding.lines.first);
            let news: Vec<Finding> = found.into_iter().filter(|found| !said.contains(&key(found))).collect();
            said.extend(news.iter().map(key));
            all.extend(news);
            outcome?;
        }
        Ok(())
    }
}

/// Whether nothing is wrong with a file but that it has no stages.
fn has_only_arguments(file: &Dockerfile) -> bool {
    let is_about_a_place = file.errors.iter().any(|error| !error.locations.is_empty());
    file.stages.is_empty() && !file.global_args.is_empty() && file.errors.len() == 1 && !is_about_a_place
}

fn is_cancelled(error: &FrontendError) -> bool {
    match error {
        FrontendError::At { source, .. } | FrontendError::For { source, .. } | FrontendError::Called { source, .. } => {
            is_cancelled(source)
        }
        FrontendError::Solve(SolveError::Cancelled | SolveError::Worker(WorkerError::Cancelled)) => true,
        FrontendError::Solve(SolveError::Vertex(failed)) => matches!(failed.source, WorkerError::Cancelled),
        _ => false,
    }
}
