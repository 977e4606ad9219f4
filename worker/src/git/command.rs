//! Running git within limits.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::error::{GitError, Stop};
use super::settings::Settings;
use crate::executor::{OutputSink, OutputStream};
use crate::sys::process::{confine, kill_group, terminate_group};

/// The first that takes all of its configuration from where it is told (`GIT_CONFIG_GLOBAL`).
const OLDEST: &str = "2.32";
/// No call takes longer. What comes by HTTP or ssh and does not move is given up much earlier.
const LONGEST: Duration = Duration::from_secs(3600);
/// Memory for each process: git keeps what a remote says of its references there, however much that is.
const MAX_MEMORY: u64 = 4 << 30;
/// How long git may take to clean up when it is stopped.
const GRACE: Duration = Duration::from_secs(5);
/// How much of what git says on standard error goes into an error.
const TAIL: usize = 4 << 10;
/// Output passed on at once.
const CHUNK: usize = 16 << 10;

/// Variables of the daemon that say how to reach other machines.
const PASSED_ON: &[&str] = &[
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The `git` program.
pub(super) struct Git {
    /// An empty directory: nobody's home.
    home: PathBuf,
    checked: OnceCell<()>,
}

/// One call of it.
pub(super) struct Call<'a> {
    /// Where it works.
    pub(super) dir: &'a Path,
    /// What it goes by.
    pub(super) settings: &'a Settings,
    /// What takes its standard error; none to leave it to errors.
    pub(super) log: Option<&'a Arc<dyn OutputSink>>,
    /// More variables.
    pub(super) variables: Vec<(&'static str, OsString)>,
    /// Whether it may fetch from directories of this machine, and from nowhere else.
    pub(super) local: bool,
    /// What is attempted, for errors.
    pub(super) doing: String,
    /// Most bytes of standard output.
    pub(super) max_output: usize,
}

/// What came of a call.
pub(super) struct Output {
    /// Standard output.
    pub(super) stdout: Vec<u8>,
    /// The end of standard error.
    pub(super) stderr: String,
    /// Exit code; 128 + n for signal n.
    pub(super) status: i32,
    doing: String,
}

impl Output {
    pub(super) fn is_success(&self) -> bool {
        self.status == 0
    }

    /// Passes on what succeeded.
    ///
    /// # Errors
    /// [`GitError::Failed`] for anything else.
    pub(super) fn success(self) -> Result<Self, GitError> {
        if self.is_success() {
            return Ok(self);
        }
        Err(self.into_error())
    }

    pub(super) fn into_error(self) -> GitError {
        GitError::Failed {
            doing: self.doing,
            stderr: self.stderr,
            status: self.status,
        }
    }

    /// Standard output as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Git {
    pub(super) fn new(home: PathBuf) -> Self {
        Self {
            home,
            checked: OnceCell::new(),
        }
    }

    /// Calls git, whatever its exit code.
    ///
    /// # Errors
    /// If it cannot be called, or is stopped.
    ///
    /// # Cancel safety
    /// To be cancelled by `cancel`, which gives git time to clean up. Dropping the future kills it.
    pub(super) async fn run(
        &self,
        call: Call<'_>,
        arguments: &[&str],
        cancel: &CancellationToken,
    ) -> Result<Output, GitError> {
        self.checked.get_or_try_init(|| self.check()).await?;
        let mut command = self.command(call.dir);
        command.args(arguments);
        for (name, value) in call.settings.variables(call.local) {
            command.env(name, value);
        }
        command.envs(call.variables);
        let mut child = spawn(command)?;
        let mut stdout = Vec::new();
        let mut said = Tail::default();
        let ended = {
            let reading = async {
                tokio::try_join!(
                    collect(child.stdout.take(), &mut stdout, call.max_output),
                    listen(child.stderr.take(), &mut said, call.log),
                )
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Stop::Cancelled),
                read = reading => read.map(drop),
                () = tokio::time::sleep(LONGEST) => Err(Stop::TooSlow(LONGEST)),
            }
        };
        if let Err(why) = ended {
            let clean = stop(&mut child).await;
            return Err(GitError::Stopped { why, clean });
        }
        // What has closed its output may still take its time.
        let exit = tokio::select! {
            exit = child.wait() => exit.map_err(GitError::io("wait for git"))?,
            () = cancel.cancelled() => {
                let clean = stop(&mut child).await;
                return Err(GitError::Stopped { why: Stop::Cancelled, clean });
            }
        };
        Ok(Output {
            stdout,
            stderr: said.text(),
            status: code(exit),
            doing: call.doing,
        })
    }

    /// Git in a process group of its own, with no variables but what it needs.
    fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new("git");
        command.current_dir(dir).env_clear().env("HOME", &self.home);
        command.env("XDG_CONFIG_HOME", &self.home);
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        // Files are made with the permissions that are in the repository, and these alone.
        confine(command.as_std_mut(), 0o022, MAX_MEMORY);
        command
    }

    /// Refuses what would not do as it is told.
    async fn check(&self) -> Result<(), GitError> {
        let mut command = self.command(&self.home);
        command.arg("version");
        let output = spawn(command)?.wait_with_output().await;
        let output = output.map_err(GitError::io("ask git for its version"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let found = said.trim().trim_start_matches("git version ");
        if version(found) < version(OLDEST) {
            return Err(GitError::TooOld {
                found: found.chars().take(50).collect(),
                needed: OLDEST,
            });
        }
        Ok(())
    }
}

/// Major and minor number.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn spawn(mut command: Command) -> Result<Child, GitError> {
    command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => GitError::NotInstalled,
        _ => GitError::io("start git")(error),
    })
}

