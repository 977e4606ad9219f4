//! Calling one plugin: parameters in its environment, its configuration on its standard input, what it has done on its
//! standard output.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::error::{CniError, PluginError};
use crate::sys::process::kill_group;

/// Most that a plugin may print.
const MAX_OUTPUT: usize = 1 << 20;
/// Most of it that is put into an error.
const MAX_SAID: usize = 2048;
/// How long what a plugin has started may hold its output after its end.
const LINGER: Duration = Duration::from_secs(1);
/// How often is tried to start a program that is just being replaced, and how long after one another.
const BUSY_TRIES: u32 = 5;
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// What a plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// What all plugins of a network are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: Verb,
    /// Where plugins are.
    pub(super) dir: &'a Path,
    /// How long one may take.
    pub(super) limit: Duration,
    /// Names what is connected.
    pub(super) container: &'a str,
    /// The namespace; `None` if it is gone.
    pub(super) netns: Option<&'a Path>,
    /// The interface's name in it.
    pub(super) interface: &'a str,
    /// `KEY=VALUE`, separated by semicolons.
    pub(super) arguments: &'a str,
}

/// Looks whether plugins can be there at all.
pub(super) fn check_dir(dir: &Path) -> Result<(), CniError> {
    std::fs::metadata(dir).map(drop).map_err(|source| CniError::PluginDir {
        path: dir.to_owned(),
        source,
    })
}

/// Looks whether a plugin is there.
pub(super) fn check(dir: &Path, program: &str, origin: &str) -> Result<(), CniError> {
    let found = std::fs::metadata(dir.join(program)).and_then(|metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file")),
    });
    found.map_err(|source| CniError::NoPlugin {
        plugin: program.to_owned(),
        origin: origin.to_owned(),
        dir: dir.to_owned(),
        source,
    })
}

impl Call<'_> {
    /// Calls a plugin and returns what it printed. One that takes too long or prints too much is killed, with all that it
    /// has started.
    ///
    /// # Cancel safety
    /// Dropping this kills the plugin, but not what it has started.
    pub(super) async fn make(&self, program: &str, config: &Value) -> Result<Vec<u8>, PluginError> {
        let mut child = self.start(program).await?;
        let group = child.id();
        let talk = tokio::time::timeout(self.limit, converse(&mut child, config.to_string()));
        let outcome = talk.await.unwrap_or(Err(PluginError::Timeout(self.limit.as_secs())));
        if outcome.is_err() {
            if let Some(group) = group
                && let Err(error) = kill_group(group)
            {
                tracing::warn!(program, %error, "could not kill a cni plugin");
            }
            child.wait().await.map_err(failed("wait for it"))?;
        }
        let (status, stdout, stderr) = outcome?;
        if !status.success() {
            return Err(complaint(status, &stdout, &stderr));
        }
        if !stderr.is_empty() {
            tracing::debug!(program, said = said(&stderr), "a cni plugin has something to say");
        }
        Ok(stdout)
    }

    async fn start(&self, program: &str) -> Result<Child, PluginError> {
        let mut tries = 0;
        loop {
            match self.command(program).spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => tries += 1,
                outcome => return outcome.map_err(failed("start it")),
            }
            tokio::time::sleep(BUSY_WAIT).await;
        }
    }

    /// With the daemon's own environment, in which plugins look for the programs and settings that they use.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.dir.join(program));
        command
            .env("CNI_COMMAND", self.verb.name())
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", self.netns.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", self.interface)
            .env("CNI_ARGS", self.arguments)
            .env("CNI_PATH", self.dir)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

async fn converse(child: &mut Child, config: String) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), PluginError> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that does not want to know may be right.
            drop(stdin.write_all(config.as_bytes()).await);
        }
        Ok(())
    };
    let mut talk = pin!(async { tokio::try_join!(write, read(stdout), read(stderr)) });
    let mut heard = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(failed("wait for it"))?,
            all = &mut talk, if heard.is_none() => heard = Some(all?),
        }
    };
    let (_, stdout, stderr) = match heard {
        Some(all) => all,
        None => match tokio::time::timeout(LINGER, talk).await {
            Ok(all) => all?,
            Err(_) => {
                let source = io::Error::new(io::ErrorKind::TimedOut, "something that it started holds it open");
                return Err(failed("read its output to the end")(source));
            }
        },
    };
    Ok((status, stdout, stderr))
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, PluginError> {
    let mut output = Vec::new();
    if let Some(from) = from {
        let mut from = from.take(MAX_OUTPUT as u64 + 1);
        from.read_to_end(&mut output).await.map_err(failed("read its output"))?;
    }
    if output.len() > MAX_OUTPUT {
        return Err(PluginError::Flood(MAX_OUTPUT));
    }
    Ok(output)
}

