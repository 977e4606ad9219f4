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

use crate::flags::{FlagSpec, Flags};
use crate::location::Lines;
use crate::suggest::suggestion;
use crate::syntax::{Args, KEYWORDS, Node, keyword};

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// What it says.
    pub kind: Kind,
    /// The instruction word as written.
    pub word: String,
    /// The joined line as written, trimmed.
    pub text: String,
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
    pub fn from_node(node: Node) -> Result<Self, String> {
        Ok(Self {
            kind: kind(&node)?,
            legacy_form: matches!(node.args, Args::Pairs { legacy: true, .. }),
            word: node.word,
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
        match keyword(&node.word) {
            "ONBUILD" => Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
            word @ ("FROM" | "MAINTAINER") => Err(format!("{word} isn't allowed as an ONBUILD trigger")),
            _ => Self::from_node(node),
        }
    }

    /// Whether it makes a layer.
    pub fn makes_layer(&self) -> bool {
        matches!(
            self.kind,
            Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
        )
    }
}

fn kind(node: &Node) -> Result<Kind, String> {
    Ok(match keyword(&node.word) {
        "ADD" => Kind::Add(copy::add(node)?),
        "ARG" => Kind::Arg(stage::arg(node)?),
        "CMD" => Kind::Cmd(config::command_line(node)?),
        "COPY" => Kind::Copy(copy::copy(node)?),
        "ENTRYPOINT" => Kind::Entrypoint(config::command_line(node)?),
        "ENV" => Kind::Env(config::pairs(node, "ENV")?),
        "EXPOSE" => Kind::Expose(config::expose(node)?),
        "FROM" => Kind::From(stage::from(node)?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck::healthcheck(node)?),
        "LABEL" => Kind::Label(config::pairs(node, "LABEL")?),
        "MAINTAINER" => Kind::Maintainer(config::single(node, "MAINTAINER")?),
        "ONBUILD" => Kind::Onbuild(config::onbuild(node)?),
        "RUN" => Kind::Run(run::run(node)?),
        "SHELL" => Kind::Shell(config::shell(node)?),
        // Flag words of this one have always been dropped.
        "STOPSIGNAL" => Kind::StopSignal(config::one_text(node, "STOPSIGNAL")?),
        "USER" => Kind::User(config::single(node, "USER")?),
        "VOLUME" => Kind::Volume(config::volume(node)?),
        "WORKDIR" => Kind::Workdir(config::single(node, "WORKDIR")?),
        _ => return Err(format!("unknown instruction: {}{}", node.word, near_word(&node.word))),
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
fn flags(node: &Node, spec: &FlagSpec) -> Result<Flags, String> {
    Flags::parse(&node.flags, spec)
}

/// The arguments as a list, whichever form they have.
fn list(node: &Node) -> Vec<String> {
    match &node.args {
        Args::Json(items) | Args::Words(items) => items.clone(),
        Args::Text(text) if text.is_empty() => Vec::new(),
        Args::Text(text) => vec![text.clone()],
        _ => Vec::new(),
    }
}
