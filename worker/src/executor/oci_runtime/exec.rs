//! One more process in a container.

use std::ffi::OsString;
use std::path::Path;

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::call::{Call, signal};
use super::{Inner, KILL_EVERY, KILL_TRIES, PID_FILE, write_json};
use crate::executor::process::{ContainerId, ExecutorError, ExitStatus, ProcessIo, ProcessSpec};
use crate::executor::spec::runtime_process;
use crate::sys::process::kill_group;

impl Inner {
    pub(super) async fn exec(
        &self,
        container: &ContainerId,
        ended: &CancellationToken,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        let bundle = self.runs.join(container.as_str());
        started(&bundle, ended, cancel).await?;
        // Goes with the bundle, if not before.
        let dir = bundle.join(format!("exec-{}", crate::layer::random_name()));
        std::fs::create_dir(&dir).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ExecutorError::NotRunning,
            _ => ExecutorError::io(format!("create {}", dir.display()))(error),
        })?;
        let outcome = self.exec_in(container, &dir, process, io, cancel).await;
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, dir = %dir.display(), "could not remove the files of a process");
            }
            _ => {}
        }
        // Whatever the runtime said: without its container a process has no exit of its own.
        match outcome {
            Err(ExecutorError::Start { .. }) if !bundle.exists() => Err(ExecutorError::NotRunning),
            outcome => outcome,
        }
    }

    async fn exec_in(
        &self,
        container: &ContainerId,
        dir: &Path,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        let (spec, pid_file, log) = (dir.join("process.json"), dir.join(PID_FILE), dir.join("log"));
        write_json(&spec, &runtime_process(process)?)?;
        let arguments: Vec<OsString> = vec![
            "exec".into(),
            "--process".into(),
            spec.into(),
            "--pid-file".into(),
            pid_file.clone().into(),
            container.as_str().into(),
        ];
        let command = self.command(&log, &arguments);
        let mut call = Call::start(&self.program, command, pid_file.clone(), io)?;
        let Some(exit) = call.exit(cancel).await else {
            self.kill_exec(&mut call, &pid_file).await;
            return Err(ExecutorError::Cancelled);
        };
        let exit = exit.map_err(ExecutorError::io(format!("wait for {}", self.program.display())))?;
        let code = self.exit_code(&pid_file, &log, exit, call.sink())?;
        Ok(ExitStatus {
            code,
            out_of_memory: false,
        })
    }

    /// Ends a process that may not have been started yet, and waits until it has ended.
    async fn kill_exec(&self, call: &mut Call, pid_file: &Path) {
        for _ in 0..KILL_TRIES {
            signal(pid_file, Signal::KILL);
            if tokio::time::timeout(KILL_EVERY, call.child.wait()).await.is_ok() {
                return;
            }
        }
        tracing::warn!("the runtime does not end: killing it");
        if let Some(pid) = call.child.id()
            && let Err(error) = kill_group(pid)
        {
            tracing::warn!(%error, "could not kill the runtime");
        }
        if let Err(error) = call.child.wait().await {
            tracing::warn!(%error, "could not wait for the runtime");
        }
    }
}

/// Waits until the container's first process runs. A bundle that is not there tells nothing: it may not have been made
/// yet, or be gone already.
async fn started(bundle: &Path, ended: &CancellationToken, cancel: &CancellationToken) -> Result<(), ExecutorError> {
    while !bundle.join(PID_FILE).exists() {
        tokio::select! {
            () = tokio::time::sleep(KILL_EVERY / 10) => {}
            () = ended.cancelled() => return Err(ExecutorError::NotRunning),
            () = cancel.cancelled() => return Err(ExecutorError::Cancelled),
        }
    }
    Ok(())
}