/// What a plugin that failed says about it.
fn complaint(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> PluginError {
    #[derive(Deserialize)]
    struct Said {
        msg: String,
        #[serde(default)]
        details: String,
    }
    match serde_json::from_slice::<Said>(stdout) {
        Ok(complaint) if complaint.details.is_empty() => PluginError::Said(said(complaint.msg.as_bytes())),
        Ok(complaint) => PluginError::Said(said(format!("{}; {}", complaint.msg, complaint.details).as_bytes())),
        Err(_) => PluginError::Failed {
            status: status.to_string(),
            said: said(if stdout.is_empty() { stderr } else { stdout }),
        },
    }
}

/// The result of an `ADD`.
pub(super) fn result(stdout: &[u8]) -> Result<Value, PluginError> {
    match serde_json::from_slice(stdout) {
        Ok(result @ Value::Object(_)) => Ok(result),
        _ => Err(PluginError::NoResult(said(stdout))),
    }
}

/// The beginning of an output, as one line.
fn said(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(&output[..output.len().min(MAX_SAID)]);
    text.trim().replace(char::is_control, " ")
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> PluginError {
    move |source| PluginError::Io { doing, source }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scripts;
    use super::*;

    async fn called(scripts: &Scripts, limit: Duration) -> Result<Vec<u8>, PluginError> {
        let call = Call {
            verb: Verb::Add,
            dir: scripts.dir(),
            limit,
            container: "c1",
            netns: Some(Path::new("/run/n")),
            interface: "eth0",
            arguments: "A=B",
        };
        call.make("plugin", &serde_json::json!({"name": "n"})).await
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_plugin_gets_all_parameters_and_its_configuration() {
        let script = "env | grep ^CNI_ | sort; cat";
        let scripts = Scripts::new(&[("plugin", script)]);
        let output = String::from_utf8(called(&scripts, LONG).await.unwrap()).unwrap();
        let want = format!(
            "CNI_ARGS=A=B\nCNI_COMMAND=ADD\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\nCNI_NETNS=/run/n\nCNI_PATH={}\n\
             {{\"name\":\"n\"}}",
            scripts.dir().display()
        );
        assert_eq!(output, want);
    }

    #[tokio::test]
    async fn failures_are_told_in_the_words_of_the_plugin() {
        for (script, want) in [
            (r#"echo '{"code": 7, "msg": "no bridge"}'; exit 1"#, "no bridge"),
            (r#"echo '{"code": 7, "msg": "m", "details": "d"}'; exit 1"#, "m; d"),
            ("exit 3", "it ended with exit status: 3 and no error message"),
            ("echo oops >&2; exit 1", "it ended with exit status: 1: \"oops\""),
            ("echo not json; exit 1", "it ended with exit status: 1: \"not json\""),
            ("kill -9 $$", "it ended with signal: 9 (SIGKILL) and no error message"),
            (
                "yes | head -c 5000000",
                "it printed more than 1048576 bytes and was killed",
            ),
            ("yes >&2", "it printed more than 1048576 bytes and was killed"),
        ] {
            let scripts = Scripts::new(&[("plugin", script)]);
            let error = called(&scripts, LONG).await.unwrap_err();
            assert_eq!(error.to_string(), want, "{script}");
        }
        let error = called(&Scripts::new(&[]), LONG).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to start it: No such file"), "{error}");
    }

    #[tokio::test]
    async fn what_is_said_is_one_short_line() {
        let script = r#"printf '{"msg": "a\\nb%s"}' $(yes | head -n 9000 | tr -d '\n'); exit 1"#;
        let error = called(&Scripts::new(&[("plugin", script)]), LONG).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("a by") && text.len() == MAX_SAID,
            "{} {text}",
            text.len()
        );
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_killed_with_all_that_it_started() {
        let scripts = Scripts::new(&[("plugin", "echo $$ >$0.pid; sleep 1000 & wait")]);
        let error = called(&scripts, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, PluginError::Timeout(1)), "{error}");
        let group = std::fs::read_to_string(scripts.dir().join("plugin.pid")).unwrap();
        let group = rustix::process::Pid::from_raw(group.trim().parse().unwrap()).unwrap();
        // The group is gone once whoever adopted its last process has taken note of that.
        let deadline = std::time::Instant::now() + LONG;
        while rustix::process::test_kill_process_group(group).is_ok() {
            assert!(std::time::Instant::now() < deadline, "something is left of the plugin");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_holds_the_output_open_is_not_waited_for() {
        let scripts = Scripts::new(&[("plugin", "sleep 1000 & exit 0")]);
        let error = called(&scripts, LONG).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "failed to read its output to the end: something that it started holds it open"
        );
    }

    #[test]
    fn results_are_objects() {
        assert!(result(b"{\"ips\": []}").is_ok());
        for output in ["", "[]", "null", "{", "hello\n"] {
            let error = result(output.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("it printed no result, but {:?}", output.trim()));
        }
    }
}
