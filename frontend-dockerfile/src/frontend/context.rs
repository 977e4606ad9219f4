//! The build context, where it is not a directory of the client.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_solver::frontend::{Bridge, FrontendError};
use cairn_solver::llb::{
    ActionInput, Builder, CopyAction, DecodeError, Definition, FileAction, FileActionKind, FileOp, GitMtime, GitSource,
    HttpSource, OpMetadata, Output, SourceOp, decode,
};
use cairn_solver::{Digest, SolveError};

use crate::gofmt;
use crate::options::Options;
use crate::remote::{self, GitRef};

use super::HostKeys;

/// Name of the file that comes from a URL.
const DOWNLOADED: &str = "context";

/// Where the files of a build come from. A definition that is there but empty means that there are none.
#[derive(Debug, Default)]
pub(super) struct MainContext {
    /// What makes the context; `None` for the client's directory.
    pub(super) files: Option<Arc<Definition>>,
    /// What makes the Dockerfile; `None` for the client's directory.
    pub(super) dockerfile: Option<Arc<Definition>>,
    /// The name of the Dockerfile, where the context decides on it.
    pub(super) filename: Option<&'static str>,
    /// The remote source behind the context.
    pub(super) source: Option<SourceOp>,
}

impl MainContext {
    /// Finds out what `options` mean; a file that could be an archive is downloaded for that.
    pub(super) async fn find(
        bridge: &dyn Bridge,
        options: &Options,
        host_keys: &HostKeys,
    ) -> Result<Self, FrontendError> {
        let mut context = match GitRef::parse_context(&options.context) {
            Some(reference) => {
                let mut source = git_source(options, &reference.map_err(FrontendError::Option)?);
                host_keys.ask(bridge, &source).await;
                host_keys.fill(&mut source);
                Self::git(options, source)
            }
            None if remote::is_url(&options.context) => Self::url(bridge, &options.context).await?,
            None => Self::inputs(options)?,
        };
        if let Some(files) = &context.files
            && !options.context_subdir.is_empty()
        {
            context.files =
                Some(subdirectory(files, &options.context_subdir).map_err(|error| malformed("context", &error))?);
        }
        Ok(context)
    }

    fn git(options: &Options, source: GitSource) -> Self {
        let source = SourceOp::Git(source);
        let title = format!("[internal] load git source {}", options.context);
        let files = Arc::new(only(source.clone(), &title));
        Self {
            files: Some(Arc::clone(&files)),
            dockerfile: Some(files),
            filename: None,
            source: Some(source),
        }
    }

    async fn url(bridge: &dyn Bridge, url: &str) -> Result<Self, FrontendError> {
        let source = download(url);
        let (file, is_archive) = fetch(bridge, &source).await?;
        let files = Arc::new(if is_archive { unpacked(&source) } else { file });
        Ok(Self {
            files: Some(Arc::clone(&files)),
            dockerfile: Some(files),
            // What is no archive is the Dockerfile itself.
            filename: (!is_archive).then_some(DOWNLOADED),
            source: Some(SourceOp::Http(source)),
        })
    }

    fn inputs(options: &Options) -> Result<Self, FrontendError> {
        let input = |name: &str| {
            let definition = options.inputs.get(name).map(Arc::clone);
            if let Some(definition) = &definition {
                decode(definition).map_err(|error| malformed(name, &error))?;
            }
            Ok::<_, FrontendError>(definition)
        };
        Ok(Self {
            files: input("context")?,
            dockerfile: input(&options.dockerfile_local)?,
            ..Self::default()
        })
    }
}

/// The source that a reference to a repository means as a context.
fn git_source(options: &Options, reference: &GitRef) -> GitSource {
    let mut source = reference.source();
    let arg = |name: &str| options.build_args.get(name).map(String::as_str).unwrap_or_default();
    source.keep_git_dir |= gofmt::parse_bool(arg("BUILDKIT_CONTEXT_KEEP_GIT_DIR")) == Some(true);
    let is_dated = !arg("SOURCE_DATE_EPOCH").is_empty();
    let usual = if is_dated {
        GitMtime::Commit
    } else {
        GitMtime::default()
    };
    source.mtime = reference.mtime.unwrap_or(usual);
    source
}

fn malformed(input: &str, error: &dyn std::fmt::Display) -> FrontendError {
    FrontendError::Option(format!("failed to load LLB of frontend input {input}: {error}"))
}

/// The vertex that a definition asks for; `None` for scratch.
pub(super) fn target(definition: &Definition) -> Option<Digest> {
    let graph = decode(definition).ok()??;
    Some(graph.vertex(graph.target().vertex).digest)
}

