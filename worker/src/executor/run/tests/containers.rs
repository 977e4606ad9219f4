//! Containers whose processes are started one by one.

use std::io::Read as _;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::*;
use crate::executor::{Container, Ending, ProcessControl, ProcessIo, ProcessOutput, Terminal};

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(30);

impl Fixture {
    pub(super) async fn container(&self, cancel: &CancellationToken) -> Container {
        let mut request = self.request(script("none"));
        for mount in &mut request.op.mounts {
            mount.output = None;
        }
        self.runner.container(request, Vec::new(), cancel).await.unwrap()
    }

    /// What is there only while something runs.
    fn leftovers(&self) -> Vec<String> {
        let dirs = [
            "run",
            "layers/mounts",
            "layers/staging",
            "runtime/runs",
            "runtime/state",
        ];
        let entries = dirs.map(|dir| std::fs::read_dir(self.dir.path().join(dir)).unwrap());
        let names = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
        names.map(|path| path.display().to_string()).collect()
    }

    fn process(&self, command: &str) -> ExecRequest {
        let mut request = self.request(script(command));
        request.op.mounts.clear();
        request
    }

    /// Starts a process whose output comes out of the pipe.
    pub(super) fn start(&self, container: &Container, command: &str) -> (Ending, std::io::PipeReader) {
        let (stdout, writer) = std::io::pipe().unwrap();
        let io = ProcessIo {
            stdin: None,
            output: ProcessOutput::Direct {
                stdout: Some(writer.into()),
                stderr: None,
            },
            control: None,
            meter: None,
        };
        let ending = container.start(self.process(command), false, io).unwrap();
        (ending, stdout)
    }
}

async fn code(ending: Ending) -> u32 {
    let ended = tokio::time::timeout(PATIENCE, ending).await.unwrap();
    ended.unwrap().unwrap().code
}

async fn text(mut stdout: std::io::PipeReader) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap()
}

#[tokio::test]
async fn processes_share_a_container_until_its_first_one_ends() {
    let Some(f) = fixture().await else { return };
    let cancel = CancellationToken::new();
    let container = f.container(&cancel).await;
    let (first, _out) = f.start(&container, "until test -e /stop; do sleep 0.01; done; exit 3");
    let (second, out) = f.start(&container, "echo from the second > /file; ls / | grep -c proc; exit 4");
    assert_eq!(code(second).await, 4);
    assert_eq!(text(out).await, "1\n");
    let file = container.mounted(0).unwrap().read_file_limited("/file", 100).unwrap();
    assert_eq!(file, b"from the second\n");
    let (stop, _out) = f.start(&container, "touch /stop");
    assert_eq!(code(first).await, 3);
    // It ended by itself, or with the first one.
    drop(stop.await);
    let io = ProcessIo {
        stdin: None,
        output: ProcessOutput::Direct {
            stdout: None,
            stderr: None,
        },
        control: None,
        meter: None,
    };
    assert!(matches!(
        container.start(f.process("true"), false, io),
        Err(ExecError::Gone)
    ));
    // Files can still be looked at.
    assert!(container.mounted(0).unwrap().lstat("/file").is_ok());
    container.release().await;
    assert!(matches!(container.mounted(0), Err(ExecError::Gone)));
    assert_eq!(f.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn releasing_ends_what_runs() {
    let Some(f) = fixture().await else { return };
    let cancel = CancellationToken::new();
    let container = f.container(&cancel).await;
    let (first, _out) = f.start(&container, "sleep 1000");
    let (second, _out) = f.start(&container, "sleep 1000");
    cancel.cancel();
    tokio::time::timeout(PATIENCE, container.release()).await.unwrap();
    assert!(matches!(first.await.unwrap(), Err(ExecError::Cancelled)));
    assert!(second.await.unwrap().is_err());
    assert_eq!(f.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_dropped_container_is_released() {
    let Some(f) = fixture().await else { return };
    let container = f.container(&CancellationToken::new()).await;
    let (first, _out) = f.start(&container, "sleep 1000");
    drop(container);
    assert!(first.await.unwrap().is_err());
    tokio::time::timeout(PATIENCE, f.runner.containers_gone())
        .await
        .unwrap();
    assert_eq!(f.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_to_be() {
    let Some(f) = fixture().await else { return };
    let container = f.container(&CancellationToken::new()).await;
    let (_first, _out) = f.start(&container, "sleep 1000");
    let mut request = f.process("");
    request.op.args = vec!["/no/such/program".to_owned()];
    let io = ProcessIo {
        stdin: None,
        output: ProcessOutput::Direct {
            stdout: None,
            stderr: None,
        },
        control: None,
        meter: None,
    };
    let error = container.start(request, false, io).unwrap().await.unwrap().unwrap_err();
    assert!(
        with_causes(&error).contains("/no/such/program"),
        "{}",
        with_causes(&error)
    );
    container.release().await;
}

#[tokio::test]
async fn signals_and_sizes_reach_the_process() {
    let Some(f) = fixture().await else { return };
    let container = f.container(&CancellationToken::new()).await;
    let (mut terminal, theirs) = Terminal::open().unwrap();
    let (control, requests) = mpsc::channel(8);
    let io = ProcessIo {
        stdin: Some(theirs.try_clone().unwrap()),
        output: ProcessOutput::Direct {
            stdout: Some(theirs.try_clone().unwrap()),
            stderr: Some(theirs),
        },
        control: Some(requests),
        meter: None,
    };
    let script = "trap 'echo size; stty size; exit 7' USR1; test -t 0 && echo ready; while :; do sleep 0.05; done";
    let ending = container.start(f.process(script), true, io).unwrap();
    let mut shown = Vec::new();
    let mut wait_for = async |text: &str| {
        let seen = async {
            while !String::from_utf8_lossy(&shown).contains(text) {
                assert!(terminal.output.read_buf(&mut shown).await.unwrap() > 0, "{shown:?}");
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap();
    };
    wait_for("ready").await;
    terminal.size.set(33, 77).unwrap();
    control.send(ProcessControl::Resized).await.unwrap();
    control.send(ProcessControl::Signal(Signal::USR1)).await.unwrap();
    wait_for("33 77").await;
    assert_eq!(code(ending).await, 7);
    container.release().await;
}

#[tokio::test]
async fn files_of_the_daemon_are_there_to_be_read_only() {
    let Some(f) = fixture().await else { return };
    let own = crate::executor::OwnDir {
        dest: "/run/of/daemon".into(),
        files: vec![("file".to_owned(), b"content".to_vec())],
    };
    let mut request = f.request(script("none"));
    for mount in &mut request.op.mounts {
        mount.output = None;
    }
    let container = f.runner.container(request, vec![own], &CancellationToken::new()).await;
    let container = container.unwrap();
    let (ending, out) = f.start(
        &container,
        "cat /run/of/daemon/file; stat -c ' %a' /run/of/daemon/file; touch /run/of/daemon/x 2>/dev/null || echo refused",
    );
    assert_eq!(text(out).await, "content 400\nrefused\n");
    assert_eq!(code(ending).await, 0);
    container.release().await;
}
