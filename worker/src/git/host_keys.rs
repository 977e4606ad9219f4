//! The keys that an ssh host presents, asked for before anybody knows which it should.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::remote::{Protocol, Remote};
use crate::sys::process::confine;

/// How long a host may take to answer, for the program that asks.
const PATIENCE: &str = "5";
/// How long the program may take.
const LONGEST: Duration = Duration::from_secs(10);
/// Memory for it.
const MAX_MEMORY: u64 = 512 << 20;
/// Most bytes of its answer: a host has a handful of keys.
const MAX_OUTPUT: u64 = 64 << 10;
/// Where ssh servers listen.
const PORT: &str = "22";

/// What the host of `remote` presents, as lines of `known_hosts` in an order that does not depend on how they came.
/// Empty if it does not tell, or is not reached by ssh.
///
/// # Cancel safety
/// Dropping the future ends the program.
pub(crate) async fn host_keys(remote: &Remote) -> String {
    if remote.protocol() != Protocol::Ssh {
        return String::new();
    }
    let (host, port) = split(remote.authority());
    let mut command = Command::new("ssh-keyscan");
    command.args(["-T", PATIENCE, "-p", port, "--", host]);
    command.env_clear().env("LC_ALL", "C");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    confine(command.as_std_mut(), 0o022, MAX_MEMORY);
    let answer = async {
        let mut child = command.spawn()?;
        let mut said = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_OUTPUT).read_to_end(&mut said).await?;
        }
        Ok::<_, std::io::Error>(said)
    };
    match tokio::time::timeout(LONGEST, answer).await {
        Ok(Ok(said)) => known_hosts(&String::from_utf8_lossy(&said), host, port),
        // It is as if the host had not answered: whoever connects next learns more.
        Ok(Err(error)) => {
            tracing::debug!(host, %error, "failed to ask an ssh host for its keys");
            String::new()
        }
        Err(_) => String::new(),
    }
}

/// Host and port of `host[:port]`, where the host may be an address in brackets.
fn split(authority: &str) -> (&str, &str) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, PORT),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// The lines that are about this host, and nothing else.
fn known_hosts(said: &str, host: &str, port: &str) -> String {
    let name = if port == PORT {
        host.to_owned()
    } else {
        format!("[{host}]:{port}")
    };
    let is_key = |line: &&str| {
        let mut words = line.split(' ');
        words.next() == Some(&name) && words.filter(|word| !word.is_empty()).count() == 2
    };
    let mut lines: Vec<&str> = said.lines().filter(is_key).collect();
    lines.sort_unstable();
    lines.dedup();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_ports() {
        for (authority, want) in [
            ("h", ("h", "22")),
            ("h:2222", ("h", "2222")),
            ("127.0.0.1:1", ("127.0.0.1", "1")),
            ("[::1]", ("::1", "22")),
            ("[::1]:2222", ("::1", "2222")),
        ] {
            assert_eq!(split(authority), want, "{authority}");
        }
    }

    #[test]
    fn keys_are_those_of_the_host_in_one_order() {
        let said = "# h:22 SSH-2.0-x\nh ssh-rsa B\nother ssh-rsa C\nh ssh-ed25519 A\nh ssh-rsa B\nh\nh x y z\n";
        assert_eq!(known_hosts(said, "h", "22"), "h ssh-ed25519 A\nh ssh-rsa B");
        assert_eq!(known_hosts("[h]:7 t k\nh t k\n", "h", "7"), "[h]:7 t k");
        assert_eq!(known_hosts("", "h", "22"), "");
    }
}