/// A definition of nothing but a source, with that source changed.
pub(super) fn with_source(definition: &Definition, source: SourceOp) -> Result<Definition, DecodeError> {
    let Some(graph) = decode(definition)? else {
        return Ok(definition.clone());
    };
    let metadata = graph.vertex(graph.target().vertex).metadata.clone();
    let mut builder = Builder::new();
    let output = builder.source(source, None, (*metadata).clone());
    Ok(builder.finish(output))
}

fn download(url: &str) -> HttpSource {
    HttpSource {
        url: url.to_owned(),
        filename: DOWNLOADED.to_owned(),
        ..HttpSource::default()
    }
}

const DOWNLOAD_TITLE: &str = "[internal] load remote build context";

/// Downloads a file, and tells whether it is an archive.
pub(super) async fn fetch(bridge: &dyn Bridge, source: &HttpSource) -> Result<(Definition, bool), FrontendError> {
    const HEAD: u64 = 1024;
    let definition = only(SourceOp::Http(source.clone()), DOWNLOAD_TITLE);
    let read = async {
        match bridge.solve(definition.clone()).await? {
            Some(file) => {
                bridge
                    .read_file(&file, Path::new(&source.filename), Some((0, HEAD)))
                    .await
            }
            None => Ok(Bytes::new()),
        }
    };
    let head = read.await.map_err(|error| match error {
        SolveError::Cancelled => FrontendError::Solve(error),
        error => FrontendError::For {
            what: "failed to read downloaded context".to_owned(),
            source: Box::new(FrontendError::Solve(error)),
        },
    })?;
    Ok((definition, is_archive(&head)))
}

/// The files in an archive behind a URL.
pub(super) fn unpacked(source: &HttpSource) -> Definition {
    let mut builder = Builder::new();
    let archive = builder.source(SourceOp::Http(source.clone()), None, OpMetadata::named(DOWNLOAD_TITLE));
    let copy = CopyAction {
        src: format!("/{}", source.filename),
        dest: "/".to_owned(),
        attempt_unpack: true,
        ..CopyAction::default()
    };
    let output = onto_scratch(&mut builder, archive, copy);
    builder.finish(output)
}

/// The contents of a directory of what `files` makes.
fn subdirectory(files: &Definition, directory: &str) -> Result<Arc<Definition>, DecodeError> {
    let mut builder = Builder::new();
    let Some(whole) = builder.import(files)? else {
        return Ok(Arc::new(files.clone()));
    };
    let copy = CopyAction {
        src: cairn_patterns::clean(&format!("/{directory}")),
        dest: "/".to_owned(),
        dir_copy_contents: true,
        ..CopyAction::default()
    };
    let output = onto_scratch(&mut builder, whole, copy);
    Ok(Arc::new(builder.finish(output)))
}

fn onto_scratch(builder: &mut Builder, from: Output, copy: CopyAction) -> Output {
    let action = FileAction {
        input: None,
        secondary: Some(ActionInput::Vertex(0)),
        output: Some(0),
        kind: FileActionKind::Copy(copy),
    };
    builder.file(FileOp { actions: vec![action] }, &[from], None, OpMetadata::default())
}

fn only(source: SourceOp, title: &str) -> Definition {
    let mut builder = Builder::new();
    let output = builder.source(source, None, OpMetadata::named(title));
    builder.finish(output)
}

/// Whether a file that begins with `head` is an archive, as far as the beginning tells.
fn is_archive(head: &[u8]) -> bool {
    const COMPRESSED: [&[u8]; 4] = [
        b"BZh",
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        // Nothing else takes such a file for an archive, but nothing else could be made of it either.
        b"\x28\xb5\x2f\xfd",
    ];
    COMPRESSED.iter().any(|magic| head.starts_with(magic)) || is_tar_header(head)
}

/// Whether the first block holds the sum of its own bytes, which is how headers of tar archives are known.
fn is_tar_header(head: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(block) = head.get(..512) else { return false };
    let digits: String = block[SUM]
        .iter()
        .map(|byte| char::from(*byte))
        .filter(|c| !matches!(c, ' ' | '\0'))
        .collect();
    let Ok(stored) = u32::from_str_radix(&digits, 8) else {
        return false;
    };
    let byte = |(at, byte): (usize, &u8)| u32::from(if SUM.contains(&at) { b' ' } else { *byte });
    let sum: u32 = block.iter().enumerate().map(byte).sum();
    sum == stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_how_they_begin() {
        let mut tar = vec![0_u8; 1024];
        tar[..4].copy_from_slice(b"file");
        tar[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(is_archive(&tar));
        for archive in [&b"BZh9"[..], b"\x1f\x8b\x08\0", b"\xfd7zXZ\0\0", b"\x28\xb5\x2f\xfd\0"] {
            assert!(is_archive(archive));
        }
        tar[0] = b'g';
        let zeros = [0_u8; 1024];
        for other in [&b""[..], b"FROM scratch", b"\x1f\x8b", &tar, &tar[..511], &zeros] {
            assert!(!is_archive(other));
        }
    }
}
