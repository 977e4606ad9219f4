//! The decoded, validated form of every operation.
//!
//! Nothing that is required is optional here and no index is out of range: [`super::decode`] sees to both.

mod exec;
mod file;
mod metadata;
mod source;

use std::collections::BTreeMap;

pub use exec::{
    CacheSharing, CdiDevice, ContentCache, ExecOp, FileGrant, HostIp, Mount, MountKind, NetMode, ProxyEnv, SecretEnv,
    SecurityMode, Ulimit,
};
pub use file::{ActionInput, Chown, CopyAction, FileAction, FileActionKind, FileOp, UserSpec};
pub use metadata::{Labels, LinuxResources, OpMetadata, ProgressGroup};
pub use source::{
    BlobLayout, BlobSource, Differ, GitMtime, GitSigners, GitSource, HttpSignature, HttpSource, ImageSource,
    LocalSource, OciLayoutSource, ResolveMode, SourceOp,
};

/// What a vertex does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Brings something into the build from outside.
    Source(SourceOp),
    /// Runs a process.
    Exec(ExecOp),
    /// Changes files.
    File(FileOp),
    /// Lays inputs over one another; later ones win.
    Merge {
        /// Input indexes, lowest first.
        inputs: Vec<usize>,
    },
    /// What `upper` changes relative to `lower`; an absent side is scratch.
    Diff {
        /// Input index of the lower side.
        lower: Option<usize>,
        /// Input index of the upper side.
        upper: Option<usize>,
    },
    /// Hands its inputs on unchanged; output `i` is input `outputs[i]`.
    Passthrough {
        /// Tells otherwise identical graphs apart.
        id: String,
        /// For each output, the input it is.
        outputs: Vec<usize>,
    },
    /// Builds a definition that is in a file of an input.
    Build(BuildOp),
}

/// A definition to build, by where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOp {
    inputs: BTreeMap<String, usize>,
    filename: String,
}

impl BuildOp {
    /// The input that holds the definition, by its name among the inputs.
    pub const DEFINITION: &str = "buildkit.llb.definition";

    /// A build of the definition in `filename` of the input [`BuildOp::DEFINITION`]; empty for a file of that name.
    /// `None` if there is no such input.
    pub fn new(inputs: BTreeMap<String, usize>, filename: String) -> Option<Self> {
        let has_definition = inputs.contains_key(Self::DEFINITION);
        has_definition.then_some(Self { inputs, filename })
    }

    /// Index of the input that holds the definition.
    pub fn definition(&self) -> usize {
        self.inputs[Self::DEFINITION]
    }

    /// Indexes of all inputs, by name.
    pub fn inputs(&self) -> &BTreeMap<String, usize> {
        &self.inputs
    }

    /// The file name that was asked for; empty for the default.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// The file that holds the definition.
    pub fn file(&self) -> &str {
        if self.filename.is_empty() {
            Self::DEFINITION
        } else {
            &self.filename
        }
    }
}
