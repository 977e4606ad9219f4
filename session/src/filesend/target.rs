//! Where the client writes a stream of bytes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Opens the place for a stream, told the exporter's response so far; `None` if the stream is not wanted.
pub type OpenStream =
    Arc<dyn Fn(BTreeMap<String, String>) -> BoxFuture<'static, io::Result<Option<OutputStream>>> + Send + Sync>;

/// A stream being written, and what makes it permanent.
pub struct OutputStream {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    rename: Option<Rename>,
}

impl OutputStream {
    /// Writes to anything, with nothing left to do at the end but flush and shut down.
    pub fn new(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            writer: Box::new(writer),
            rename: None,
        }
    }

    /// Writes a file. One that exists is replaced when the new one is complete; a pipe or device is written to.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub async fn file(path: &Path) -> io::Result<Self> {
        let existing = match fs::metadata(path).await {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if existing.is_some_and(|metadata| !metadata.is_file()) {
            return Ok(Self::new(OpenOptions::new().write(true).open(path).await?));
        }
        // A link is written through, not replaced.
        let path = fs::canonicalize(path).await.unwrap_or_else(|_| path.to_owned());
        let mut partial = path.clone().into_os_string();
        partial.push(format!(".partial-{}", std::process::id()));
        let file = File::create(&partial).await?;
        let rename = Rename {
            from: partial.into(),
            to: path,
            is_done: false,
        };
        Ok(Self {
            writer: Box::new(file),
            rename: Some(rename),
        })
    }

    pub(super) async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.writer.write_all(data).await
    }

    pub(super) async fn finish(mut self) -> io::Result<()> {
        self.writer.flush().await?;
        self.writer.shutdown().await?;
        match &mut self.rename {
            Some(rename) => rename.run().await,
            None => Ok(()),
        }
    }
}

/// Puts a complete file in its place, or removes an incomplete one.
struct Rename {
    from: PathBuf,
    to: PathBuf,
    is_done: bool,
}

impl Rename {
    async fn run(&mut self) -> io::Result<()> {
        fs::rename(&self.from, &self.to).await?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Rename {
    fn drop(&mut self) {
        if !self.is_done
            && let Err(error) = std::fs::remove_file(&self.from)
        {
            tracing::debug!(path = %self.from.display(), %error, "incomplete output could not be removed");
        }
    }
}
