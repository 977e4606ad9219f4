//! From a planned build to the graph.
//!
//! Stages are lowered in the order of the file, instruction by instruction; each instruction takes the state that the one
//! before left and leaves another. Nothing is encoded before the end, because only then it is known which paths of the
//! build context are used.

mod arena;
mod chown;
mod config;
mod copy;
mod env;
mod expose;
mod mode;
mod mounts;
mod names;
mod notes;
mod path;
mod proxy;
mod remote;
mod run;
mod scan;
mod signal;
mod stage;
mod state;
mod workdir;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cairn_patterns::PatternSet;
use cairn_solver::Platform;
use cairn_solver::llb::{Definition, GitSource, LocalSource, OpMetadata, SourceFile};

use crate::budget::Budget;
use crate::checks::{Findings, Rule};
use crate::error::DockerfileError;
use crate::frontend::HostKeys;
use crate::location::Lines;
use crate::options::Options;
use crate::plan::{Base, Plan};

pub(crate) use arena::ranges;
use arena::{Arena, NodeId};
pub(crate) use notes::{ArgNote, GrantNote, StageNotes};
pub(crate) use scan::Scan;
use scan::{ScanRoots, Switches};
use state::StageState;

/// What surrounds a lowering.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) options: &'a Options,
    /// The Dockerfile, for the source map.
    pub(crate) file: SourceFile,
    /// Session that offers the client's directories.
    pub(crate) session: String,
    /// The graph that makes the build context; `None` for the client's directory.
    pub(crate) context: Option<Arc<Definition>>,
    /// Rules of the ignore file.
    pub(crate) ignore: Vec<String>,
    /// Rules of the ignore files of named contexts.
    pub(crate) context_ignores: std::collections::BTreeMap<String, Vec<String>>,
    pub(crate) escape: char,
    /// Whether the file may use what is being tried out.
    pub(crate) is_labs: bool,
    /// `SOURCE_DATE_EPOCH` in seconds.
    pub(crate) epoch: Option<i64>,
    /// Keys of the ssh hosts that were asked for them.
    pub(crate) host_keys: &'a HostKeys,
}

/// What a plan was lowered to.
#[derive(Debug)]
pub(crate) struct Lowered {
    /// The graph; `None` if there is nothing to build.
    pub(crate) definition: Option<Definition>,
    /// Config of the image.
    pub(crate) config: Bytes,
    /// The platform that it says it is for.
    pub(crate) platform: Platform,
    /// Config of the image that the target is based on.
    pub(crate) base_config: Option<Bytes>,
    /// What each stage takes from outside, if that was asked for.
    pub(crate) notes: Vec<StageNotes>,
    /// What is scanned, if that was asked for.
    pub(crate) scan: Option<Scan>,
    /// Repositories of hosts that are yet to be asked for their keys.
    pub(crate) unknown_hosts: Vec<GitSource>,
}

/// Lowers `plan`, whose images have all been resolved. What checks find on the way joins `findings`, also if it fails.
pub(crate) fn lower(
    plan: &Plan,
    surroundings: &Surroundings<'_>,
    findings: &mut Findings,
) -> Result<Lowered, DockerfileError> {
    let mut lowering = Lowering {
        plan,
        around: surroundings,
        arena: Arena::default(),
        budget: Budget::default(),
        findings,
        ignored: PatternSet::new(&surroundings.ignore).ok(),
        states: (0..plan.stages.len()).map(|_| None).collect(),
        roots: vec![None; plan.stages.len()],
        heirs: heirs(plan),
        notes: vec![StageNotes::default(); plan.stages.len()],
        created: created(surroundings.epoch),
        switches: vec![Switches::default(); plan.declared],
        unknown_hosts: Vec::new(),
        git_words: Vec::new(),
    };
    lowering.check_platforms();
    // Stages that stand for images come last in the plan, but everyone may use them.
    for index in (plan.declared..plan.stages.len()).chain(0..plan.declared) {
        if plan.stages[index].reachable {
            let state = lowering.stage(index)?;
            lowering.roots[index] = Some(state.root);
            lowering.note_switches(index, &state);
            if lowering.heirs[index] > 0 {
                lowering.states[index] = Some(state);
            }
        }
    }
    lowering.finish()
}

/// A lowering under way.
struct Lowering<'a> {
    plan: &'a Plan,
    around: &'a Surroundings<'a>,
    arena: Arena,
    budget: Budget,
    findings: &'a mut Findings,
    /// The ignore rules of the build context, for checks.
    ignored: Option<PatternSet>,
    /// What each lowered stage came to, while there are [heirs](heirs) to it.
    states: Vec<Option<StageState>>,
    /// The files that each lowered stage came to.
    roots: Vec<Option<Option<NodeId>>>,
    heirs: Vec<usize>,
    /// What each stage takes from outside.
    notes: Vec<StageNotes>,
    /// The time in history entries, if one was asked for.
    created: Option<Arc<str>>,
    /// What each stage of the file wants to be scanned.
    switches: Vec<Switches>,
    /// Repositories of hosts that are yet to be asked for their keys.
    unknown_hosts: Vec<GitSource>,
    /// Words of `ADD` that name repositories in another way than as files of a web server.
    git_words: Vec<String>,
}

