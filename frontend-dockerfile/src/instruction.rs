//! Typed instructions: what each of the eighteen says, checked as far as that is possible without variables.

mod config;
mod copy;
mod healthcheck;
mod run;
mod stage;

pub use config::{CommandLine, Pair};
pub use copy::{Copy, CopySource};
pub use healthcheck::Healthcheck;
pub use run::{CacheMode, DeviceFlag, MountFlag, MountSpec, NetworkFlag, Run, parse_mount};
pub use stage::{ArgDecl, From};

use std::sync::Arc;

use crate::flags::{FlagSpec, Flags};
use crate::location::Lines;
use crate::suggest::suggestion;
use crate::syntax::{Args, KEYWORDS, Node, first_word, keyword};

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// What it says.
    pub kind: Kind,
    /// The joined line as written, trimmed.
    pub text: Arc<str>,
    /// The lines it covers.
    pub lines: Lines,
    /// Comments above it.
    pub comments: Vec<String>,
    /// The last line, if there was an empty line inside a continuation.
    pub empty_continuation: Option<u32>,
    /// Whether keys and values are in the form `key value`.
    pub legacy_form: bool,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `ADD`
    Add(Copy),
    /// `ARG`
    Arg(Vec<ArgDecl>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<Pair>),
    /// `EXPOSE`
    Expose(Vec<String>),
    /// `FROM`
    From(From),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<Pair>),
    /// `MAINTAINER`
    Maintainer(String),
    /// `ONBUILD`, as the text that images carry
    Onbuild(String),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    StopSignal(String),
    /// `USER`
    User(String),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `WORKDIR`
    Workdir(String),
}

impl Instruction {
    /// Understands a node.
    ///
    /// # Errors
    /// What is wrong with it, without its place.
    pub fn from_node(mut node: Node) -> Result<Self, String> {
        let args = std::mem::take(&mut node.args);
        Ok(Self {
            legacy_form: matches!(args, Args::Pairs { legacy: true, .. }),
            kind: kind(&node, args)?,
            text: node.text,
            lines: node.lines,
            comments: node.comments,
            empty_continuation: node.empty_continuation,
        })
    }

    /// Reads the trigger of a base image as an instruction of the stage at `lines`.
    ///
    /// # Errors
    /// What is wrong with it, without its place.
    pub fn from_trigger(trigger: &str, lines: Lines) -> Result<Self, String> {
        let tree = crate::syntax::parse(trigger.as_bytes());
        if let Some(error) = tree.errors.into_iter().next() {
            return Err(error.message);
        }
        let Ok([node]) = <[Node; 1]>::try_from(tree.nodes) else {
            return Err("onbuild trigger should be a single expression".to_owned());
        };
        let node = Node { lines, ..node };
        match keyword(node.word()) {
            "ONBUILD" => Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
            word @ ("FROM" | "MAINTAINER") => Err(format!("{word} isn't allowed as an ONBUILD trigger")),
            _ => Self::from_node(node),
        }
    }

    /// The instruction word as written.
    pub fn word(&self) -> &str {
        first_word(&self.text).0
    }

    /// Whether it makes a layer.
    pub fn makes_layer(&self) -> bool {
        matches!(
            self.kind,
            Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
        )
    }
}

fn kind(node: &Node, args: Args) -> Result<Kind, String> {
    let word = node.word();
    Ok(match keyword(word) {
        "ADD" => Kind::Add(copy::add(node, args)?),
        "ARG" => Kind::Arg(stage::arg(args)?),
        "CMD" => Kind::Cmd(config::command_line(node, args)?),
        "COPY" => Kind::Copy(copy::copy(node, args)?),
        "ENTRYPOINT" => Kind::Entrypoint(config::command_line(node, args)?),
        "ENV" => Kind::Env(config::pairs(node, args, "ENV")?),
        "EXPOSE" => Kind::Expose(config::expose(node, args)?),
        "FROM" => Kind::From(stage::from(node, args)?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck::healthcheck(node, args)?),
        "LABEL" => Kind::Label(config::pairs(node, args, "LABEL")?),
        "MAINTAINER" => Kind::Maintainer(config::single(node, args, "MAINTAINER")?),
        "ONBUILD" => Kind::Onbuild(config::onbuild(node, args)?),
        "RUN" => Kind::Run(run::run(node, args)?),
        "SHELL" => Kind::Shell(config::shell(node, args)?),
        // Flag words of this one have always been dropped.
        "STOPSIGNAL" => Kind::StopSignal(config::one_text(args, "STOPSIGNAL")?),
        "USER" => Kind::User(config::single(node, args, "USER")?),
        "VOLUME" => Kind::Volume(config::volume(node, args)?),
        "WORKDIR" => Kind::Workdir(config::single(node, args, "WORKDIR")?),
        _ => return Err(format!("unknown instruction: {word}{}", near_word(word))),
    })
}

fn near_word(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    let known: Vec<String> = KEYWORDS.iter().map(|known| known.to_ascii_lowercase()).collect();
    let near = suggestion(&lower, known.iter().map(String::as_str));
    let Some(found) = known.iter().find(|known| near.contains(&format!("mean {known}?"))) else {
        return String::new();
    };
    let shown = if word == word.to_ascii_uppercase() {
        found.to_ascii_uppercase()
    } else {
        found.clone()
    };
    format!(" (did you mean {shown}?)")
}

/// The flags of an instruction that takes `spec`.
fn flags<'a>(node: &'a Node, spec: &FlagSpec) -> Result<Flags<'a>, String> {
    Flags::parse(&node.flags, spec)
}

/// The arguments as a list, whichever form they have.
fn list(args: Args) -> Vec<String> {
    match args {
        Args::Json(items) | Args::Words(items) => items,
        Args::Text(text) if text.is_empty() => Vec::new(),
        Args::Text(text) => vec![text],
        _ => Vec::new(),
    }
}
