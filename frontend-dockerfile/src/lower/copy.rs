//! `COPY` and `ADD`.

use std::sync::Arc;

use cairn_patterns::PatternError;
use cairn_solver::llb::{
    ActionInput, Chown, CopyAction, FileAction, FileActionKind, FileOp, Op, OpMetadata, ProgressGroup,
};

use crate::checks::COPY_IGNORED_FILE;
use crate::error::DockerfileError;
use crate::expand::Expander;
use crate::gofmt;
use crate::instruction::{Copy, CopySource};
use crate::location::Lines;
use crate::plan::Step;
use crate::syntax::Heredoc;

use super::arena::{Inputs, NodeId};
use super::mode::{self, Mode};
use super::state::StageState;
use super::{Lowering, chown, path, remote};

/// What a copy says, expanded.
struct Expanded {
    sources: Vec<String>,
    heredocs: Vec<(String, String)>,
    dest: String,
    chown: Option<String>,
    chmod: Option<String>,
    checksum: Option<String>,
}

impl Lowering<'_> {
    pub(super) fn copy(
        &mut self,
        state: &mut StageState,
        step: &Step,
        copy: &Copy,
        is_add: bool,
        stage: usize,
    ) -> Result<(), DockerfileError> {
        let lines = step.instruction.lines;
        let fail = |message: String| DockerfileError::at(lines, message);
        let said = self.expand_copy(state, copy, lines)?;
        let fetched = remote::sources(copy, &said.sources, said.checksum.as_deref(), is_add).map_err(fail)?;
        let mode = said.chmod.as_deref().map(mode::parse).transpose().map_err(fail)?;
        let from = self.source_root(stage, step, copy)?;

        let text = self.display(step, "", Expander::new(self.around.escape), &state.env)?;
        let name = state.names.next(&state.env, &text);
        let linked = copy.link && mode.is_none();
        let root = if linked { None } else { state.root };
        let owner = match &said.chown {
            Some(text) => Some(chown::parse(text, root.map(|_| ActionInput::Vertex(0))).map_err(fail)?),
            None => None,
        };
        let mut op = CopyOp::new(root);
        let is_windows = state.image.os() == "windows";
        let dest = path::slashed(&said.dest, is_windows).map_err(fail)?;
        let template = template(&dest, &state.cwd, copy, owner, mode.as_ref());
        for (source, fetched) in said.sources.iter().zip(fetched) {
            if let Some(fetched) = fetched {
                self.budget.charge(name.len(), lines)?;
                let (node, action) = self.fetch(fetched, &name, lines, copy, &template);
                op.push(Source::Node(node), action);
                if !crate::remote::is_url(source) {
                    self.git_words.push(source.clone());
                }
                continue;
            }
            let source = &*path::slashed(source, is_windows).map_err(fail)?;
            if from.is_none() {
                self.check_ignored(source, is_add, lines)
                    .map_err(|error| fail(error.to_string()))?;
            }
            let from = from.unwrap_or_else(|| self.context().map_or(Source::Scratch, Source::Node));
            let action = path_action(&template, source, copy, is_add);
            if let Source::Node(node) = from {
                self.arena.use_path(node, &used_path(source));
            }
            op.push(from, action);
        }
        for (file, body) in &said.heredocs {
            let node = self.inline_file(file, body, 0o644);
            let action = CopyAction {
                src: format!("/{file}"),
                create_dest_path: true,
                include: Vec::new(),
                ..template.clone()
            };
            op.push(Source::Node(node), action);
        }

        let metadata = OpMetadata {
            ignore_cache: state.ignore_cache,
            ..OpMetadata::named(name.clone())
        };
        state.root = Some(if linked {
            self.link(state, op, metadata, &name, lines)
        } else {
            self.add_copy(op, metadata, lines)
        });
        let created_by = created_by(if is_add { "ADD" } else { "COPY" }, copy, &said);
        self.history(state, created_by, false, lines)
    }

    fn expand_copy(&mut self, state: &StageState, copy: &Copy, lines: Lines) -> Result<Expanded, DockerfileError> {
        let mut flag = |value: &Option<String>| match value {
            Some(text) => self
                .expand(state, text, lines)
                .map(|text| Some(text).filter(|text| !text.is_empty())),
            None => Ok(None),
        };
        let (chown, chmod, checksum) = (flag(&copy.chown)?, flag(&copy.chmod)?, flag(&copy.checksum)?);
        let (mut sources, mut bodies) = (Vec::new(), Vec::new());
        for source in &copy.sources {
            match source {
                CopySource::Word(word) => sources.push(self.expand(state, word, lines)?),
                CopySource::Heredoc(heredoc) => bodies.push(heredoc),
            }
        }
        let dest = self.expand(state, &copy.dest, lines)?;
        let mut heredocs = Vec::with_capacity(bodies.len());
        for heredoc in bodies {
            heredocs.push((heredoc.name.clone(), self.heredoc_body(state, heredoc, lines)?));
        }
        Ok(Expanded {
            sources,
            heredocs,
            dest,
            chown,
            chmod,
            checksum,
        })
    }

    fn heredoc_body(&mut self, state: &StageState, heredoc: &Heredoc, lines: Lines) -> Result<String, DockerfileError> {
        let body = heredoc.content();
        if !heredoc.expand {
            return Ok(body);
        }
        self.expand_as(Expander::heredoc_body(), state, &body, lines)
    }

    fn check_ignored(&mut self, source: &str, is_add: bool, lines: Lines) -> Result<(), PatternError> {
        let path = path::source(source);
        let shown = path.trim_start_matches('/');
        let is_ignored = match (&self.ignored, shown) {
            (None, _) => false,
            (Some(ignored), _) if ignored.has_exclusions() => false,
            (_, "") => self
                .around
                .ignore
                .iter()
                .any(|rule| matches!(rule.as_str(), "*" | "**" | "**/*")),
            (Some(ignored), _) => ignored.matches(shown)?,
        };
        if is_ignored {
            let word = if is_add { "Add" } else { "Copy" };
            let shown = if shown.is_empty() { "." } else { shown };
            let message = format!(
                "Attempting to {word} file {} that is excluded by .dockerignore",
                gofmt::quote(shown)
            );
            self.find(&COPY_IGNORED_FILE, lines, message);
        }
        Ok(())
    }

    /// What `--from` refers to; `None` without it.
    fn source_root(&mut self, stage: usize, step: &Step, copy: &Copy) -> Result<Option<Source>, DockerfileError> {
        let Some(written) = &copy.from else { return Ok(None) };
        let lines = step.instruction.lines;
        let Some(from) = step.from else {
            let message = "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround";
            return Err(DockerfileError::at(lines, message));
        };
        match self.roots[from] {
            Some(root) => Ok(Some(root.map_or(Source::Scratch, Source::Node))),
            None => {
                let label = &self.plan.stages[stage].label;
                let message = format!(
                    "cannot copy from stage {}, it needs to be defined before current stage {}",
                    gofmt::quote(written),
                    gofmt::quote(label)
                );
                Err(DockerfileError::at(lines, message))
            }
        }
    }

    /// A file whose content is in the Dockerfile, alone in an empty root.
    pub(super) fn inline_file(&mut self, name: &str, body: &str, mode: u32) -> NodeId {
        let kind = FileActionKind::Mkfile {
            path: format!("/{name}"),
            mode,
            data: body.to_owned().into(),
            owner: None,
            timestamp: None,
        };
        let action = FileAction {
            input: None,
            secondary: None,
            output: Some(0),
            kind,
        };
        let metadata = OpMetadata::named("[internal] preparing inline document");
        self.arena.add(
            Op::File(FileOp { actions: vec![action] }),
            Vec::new(),
            None,
            metadata,
            None,
        )
    }

    fn add_copy(&mut self, op: CopyOp, metadata: OpMetadata, lines: Lines) -> NodeId {
        let (op, inputs) = op.finish();
        self.arena.add(op, inputs, None, metadata, Some(lines))
    }

    /// Lays the copy over what is there. Both ops are one step to the user.
    fn link(&mut self, state: &StageState, op: CopyOp, mut metadata: OpMetadata, name: &str, lines: Lines) -> NodeId {
        let group = ProgressGroup {
            id: format!("link:{}:{}:{name}", self.plan.platform, lines.first),
            name: name.to_owned(),
            weak: false,
        };
        let end = name.find("] ").map_or(0, |at| at + 2);
        let merged_name = format!("{}LINK {}", &name[..end], &name[end..]);
        metadata.progress_group = Some(Arc::new(ProgressGroup {
            weak: true,
            ..group.clone()
        }));
        let copied = self.add_copy(op, metadata, lines);
        let Some(root) = state.root else {
            return copied;
        };
        let metadata = OpMetadata {
            ignore_cache: state.ignore_cache,
            progress_group: Some(Arc::new(group)),
            ..OpMetadata::named(merged_name)
        };
        self.arena.add(
            Op::Merge { inputs: vec![0, 1] },
            vec![root, copied],
            None,
            metadata,
            Some(lines),
        )
    }
}

