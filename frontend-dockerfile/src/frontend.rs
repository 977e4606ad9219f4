//! The frontend `dockerfile.v0`: from a request to results.
//!
//! One request is: understand the options, read the Dockerfile and the ignore file, then for each platform plan, resolve
//! base images (all at once, while the client sends the build context) and lower; and name the results.

mod ahead;
mod context;
mod epoch;
mod forward;
mod host_keys;
mod inputs;
mod metadata;
mod requests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use cairn_solver::frontend::{
    Bridge, BridgeRef, Frontend, FrontendError, FrontendRefs, FrontendRequest, FrontendResult,
};
use cairn_solver::llb::{SourceFile, SourceLocation, SourceOp};
use cairn_solver::progress::Warning;
use cairn_solver::worker::{ImageQuery, LayoutStore};
use cairn_solver::{Attestation, Platform, SolveError, WorkerError};
use futures_util::future::{join_all, try_join, try_join_all};
use tokio::sync::{Mutex, OnceCell, SetOnce};

use crate::checks::{self, CheckConfig, Finding, Findings};
use crate::dockerfile::Dockerfile;
use crate::error::DockerfileError;
use crate::lower::{self, Lowered, Surroundings};
use crate::options::{Options, is_labs};
use crate::plan::{ContextImage, GraphBase, Plan, Resolved, Wanted};
use crate::platform;
use crate::sbom::{self, Scanned, Scanner};
use crate::suggest::suggestion;
use crate::syntax;

pub(crate) use host_keys::HostKeys;
use inputs::Inputs;

/// How often policies may put something else in the place of one named context.
const MAX_REPLACEMENTS: usize = 10;

/// Builds Dockerfiles.
///
/// Stateless; one serves any number of builds at once, on a runtime that has a clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct DockerfileFrontend;

#[async_trait]
impl Frontend for DockerfileFrontend {
    /// Cancel safe: nothing outlives the call but lazily built results.
    async fn solve(&self, bridge: Arc<dyn Bridge>, request: FrontendRequest) -> Result<FrontendResult, FrontendError> {
        let host = sbom::build_platform(bridge.as_ref());
        let mut options = Options::parse(&request.options, &host).map_err(FrontendError::Option)?;
        requests::check_caps(&options, false)?;
        let inputs = request.inputs.iter();
        options.inputs = inputs
            .map(|(name, input)| (name.clone(), Arc::new(input.clone())))
            .collect();
        let host_keys = HostKeys::default();
        let inputs = Inputs::read(bridge.as_ref(), &options, &host_keys).await?;
        if let Some(forwarded) = forward::forward(&bridge, &options, &inputs, &request).await {
            return forwarded;
        }
        for name in &options.unknown {
            let warning = Warning {
                level: 1,
                short: format!("frontend option {name} is unknown and has no effect").into(),
                ..Warning::default()
            };
            bridge.warn(Some(inputs.vertex), warning);
        }
        Build {
            bridge: bridge.as_ref(),
            options: &options,
            inputs: &inputs,
            host,
            host_keys: &host_keys,
            images: Mutex::default(),
        }
        .run()
        .await
    }
}

/// One request under way.
struct Build<'a> {
    bridge: &'a dyn Bridge,
    options: &'a Options,
    inputs: &'a Inputs,
    host: Platform,
    host_keys: &'a HostKeys,
    images: Mutex<HashMap<ImageKey, Arc<OnceCell<Found>>>>,
}

/// What tells look-ups of images apart: reference, platform, and the named context it is for.
type ImageKey = (String, Platform, Option<ContextImage>);

/// What a look-up of an image came to.
#[derive(Clone)]
enum Found {
    /// The image.
    Image(Box<Resolved>),
    /// The specifier of something else, which policies put in its place.
    Instead(String),
}

/// A platform of a request, ready to be lowered.
struct Planned {
    plan: Plan,
    epoch: Option<i64>,
    context_ignores: BTreeMap<String, Vec<String>>,
}

