//! The graph: what is built, and from what.
//!
//! [`Definition`] is the serialized form that clients and frontends exchange, [`decode`] turns it into a validated
//! [`Graph`], and [`Builder`] makes one. The only module of this crate that knows wire types.

mod builder;
pub mod caps;
mod decode;
mod definition;
mod encode;
mod graph;
mod op;
mod rewrite;

pub use builder::{Builder, Output};
pub use decode::{DecodeError, decode};
pub use definition::{Definition, SourceFile, SourceLocation, SourceMap, SourceRange};
pub use graph::{Edge, Graph, NodeIndex, Vertex, VertexDigest};
pub use op::{
    ActionInput, BlobLayout, BlobSource, BuildOp, CacheSharing, CdiDevice, Chown, ContentCache, CopyAction, Differ,
    ExecOp, FileAction, FileActionKind, FileGrant, FileOp, GitMtime, GitSigners, GitSource, HostIp, HttpSignature,
    HttpSource, ImageSource, Labels, LinuxResources, LocalSource, Mount, MountKind, NetMode, OciLayoutSource, Op,
    OpMetadata, ProgressGroup, ProxyEnv, ResolveMode, SecretEnv, SecurityMode, SourceOp, Ulimit, UserSpec,
};
pub use rewrite::{FoundSource, sources, with_sources};