/// Where files are copied from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Scratch,
    Node(NodeId),
}

/// A file op under construction: copies, each onto the result of the one before.
struct CopyOp {
    base: Option<NodeId>,
    copies: Vec<(Source, CopyAction)>,
}

impl CopyOp {
    fn new(base: Option<NodeId>) -> Self {
        Self {
            base,
            copies: Vec::new(),
        }
    }

    fn push(&mut self, source: Source, action: CopyAction) {
        self.copies.push((source, action));
    }

    fn finish(self) -> (Op, Vec<NodeId>) {
        let mut inputs = Inputs::default();
        let base = self.base.map(|base| ActionInput::Vertex(inputs.index(base)));
        let last = self.copies.len().saturating_sub(1);
        let mut actions = Vec::with_capacity(self.copies.len());
        for (index, (source, action)) in self.copies.into_iter().enumerate() {
            let secondary = match source {
                Source::Scratch => None,
                Source::Node(node) => Some(ActionInput::Vertex(inputs.index(node))),
            };
            let input = match index {
                0 => base,
                index => Some(ActionInput::Action(index - 1)),
            };
            actions.push(FileAction {
                input,
                secondary,
                output: (index == last).then_some(0),
                kind: FileActionKind::Copy(action),
            });
        }
        (Op::File(FileOp { actions }), inputs.into_nodes())
    }
}

