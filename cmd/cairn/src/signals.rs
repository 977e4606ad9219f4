//! Whoever wants the program to end.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;

/// SIGINT and SIGTERM. From the moment that they are listened for, they no longer end the process by themselves: what was
/// started meanwhile is put away first.
pub(crate) struct Signals {
    interrupts: Signal,
    terminations: Signal,
}

impl Signals {
    /// Begins to listen. Must be called on a runtime.
    pub(crate) fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|source| CliError::System {
                action: "listen for signals",
                source,
            })
        };
        Ok(Self {
            interrupts: listen(SignalKind::interrupt())?,
            terminations: listen(SignalKind::terminate())?,
        })
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
    }

    /// What comes of `work`, which is dropped if a signal comes first.
    pub(crate) async fn or<T, E: From<CliError>>(&mut self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            outcome = work => outcome,
            () = self.next() => Err(CliError::Interrupted.into()),
        }
    }
}