/// A platform of a request, lowered.
struct Built {
    platform: Platform,
    plan: Plan,
    lowered: Lowered,
    epoch: Option<i64>,
}

impl Build<'_> {
    async fn run(&self) -> Result<FrontendResult, FrontendError> {
        requests::check_caps(self.options, true)?;
        if self.options.request.is_some() {
            return self.answer().await;
        }
        let file = Dockerfile::parse(&self.inputs.file.data);
        if file.has_syntax_errors {
            return Err(self.all_errors(&file));
        }
        let checks = self.check_config()?;
        let mut found = checks::findings(&file);
        let built = try_join(self.lower_all(&file, self.platforms(), &mut found), self.scanner()).await;
        // Also of a build that fails it is said what is odd about it, which may well be the reason.
        let found = checks::select(found, &checks, &file);
        self.tell(&found);
        let (built, scanner) = built?;
        self.check_violations(&checks, &found)?;
        self.result(built, scanner.as_ref()).await
    }

    /// What looks into the results, if that is asked for.
    async fn scanner(&self) -> Result<Option<Scanner>, FrontendError> {
        match self.options.scanner() {
            Some(generator) => generator
                .resolve(self.bridge, self.options.resolve_mode)
                .await
                .map(Some),
            None => Ok(None),
        }
    }

    /// The platforms that are built for.
    fn platforms(&self) -> Vec<Platform> {
        match self.options.platforms.as_slice() {
            [] => vec![self.host.clone()],
            asked => asked.to_vec(),
        }
    }

    /// Tells the client what was found, as far as somebody would read that.
    fn tell(&self, found: &[Finding]) {
        const MAX: usize = 1_000;
        /// Most bytes that the copies of the file may take that findings carry.
        const MAX_COPIES_BYTES: usize = 64 << 20;
        let copies = MAX_COPIES_BYTES / self.inputs.file.data.len().max(1);
        for (index, finding) in found.iter().take(MAX).enumerate() {
            let mut warning = finding.warning(&self.inputs.file);
            if index > copies {
                warning.file = None;
                warning.ranges.clear();
            }
            self.bridge.warn(Some(self.inputs.vertex), warning);
        }
        if let Some(more) = found.len().checked_sub(MAX).filter(|more| *more > 0) {
            let warning = Warning {
                level: 1,
                short: format!("and {more} more findings of build checks").into(),
                ..Warning::default()
            };
            self.bridge.warn(Some(self.inputs.vertex), warning);
        }
    }

    /// Fails if the file does not allow what was found in it.
    fn check_violations(&self, checks: &CheckConfig, found: &[Finding]) -> Result<(), FrontendError> {
        if !checks.error || found.is_empty() {
            return Ok(());
        }
        let rules: BTreeSet<&str> = found.iter().map(|finding| finding.rule.name).collect();
        let rules = rules.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("lint violation found for rules: {rules}");
        Err(self.located(DockerfileError::whole(message)))
    }

    /// Lowers the file for every platform. As every platform is built from the same text, what checks find for the
    /// first one joins `found` and says it all.
    async fn lower_all(
        &self,
        file: &Dockerfile,
        platforms: Vec<Platform>,
        found: &mut Findings,
    ) -> Result<Vec<Built>, FrontendError> {
        if !file.errors.is_empty() {
            return Err(self.all_errors(file));
        }
        let mut others = vec![Findings::default(); platforms.len().saturating_sub(1)];
        let plans = std::iter::once(&mut *found).chain(&mut others);
        let plans = platforms.iter().zip(plans);
        let plans = try_join_all(plans.map(|(platform, found)| self.plan(file, platform, found)));
        let rules = SetOnce::new();
        let ignore = async {
            let ignore = self.inputs.ignore(self.bridge, self.options).await?;
            // There is no other to set it.
            let _is_first = rules.set(ignore.clone());
            Ok(ignore)
        };
        let (plans, ignore) = tokio::select! {
            biased;
            found = try_join(plans, ignore) => found?,
            never = self.load_context_ahead(file, &platforms[0], &rules) => match never {},
        };
        let mut built = Vec::with_capacity(plans.len());
        for (index, (platform, mut planned)) in platforms.into_iter().zip(plans).enumerate() {
            let epoch = planned.epoch;
            let found = if index == 0 {
                &mut *found
            } else {
                &mut Findings::default()
            };
            let lowered = self.lower(file, &mut planned, ignore.clone(), found).await?;
            built.push(Built {
                platform: described(platform, &lowered.platform),
                plan: planned.plan,
                lowered,
                epoch,
            });
        }
        Ok(built)
    }

    fn all_errors(&self, file: &Dockerfile) -> FrontendError {
        self.located(DockerfileError::joined(&file.errors, self.inputs.file.data.len()))
    }

    /// Whether the file may use what is being tried out.
    fn is_labs(&self) -> bool {
        if self.options.has_cmdline {
            return self.options.is_labs;
        }
        match self.options.build_args.get("BUILDKIT_SYNTAX") {
            Some(asked) => is_labs(asked),
            None => syntax::external_syntax(&self.inputs.file.data).is_some_and(|directive| is_labs(&directive.value)),
        }
    }

    /// Which checks count. The build argument, even if empty, replaces the directive.
    fn check_config(&self) -> Result<CheckConfig, FrontendError> {
        if let Some(asked) = &self.options.checks {
            return Ok(asked.clone());
        }
        let Some(directive) = syntax::check_directive(&self.inputs.file.data) else {
            return Ok(CheckConfig::default());
        };
        let value = directive.value.split(' ').next().unwrap_or_default();
        CheckConfig::parse(value).map_err(|cause| {
            self.located(DockerfileError::at(
                directive.lines,
                format!("failed to parse check options: {cause}"),
            ))
        })
    }

    /// Plans one platform and finds out all that is needed to lower it.
    async fn plan(
        &self,
        file: &Dockerfile,
        platform: &Platform,
        found: &mut Findings,
    ) -> Result<Planned, FrontendError> {
        let mut plan =
            Plan::new(file, self.options, platform, &self.host, found).map_err(|error| self.located(error))?;
        let epoch = epoch::asked(&plan, file, self.options, &self.inputs.context);
        let epoch = epoch.map_err(|error| self.located(error))?.resolve(self.bridge).await?;
        epoch::settle(&mut plan, epoch);
        let mut replaced: HashMap<usize, usize> = HashMap::new();
        loop {
            let wanted = plan.wanted();
            if wanted.is_empty() {
                break;
            }
            let found = try_join_all(wanted.iter().map(|wanted| self.image(&plan, wanted))).await?;
            for (wanted, found) in wanted.iter().zip(found) {
                let taken = match found {
                    Found::Image(found) => plan.resolved(self.options, wanted.stage, found),
                    Found::Instead(specifier) => {
                        let times = replaced.entry(wanted.stage).or_default();
                        *times += 1;
                        if *times > MAX_REPLACEMENTS {
                            let message = format!(
                                "context recursion limit exceeded; this may indicate a cycle in the provided source \
                                 policies: {specifier}"
                            );
                            return Err(FrontendError::Option(message));
                        }
                        plan.replaced(self.options, wanted.stage, &specifier)
                    }
                };
                taken.map_err(|error| self.located(error))?;
            }
            plan.settle().map_err(|error| self.located(error))?;
        }
        for graph in plan.graphs_mut() {
            self.name_host_keys(graph).await?;
        }
        let context_ignores = Inputs::context_ignores(self.bridge, self.options, &plan).await?;
        Ok(Planned {
            plan,
            epoch,
            context_ignores,
        })
    }

    /// Has a named context say which keys its ssh host presents, if it is a repository there.
    async fn name_host_keys(&self, graph: &mut GraphBase) -> Result<(), FrontendError> {
        let Some(SourceOp::Git(git)) = graph.source.as_deref_mut() else {
            return Ok(());
        };
        self.host_keys.ask(self.bridge, git).await;
        let before = git.clone();
        self.host_keys.fill(git);
        if *git != before {
            let source = SourceOp::Git(git.clone());
            graph.definition = Arc::new(context::with_source(&graph.definition, source).map_err(SolveError::from)?);
        }
        Ok(())
    }

    async fn lower(
        &self,
        file: &Dockerfile,
        planned: &mut Planned,
        ignore: Vec<String>,
        found: &mut Findings,
    ) -> Result<Lowered, FrontendError> {
        let surroundings = Surroundings {
            context_ignores: std::mem::take(&mut planned.context_ignores),
            epoch: planned.epoch,
            ..self.surroundings(file, ignore)
        };
        let lower = |found: &mut Findings| {
            lower::lower(&planned.plan, &surroundings, found).map_err(|error| self.located(error))
        };
        let before = found.clone();
        let lowered = lower(found)?;
        if lowered.unknown_hosts.is_empty() {
            return Ok(lowered);
        }
        // Only lowering tells which repositories `ADD` means.
        let unknown = lowered.unknown_hosts.iter();
        join_all(unknown.map(|source| self.host_keys.ask(self.bridge, source))).await;
        *found = before;
        lower(found)
    }

    /// What is known about the build apart from what is planned.
    fn surroundings(&self, file: &Dockerfile, ignore: Vec<String>) -> Surroundings<'_> {
        Surroundings {
            options: self.options,
            file: self.inputs.file.clone(),
            session: self.bridge.session_id().to_owned(),
            context: self.inputs.context.files.clone(),
            ignore,
            context_ignores: BTreeMap::new(),
            escape: file.directives.escape_char(),
            is_labs: self.is_labs(),
            epoch: None,
            host_keys: self.host_keys,
        }
    }

    /// Looks an image up; once, however many stages and platforms want it.
    async fn image(&self, plan: &Plan, wanted: &Wanted) -> Result<Found, FrontendError> {
        let key = (
            wanted.reference.clone(),
            wanted.platform.clone(),
            wanted.context.clone(),
        );
        let cell = Arc::clone(self.images.lock().await.entry(key).or_default());
        cell.get_or_try_init(|| self.look_up(plan, wanted)).await.cloned()
    }

    async fn look_up(&self, plan: &Plan, wanted: &Wanted) -> Result<Found, FrontendError> {
        let reference = &wanted.reference;
        let name = match (&wanted.context, self.options.multi_platform) {
            (Some(context), _) => {
                let image = if wanted.layout.is_none() {
                    &context.written
                } else {
                    reference
                };
                format!("[context {}] load metadata for {image}", context.title)
            }
            (None, true) => {
                let platform = platform::full(&wanted.platform);
                format!("[{platform} internal] load metadata for {reference}")
            }
            (None, false) => format!("[internal] load metadata for {reference}"),
        };
        let query = ImageQuery {
            reference: reference.clone(),
            platform: Some(wanted.platform.clone()),
            mode: self.options.resolve_mode,
            layout: wanted.layout.as_ref().map(|store| LayoutStore {
                session: Some(self.bridge.session_id().to_owned()),
                store: store.clone(),
            }),
        };
        match self.bridge.resolve_image(query, &name).await {
            Ok(found) => {
                let image = plan.stages[wanted.stage].image(&found.config);
                Ok(Found::Image(Box::new(Resolved {
                    reference: found.reference,
                    digest: found.digest,
                    image: Arc::new(image.map_err(|error| self.located(error))?),
                    config: found.config,
                })))
            }
            Err(SolveError::NotAnImage { instead, .. }) if wanted.context.is_some() => Ok(Found::Instead(instead)),
            Err(error) => Err(self.unresolved(plan, wanted, error)),
        }
    }

    /// Says for which line an image was wanted, and what may have been meant.
    fn unresolved(&self, plan: &Plan, wanted: &Wanted, error: SolveError) -> FrontendError {
        let stage = &plan.stages[wanted.stage];
        let cause = match &error {
            SolveError::Vertex(failed) => Some(&failed.source),
            SolveError::Worker(cause) => Some(cause),
            _ => None,
        };
        if matches!(error, SolveError::Cancelled) || matches!(cause, Some(WorkerError::Cancelled)) {
            return error.into();
        }
        let common = ["alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"];
        let stages = plan.stages[..plan.declared]
            .iter()
            .filter_map(|stage| stage.name.as_deref());
        let is_missing = matches!(error, SolveError::NotFound(_)) || matches!(cause, Some(WorkerError::NotFound(_)));
        let near = if is_missing {
            suggestion(&stage.written, stages.chain(common))
        } else {
            String::new()
        };
        let message = match &error {
            SolveError::NotAnImage { .. } => format!("{}: {error}", stage.written),
            _ => format!(
                "{}: failed to resolve source metadata for {}: {error}{near}",
                stage.written, wanted.reference
            ),
        };
        self.located(DockerfileError {
            message,
            locations: vec![stage.first_lines()],
        })
    }

    async fn result(&self, built: Vec<Built>, scanner: Option<&Scanner>) -> Result<FrontendResult, FrontendError> {
        let mut result = FrontendResult {
            metadata: BTreeMap::from([metadata::platforms(built.iter().map(|built| &built.platform))]),
            ..FrontendResult::default()
        };
        let mut refs = BTreeMap::new();
        for Built {
            platform,
            lowered,
            epoch,
            ..
        } in built
        {
            let id = platform::full(&platform);
            let suffix = if self.options.multi_platform {
                format!("/{id}")
            } else {
                String::new()
            };
            result
                .metadata
                .insert(format!("containerimage.config{suffix}"), lowered.config);
            if let Some(config) = lowered.base_config {
                result
                    .metadata
                    .insert(format!("containerimage.base.config{suffix}"), config);
            }
            if let Some(epoch) = epoch {
                result
                    .metadata
                    .insert(format!("source.date.epoch{suffix}"), epoch.to_string().into());
            }
            let reference = match lowered.definition {
                Some(definition) => self.bridge.solve(definition).await?,
                None => None,
            };
            if let (Some(scanner), Some(scan)) = (scanner, lowered.scan) {
                let statements = self.scan(scanner, id.clone(), scan).await?;
                result.attestations.insert(id.clone(), vec![statements]);
            }
            refs.insert(id, reference);
        }
        result.refs = if self.options.multi_platform {
            FrontendRefs::Platforms(refs)
        } else {
            FrontendRefs::Single(refs.into_values().next().flatten())
        };
        Ok(result)
    }

    /// The statements about one platform's result.
    async fn scan(
        &self,
        scanner: &Scanner,
        platform: String,
        scan: lower::Scan,
    ) -> Result<Attestation<Option<BridgeRef>>, FrontendError> {
        let scanned = Scanned {
            platform,
            core: scan.core,
            extras: scan.extras,
            ignore_cache: scan.ignore_cache,
        };
        let mut builder = scan.builder;
        let definition = scanner.scan(&mut builder, &scanned);
        Ok(sbom::attestation(self.bridge.solve(definition).await?))
    }

    fn located(&self, error: DockerfileError) -> FrontendError {
        located(&self.inputs.file, error)
    }
}

/// A platform that was asked for, with what only the image can tell: its release of Windows.
fn described(mut platform: Platform, image: &Platform) -> Platform {
    if platform.os == "windows" && image.os == platform.os {
        if platform.os_version.is_empty() {
            platform.os_version.clone_from(&image.os_version);
        }
        if platform.os_features.is_empty() {
            platform.os_features.clone_from(&image.os_features);
        }
    }
    platform
}

/// An error with the file it is about.
fn located(file: &SourceFile, error: DockerfileError) -> FrontendError {
    let locations = error
        .locations
        .iter()
        .map(|lines| SourceLocation {
            file: 0,
            ranges: lower::ranges(*lines),
        })
        .collect();
    FrontendError::Input {
        message: error.message,
        file: Box::new(file.clone()),
        locations,
    }
}

#[cfg(test)]
mod tests;