/// What all copies of one instruction have in common.
fn template(dest: &str, cwd: &str, copy: &Copy, owner: Option<Chown>, mode: Option<&Mode>) -> CopyAction {
    let mut dest = path::destination(cwd, dest);
    if copy.parents && !dest.ends_with('/') {
        dest.push('/');
    }
    let (bits, text) = match mode {
        Some(Mode::Octal(bits)) => (Some(*bits), String::new()),
        // Where there is a text the bits mean nothing, and other producers leave them out.
        Some(Mode::Symbolic(text)) => (Some(0), text.clone()),
        None => (None, String::new()),
    };
    CopyAction {
        dest,
        owner,
        mode: bits,
        mode_str: text,
        create_dest_path: true,
        exclude: copy.exclude.clone(),
        ..CopyAction::default()
    }
}

fn path_action(template: &CopyAction, source: &str, copy: &Copy, is_add: bool) -> CopyAction {
    let action = CopyAction {
        src: path::source(source),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: copy.unpack.unwrap_or(is_add),
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..template.clone()
    };
    if !copy.parents {
        return action;
    }
    // Behind the pivot `/./` begins what is kept of the path.
    let (root, kept) = source.split_once("/./").unwrap_or(("/", source));
    let kept = path::source(kept);
    let kept = kept.strip_prefix('/').unwrap_or(&kept).to_owned();
    let required = if cairn_patterns::glob::has_wildcard(&kept) {
        Vec::new()
    } else {
        vec![kept.clone()]
    };
    CopyAction {
        src: path::source(root),
        include: vec![kept],
        required_paths: required,
        ..action
    }
}

/// The path of the context that a source uses. A pivot does not matter here.
fn used_path(source: &str) -> String {
    path::source(source)
}

fn created_by(word: &str, copy: &Copy, said: &Expanded) -> String {
    let length = said.sources.iter().map(|source| source.len() + 1).sum::<usize>();
    let mut text = String::with_capacity(length + said.dest.len() + 64);
    text.push_str(word);
    if copy.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &said.chown), ("chmod", &said.chmod)] {
        if let Some(value) = value {
            text.extend([" --", flag, "=", value]);
        }
    }
    for source in &said.sources {
        text.extend([" ", source]);
    }
    for (name, _) in &said.heredocs {
        text.extend([" <<", name]);
    }
    text.extend([" ", &said.dest, " # buildkit"]);
    text
}