/// What the build context is called among the ops, and when it is asked for.
pub(crate) const CONTEXT: &str = "context";

/// How many are yet to go on from what each stage comes to: stages based on it, and for the target whoever asked for it.
/// The last of them gets it as it is, the others copies.
fn heirs(plan: &Plan) -> Vec<usize> {
    let mut heirs = vec![0; plan.stages.len()];
    heirs[plan.target] = 1;
    for stage in plan.stages.iter().filter(|stage| stage.reachable) {
        if let Base::Stage(base) = stage.base {
            heirs[base] += 1;
        }
    }
    heirs
}

/// A time in RFC 3339.
fn created(epoch: Option<i64>) -> Option<Arc<str>> {
    let time = jiff::Timestamp::from_second(epoch?).ok()?;
    Some(time.to_string().into())
}

impl Lowering<'_> {
    fn finish(mut self) -> Result<Lowered, DockerfileError> {
        let target = self.plan.target;
        let Some(mut state) = self.states[target].take() else {
            return Err(DockerfileError::whole("target stage was not built"));
        };
        for (key, value) in &self.around.options.labels {
            state.image.set_label(key, value);
        }
        if !self.around.options.platforms.is_empty() {
            state.image.set_platform(&self.plan.platform);
        }
        state.image.normalize_platform();
        if let Some(root) = state.root {
            self.arena.use_all_of(root);
        }
        let base_config = self.base_config(target);
        let scan = self.scan();
        self.use_git_words();
        let targets = state.root.into_iter().chain(scan.iter().flat_map(ScanRoots::roots));
        let encoded = self.arena.encode(targets, &self.around.file);
        let encoded = encoded
            .map_err(|error| DockerfileError::whole(format!("failed to load LLB of a build context: {error}")))?;
        let core = state.root.map(|root| encoded.output(root));
        Ok(Lowered {
            definition: core.map(|core| encoded.builder.finish(core)),
            config: state.image.to_json(),
            platform: state.image.platform(),
            base_config,
            notes: self.notes,
            scan: scan.map(|scan| scan.encoded(core, encoded)),
            unknown_hosts: self.unknown_hosts,
        })
    }

    /// Clients are asked for what is called like a repository, as far as they are asked for anything.
    fn use_git_words(&mut self) {
        if let Some(context) = self.arena.known(CONTEXT) {
            for word in std::mem::take(&mut self.git_words) {
                self.arena.use_path(context, &path::source(&word));
            }
        }
    }

    fn find(&mut self, rule: &'static Rule, lines: Lines, message: impl Into<String>) {
        self.findings.find(rule, lines, message);
    }

    fn base_config(&self, mut index: usize) -> Option<Bytes> {
        loop {
            match &self.plan.stages[index].base {
                Base::Stage(base) => index = *base,
                Base::Image { resolved, .. } => return resolved.as_ref().map(|found| found.config.clone()),
                Base::Graph(graph) => return graph.config.clone(),
                Base::Scratch | Base::Local { .. } => return None,
            }
        }
    }

    /// The build context; `None` if it is empty.
    fn context(&mut self) -> Option<NodeId> {
        let around = self.around;
        if let Some(definition) = &around.context {
            return self.arena.graph(CONTEXT, definition, None);
        }
        let node = self.arena.local(CONTEXT, || {
            let source = LocalSource {
                name: "context".to_owned(),
                session: Some(session_of(around, "context")),
                exclude: around.ignore.clone(),
                shared_key_hint: CONTEXT.to_owned(),
                ..LocalSource::default()
            };
            (source, OpMetadata::named("[internal] load build context"))
        });
        Some(node)
    }

    /// A directory of the client under the name of a context.
    fn named_context(&mut self, context: &str, local: &str) -> NodeId {
        let around = self.around;
        self.arena.local(&format!("named:{context}"), || {
            let shared = around
                .options
                .shared_keys
                .get(local)
                .map(String::as_str)
                .unwrap_or_default();
            let source = LocalSource {
                name: local.to_owned(),
                session: Some(session_of(around, local)),
                exclude: around.context_ignores.get(local).cloned().unwrap_or_default(),
                shared_key_hint: format!("context:{context}-{shared}"),
                ..LocalSource::default()
            };
            (
                source,
                OpMetadata::named(format!("[context {context}] load from client")),
            )
        })
    }
}

/// The session that offers a directory.
fn session_of(around: &Surroundings<'_>, local: &str) -> String {
    around
        .options
        .local_sessions
        .get(local)
        .unwrap_or(&around.session)
        .clone()
}

/// Paths of a client's directory that a build uses.
#[derive(Debug, Clone, Default)]
struct UsedPaths {
    all: bool,
    paths: BTreeSet<String>,
}

impl UsedPaths {
    fn add(&mut self, path: &str) {
        match path.trim_start_matches('/') {
            "" => self.all = true,
            path => drop(self.paths.insert(path.to_owned())),
        }
    }

    fn follow_paths(self) -> Vec<String> {
        if self.all {
            Vec::new()
        } else {
            self.paths.into_iter().collect()
        }
    }
}