fn code(exit: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    exit.code().unwrap_or_else(|| 128 + exit.signal().unwrap_or(0))
}

/// Stops git and all that it started; tells whether it ended by itself when asked to.
async fn stop(child: &mut Child) -> bool {
    let Some(leader) = child.id() else { return true };
    if let Err(error) = terminate_group(leader) {
        tracing::warn!(%error, "could not ask git to end");
    }
    let in_time = tokio::time::timeout(GRACE, child.wait()).await.is_ok();
    if !in_time {
        if let Err(error) = kill_group(leader) {
            tracing::warn!(%error, "could not kill git");
        }
        if let Err(error) = child.wait().await {
            tracing::warn!(%error, "could not wait for git");
        }
    }
    in_time
}

async fn collect(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, max: usize) -> Result<(), Stop> {
    let Some(from) = from else { return Ok(()) };
    // A stream that breaks has ended; the exit code tells the rest.
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    if let Err(error) = from.take(limit).read_to_end(into).await {
        tracing::warn!(%error, "could not read the output of git");
    }
    if into.len() > max {
        return Err(Stop::TooMuch(max));
    }
    Ok(())
}

async fn listen(
    from: Option<impl AsyncRead + Unpin>,
    tail: &mut Tail,
    log: Option<&Arc<dyn OutputSink>>,
) -> Result<(), Stop> {
    let Some(mut from) = from else { return Ok(()) };
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        match from.read_buf(&mut chunk).await {
            Ok(0) => return Ok(()),
            Ok(_) => {
                let chunk: Bytes = chunk.freeze();
                tail.push(&chunk);
                if let Some(log) = log {
                    log.output(OutputStream::Stderr, chunk);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not read what git says");
                return Ok(());
            }
        }
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
        let surplus = self.0.len().saturating_sub(TAIL);
        self.0.drain(..surplus);
    }

    /// As text without what a terminal would obey.
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let clean = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t'));
        clean.collect::<String>().trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared() {
        for (found, good) in [
            ("2.47.3", true),
            ("2.32.0", true),
            ("3.0", true),
            ("2.39.5 (Apple Git-154)", true),
            ("2.31.9", false),
            ("1.99", false),
            ("rubbish", false),
        ] {
            assert_eq!(version(found) >= version(OLDEST), good, "{found}");
        }
    }

    #[test]
    fn the_end_of_what_is_said_is_kept_without_control_characters() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; 3 * TAIL]);
        tail.push(b"\n\x1b[31mfatal: \xff no\n");
        let text = tail.text();
        assert!(
            text.len() <= TAIL + 3 && text.ends_with("[31mfatal: \u{fffd} no"),
            "{text}"
        );
        assert!(!text.contains('\x1b'));
    }
}
