//! `cairn build` as meant: arguments checked against each other, paths found, defaults filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::args::{BuildArgs, ProgressMode};
use crate::csv;
use crate::error::CliError;
use crate::surroundings::Surroundings;

mod attest;
mod cache;
mod call;
mod input;
mod named;
mod output;
mod secret;
mod ssh;

pub(crate) use cache::CachePlan;
pub(crate) use call::{Call, Format};
pub(crate) use input::{Context, Dockerfile};
pub(crate) use named::NamedContexts;
pub(crate) use output::{Destination, Output};
pub(crate) use secret::{SecretOrigin, SecretPlan};

/// Everything a build needs, with nothing left to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BuildPlan {
    /// The files of the build.
    pub(crate) context: Context,
    /// What of this machine has a name in the build.
    pub(crate) named: NamedContexts,
    /// The instructions.
    pub(crate) dockerfile: Dockerfile,
    /// Options of the frontend.
    pub(crate) frontend_attrs: BTreeMap<String, String>,
    /// What is asked for instead of a build.
    pub(crate) call: Option<Call>,
    /// What becomes of the result.
    pub(crate) outputs: Vec<Output>,
    /// What RUN steps may read.
    pub(crate) secrets: Vec<SecretPlan>,
    /// The ssh agents that RUN steps and git may use, by id.
    pub(crate) agents: BTreeMap<String, PathBuf>,
    /// Privileges that the build may use, as the daemon names them.
    pub(crate) allow: Vec<String>,
    /// Caches that may know results.
    pub(crate) cache_from: Vec<CachePlan>,
    /// Caches that are made of the build.
    pub(crate) cache_to: Vec<CachePlan>,
    /// Whether to say why each step ran.
    pub(crate) explain: bool,
    /// How progress is shown; never [`ProgressMode::Auto`].
    pub(crate) progress: ProgressMode,
    /// Where to write what is known about the result.
    pub(crate) metadata_file: Option<PathBuf>,
}

impl BuildPlan {
    /// Makes a plan of the arguments.
    ///
    /// # Errors
    /// [`CliError::Usage`] for what contradicts itself or does not exist.
    pub(crate) fn new(args: &BuildArgs, surroundings: &Surroundings) -> Result<Self, CliError> {
        let context = Context::find(&args.context, surroundings)?;
        let dockerfile = Dockerfile::find(args.file.as_deref(), &context, surroundings)?;
        let mut frontend_attrs = frontend_attrs(args, surroundings)?;
        context.add_attrs(&mut frontend_attrs);
        dockerfile.add_attrs(&mut frontend_attrs);
        let named = NamedContexts::find(&args.build_contexts, &mut frontend_attrs, surroundings)?;
        let call = Call::find(args)?;
        if let Some(call) = &call {
            call.add_attrs(&mut frontend_attrs);
        }
        let outputs = output::resolve(&args.outputs, &args.tags, args.push, surroundings)?;
        let secrets = args.secrets.iter().map(|text| SecretPlan::parse(text, surroundings));
        Ok(Self {
            context,
            named,
            dockerfile,
            frontend_attrs,
            call,
            outputs,
            secrets: secret::distinct(secrets.collect::<Result<_, _>>()?)?,
            agents: ssh::agents(&args.ssh, surroundings)?,
            allow: args.allow.clone(),
            cache_from: caches(&args.cache_from, |text| CachePlan::from(text, surroundings))?,
            cache_to: caches(&args.cache_to, |text| CachePlan::to(text, surroundings))?,
            explain: args.explain,
            progress: progress_mode(args.progress, surroundings)?,
            metadata_file: args.metadata_file.as_ref().map(|path| surroundings.path(path)),
        })
    }
}

fn caches(texts: &[String], parse: impl Fn(&str) -> Result<CachePlan, CliError>) -> Result<Vec<CachePlan>, CliError> {
    texts.iter().map(|text| parse(text)).collect()
}

fn frontend_attrs(args: &BuildArgs, surroundings: &Surroundings) -> Result<BTreeMap<String, String>, CliError> {
    let mut attrs = BTreeMap::new();
    for arg in &args.build_args {
        let (name, value) = named("--build-arg", arg)?;
        // Like `docker build`: one that is not set anywhere is not passed on.
        let value = value.or_else(|| surroundings.variables.get(name).map(String::as_str));
        if let Some(value) = value {
            attrs.insert(format!("build-arg:{name}"), value.to_owned());
        }
    }
    for label in &args.labels {
        let (name, value) = named("--label", label)?;
        attrs.insert(format!("label:{name}"), value.unwrap_or_default().to_owned());
    }
    if let Some(target) = &args.target {
        if target.is_empty() {
            return Err(CliError::usage("--target needs the name of a stage"));
        }
        attrs.insert("target".to_owned(), target.clone());
    }
    if !args.platforms.is_empty() {
        let mut platforms = Vec::new();
        for platform in args.platforms.iter().flat_map(|platforms| platforms.split(',')) {
            let platform = platform.trim();
            if platform.is_empty() {
                return Err(CliError::usage("--platform needs a platform such as linux/amd64"));
            }
            platforms.push(platform);
        }
        attrs.insert("platform".to_owned(), csv::join(platforms));
    }
    attest::add_attrs(args, &mut attrs)?;
    if args.no_cache {
        attrs.insert("no-cache".to_owned(), String::new());
    }
    Ok(attrs)
}

fn named<'a>(option: &str, text: &'a str) -> Result<(&'a str, Option<&'a str>), CliError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(CliError::usage(format!("invalid {option} {text:?}: it has no name")));
    }
    Ok((name, value))
}

fn progress_mode(asked: ProgressMode, surroundings: &Surroundings) -> Result<ProgressMode, CliError> {
    let dumb = surroundings.variable("TERM") == Some("dumb");
    match asked {
        ProgressMode::Auto if surroundings.stderr_is_terminal && !dumb => Ok(ProgressMode::Tty),
        ProgressMode::Auto => Ok(ProgressMode::Plain),
        ProgressMode::Tty if !surroundings.stderr_is_terminal => Err(CliError::usage_hint(
            "--progress tty needs a terminal on standard error",
            "use --progress plain",
        )),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests;
