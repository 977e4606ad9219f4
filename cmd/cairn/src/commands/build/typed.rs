//! What a build takes from standard input: a Dockerfile, or a whole context in an archive.

use std::io::{Cursor, Read};
use std::path::PathBuf;

use cairn_client::UploadSource;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use crate::build_plan::{BuildPlan, Context, Dockerfile};
use crate::error::CliError;

/// No Dockerfile is larger.
const MAX_DOCKERFILE: u64 = 16 << 20;
/// Enough to know an archive by: one tar header and then some.
const PEEK: usize = 1024;
/// The name under which the context is uploaded; a build has one.
const UPLOAD: &str = "context";

/// What came from standard input.
#[derive(Default)]
pub(in crate::commands) struct Typed {
    /// Holds the Dockerfile, and beside it an empty context.
    directory: Option<TempDir>,
    /// The context, to be read by the daemon.
    archive: Option<UploadSource>,
}

impl Typed {
    /// Reads what the plan takes from standard input; of an archive, only the beginning.
    pub(in crate::commands) async fn read(plan: &BuildPlan) -> Result<Self, CliError> {
        if plan.dockerfile == Dockerfile::Stdin {
            let text = read_dockerfile(std::io::stdin().lock())?;
            return Self::dockerfile(&text);
        }
        if plan.context != Context::Stdin {
            return Ok(Self::default());
        }
        let mut stdin = tokio::io::stdin();
        let mut start = Vec::with_capacity(PEEK);
        while start.len() < PEEK {
            let rest = (PEEK - start.len()) as u64;
            let read = (&mut stdin).take(rest).read_buf(&mut start).await;
            if read.map_err(failed("read standard input"))? == 0 {
                break;
            }
        }
        if is_archive(&start) {
            return Ok(Self {
                directory: None,
                archive: Some(Box::new(AsyncReadExt::chain(Cursor::new(start), stdin))),
            });
        }
        if plan.dockerfile != Dockerfile::InContext(None) {
            return Err(CliError::usage(
                "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
            ));
        }
        let mut text = start;
        let rest = stdin.take(MAX_DOCKERFILE).read_to_end(&mut text).await;
        rest.map_err(failed("read the Dockerfile from standard input"))?;
        Self::dockerfile(&read_dockerfile(text.as_slice())?)
    }

    fn dockerfile(text: &[u8]) -> Result<Self, CliError> {
        let failed = || failed("keep the Dockerfile from standard input");
        let directory = tempfile::tempdir().map_err(failed())?;
        for name in ["dockerfile", "context"] {
            std::fs::create_dir(directory.path().join(name)).map_err(failed())?;
        }
        std::fs::write(directory.path().join("dockerfile/Dockerfile"), text).map_err(failed())?;
        Ok(Self {
            directory: Some(directory),
            archive: None,
        })
    }

    /// The directory with the Dockerfile, if one was typed.
    pub(super) fn dockerfile_dir(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|dir| dir.path().join("dockerfile"))
    }

    /// An empty context for a Dockerfile that came without one.
    pub(super) fn context_dir(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|dir| dir.path().join("context"))
    }

    /// The context as a stream, with its URL. It can be taken once.
    pub(super) fn take_archive(&mut self) -> Option<(String, String, UploadSource)> {
        let url = format!("http://{}/{UPLOAD}", cairn_client::UPLOAD_HOST);
        self.archive.take().map(|archive| (url, UPLOAD.to_owned(), archive))
    }
}

fn failed(action: &'static str) -> impl Fn(std::io::Error) -> CliError {
    move |source| CliError::System { action, source }
}

fn read_dockerfile(from: impl Read) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    let read = from.take(MAX_DOCKERFILE + 1).read_to_end(&mut text);
    read.map_err(failed("read the Dockerfile from standard input"))?;
    if text.len() as u64 > MAX_DOCKERFILE {
        return Err(CliError::Malformed {
            what: "the Dockerfile from standard input".to_owned(),
            reason: format!("it is larger than {MAX_DOCKERFILE} bytes"),
        });
    }
    Ok(text)
}

/// Whether it is the beginning of a compressed file or of a tar.
fn is_archive(start: &[u8]) -> bool {
    const MAGIC: [&[u8]; 3] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0"];
    MAGIC.iter().any(|magic| start.starts_with(magic)) || is_tar_header(start)
}

/// Whether the first block's checksum, at 148, is right.
fn is_tar_header(start: &[u8]) -> bool {
    let Some(block) = start.get(..512) else { return false };
    let (before, rest) = block.split_at(148);
    let (field, after) = rest.split_at(8);
    let digits = field.trim_ascii().split(|byte| *byte == 0).next().unwrap_or_default();
    let stated = std::str::from_utf8(digits.trim_ascii()).ok();
    let stated = stated.and_then(|digits| u32::from_str_radix(digits, 8).ok());
    let actual: u32 = before.iter().chain(after).map(|byte| u32::from(*byte)).sum();
    stated == Some(actual + 8 * u32::from(b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_beginning() {
        let mut header = [0; 512];
        header[..4].copy_from_slice(b"file");
        header[257..262].copy_from_slice(b"ustar");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut damaged = header;
        damaged[0] = b'F';
        for (start, want) in [
            (&header[..], true),
            (&header[..511], false),
            (&damaged, false),
            (&[0; 1024], false),
            (b"BZh9", true),
            (b"\x1f\x8b\x08\0", true),
            (b"\xfd7zXZ\0", true),
            (b"FROM scratch\n", false),
            (b"", false),
        ] {
            assert_eq!(is_archive(start), want, "{:?}", &start[..start.len().min(8)]);
        }
    }
}
