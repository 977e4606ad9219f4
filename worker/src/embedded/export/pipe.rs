//! From code that writes and blocks to a client's file.

use std::io::{self, Write};

use bytes::Bytes;
use cairn_session::Session;
use cairn_session::filesend::{ExportTarget, FileStream};
use cairn_solver::worker::WorkerError;
use tokio::sync::mpsc;

use super::super::{blocking, failed};

/// Bytes gathered before they are handed on.
const PIECE: usize = 256 << 10;
/// Pieces under way.
const PIECES: usize = 8;

/// Sends what `write` writes to the client's file, and waits until the client has it.
pub(super) async fn send<T: Send + 'static>(
    session: &Session,
    target: &ExportTarget,
    write: impl FnOnce(&mut PieceWriter) -> Result<T, WorkerError> + Send + 'static,
) -> Result<T, WorkerError> {
    let stream = FileStream::open(session, target).map_err(|error| failed(&error))?;
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let produce = blocking(move || {
        let mut writer = PieceWriter {
            pieces: sender,
            buffer: Vec::with_capacity(PIECE),
        };
        let made = write(&mut writer)?;
        writer.flush().map_err(|error| failed(&error))?;
        Ok(made)
    });
    let consume = async {
        while let Some(piece) = pieces.recv().await {
            if !stream.write(piece).await.map_err(|error| failed(&error))? {
                // The client takes no more; its answer says why.
                break;
            }
        }
        drop(pieces);
        Ok::<_, WorkerError>(stream)
    };
    let (made, stream) = tokio::join!(produce, consume);
    // A client that refused is the cause of a failed write, not its consequence.
    match (made, stream?) {
        (Ok(made), stream) => {
            stream.finish().await.map_err(|error| failed(&error))?;
            Ok(made)
        }
        (Err(error), stream) => {
            drop(stream);
            Err(error)
        }
    }
}

/// Gathers writes into pieces.
pub(super) struct PieceWriter {
    pieces: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for PieceWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        let sent = self.pieces.blocking_send(Bytes::from(piece));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client takes no more"))
    }
}
