//! What git is told: all of its configuration, and nobody else's.
//!
//! It is in memory, where git finds it by a descriptor of this process: what is secret in it is in no file, no argument
//! and no variable.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_session::Secret;
use rustix::fs::MemfdFlags;

use super::error::GitError;
use super::remote::{Protocol, Remote};

/// For every call: no hooks, no helpers, no clean-up in the background, no waiting for what does not move.
const COMMON: &str = "\
[core]
\thooksPath = /dev/null
\tattributesFile = /dev/null
\texcludesFile = /dev/null
\taskPass =
\tfsmonitor = false
\tlogAllRefUpdates = false
\tbigFileThreshold = 64m
[credential]
\thelper =
[gc]
\tauto = 0
[maintenance]
\tauto = false
[fetch]
\tunpackLimit = 1
\twriteCommitGraph = false
\trecurseSubmodules = false
[submodule]
\trecurse = false
[protocol]
\tversion = 2
[http]
\tlowSpeedLimit = 1000
\tlowSpeedTime = 60
[checkout]
\tworkers = 4
[advice]
\tdetachedHead = false
[init]
\tdefaultBranch = main
";

/// Protocols that lead to other machines.
const REMOTE_PROTOCOLS: &str = "http:https:ssh:git";

/// How to log in at a remote that is reached by HTTP.
pub(crate) enum Authorization {
    /// A token of a hosting service.
    Token(Secret),
    /// A whole `Authorization` value.
    Header(Secret),
    /// User and password.
    Login(String, Secret),
}

/// How to get through to a remote that is reached by ssh.
#[derive(Default)]
pub(crate) struct SshAccess {
    /// Keys of hosts, in the form of `known_hosts`; empty to take what the host presents.
    pub(crate) known_hosts: String,
    /// Socket of the agent that holds the client's keys.
    pub(crate) agent: Option<PathBuf>,
}

/// All that git goes by. What is secret in it lasts as long as this.
pub(crate) struct Settings {
    config: File,
    _known_hosts: Option<File>,
    ssh_command: String,
    agent: Option<PathBuf>,
}

impl Settings {
    /// For calls that reach `remote`.
    ///
    /// # Errors
    /// [`GitError::Credential`] if the credential cannot be part of a header.
    pub(crate) fn new(
        remote: &Remote,
        authorization: Option<&Authorization>,
        ssh: SshAccess,
    ) -> Result<Self, GitError> {
        let mut config = COMMON.to_owned();
        match authorization.filter(|_| remote.protocol() == Protocol::Http) {
            Some(authorization) => {
                let header = header(authorization).ok_or_else(|| GitError::Credential {
                    host: remote.authority().to_owned(),
                })?;
                // Git would carry the header to wherever it is sent.
                config.push_str("[http]\n\tfollowRedirects = false\n");
                let (base, header) = (quoted(remote.base()), quoted(&format!("Authorization: {header}")));
                // Writing to a string cannot fail.
                let _written = write!(config, "[http {base}]\n\textraHeader = {header}\n");
            }
            None => config.push_str("[http]\n\tfollowRedirects = initial\n"),
        }
        let known_hosts = match ssh.known_hosts.as_str() {
            "" => None,
            known => Some(in_memory("cairn-known-hosts", &format!("{known}\n"))?),
        };
        Ok(Self {
            config: in_memory("cairn-git-config", &config)?,
            ssh_command: ssh_command(known_hosts.as_ref()),
            _known_hosts: known_hosts,
            agent: ssh.agent,
        })
    }

    /// Variables for a call; `local` lets it fetch from directories of this machine and nowhere else.
    pub(super) fn variables(&self, local: bool) -> Vec<(&'static str, String)> {
        let protocols = if local { "file" } else { REMOTE_PROTOCOLS };
        let mut variables = vec![
            ("GIT_CONFIG_GLOBAL", path_of(&self.config)),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_ATTR_NOSYSTEM", "1".to_owned()),
            ("GIT_ALLOW_PROTOCOL", protocols.to_owned()),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
            ("GIT_NO_REPLACE_OBJECTS", "1".to_owned()),
            ("GIT_SSH_COMMAND", self.ssh_command.clone()),
            ("GIT_SSH_VARIANT", "ssh".to_owned()),
            ("LC_ALL", "C".to_owned()),
        ];
        if let Some(agent) = &self.agent {
            variables.push(("SSH_AUTH_SOCK", agent.display().to_string()));
        }
        variables
    }
}

/// The value of the header; none if it cannot be sent.
fn header(authorization: &Authorization) -> Option<String> {
    let basic = |user: &str, password: &[u8]| {
        let both = [user.as_bytes(), b":", password].concat();
        format!("basic {}", STANDARD.encode(both))
    };
    let value = match authorization {
        // Tokens come out of files, which end in a new line.
        Authorization::Token(token) => basic("x-access-token", token.expose().trim_ascii_end()),
        Authorization::Login(user, password) => basic(user, password.expose()),
        Authorization::Header(header) => header.expose_str()?.trim().to_owned(),
    };
    let is_clean = !value.is_empty() && !value.chars().any(char::is_control);
    is_clean.then_some(value)
}

/// A string as git's configuration has it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// No files of the daemon's user, no forwarding, no questions, no waiting for ever.
fn ssh_command(known_hosts: Option<&File>) -> String {
    let trust = match known_hosts {
        Some(known) => format!("StrictHostKeyChecking=yes -o UserKnownHostsFile={}", path_of(known)),
        None => "StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null".to_owned(),
    };
    format!(
        "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o ForwardAgent=no -o GlobalKnownHostsFile=/dev/null \
         -o UpdateHostKeys=no -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4 \
         -o LogLevel=ERROR -o {trust}"
    )
}

fn in_memory(name: &str, text: &str) -> Result<File, GitError> {
    let write = || -> std::io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        Ok(file)
    };
    write().map_err(GitError::io("keep git's configuration in memory"))
}

/// Where another process of this user finds an open file.
pub(super) fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(remote: &str, authorization: Option<Authorization>) -> Result<String, GitError> {
        let remote = Remote::parse(remote).unwrap();
        let settings = Settings::new(&remote, authorization.as_ref(), SshAccess::default())?;
        Ok(std::fs::read_to_string(path_of(&settings.config)).unwrap())
    }

    #[test]
    fn credentials_are_for_one_host_and_never_a_variable() {
        let token = || Some(Authorization::Token(Secret::new("hunter2\n")));
        let config = text("https://example.com:8443/a.git", token()).unwrap();
        let value = STANDARD.encode("x-access-token:hunter2");
        let section =
            format!("[http \"https://example.com:8443/\"]\n\textraHeader = \"Authorization: basic {value}\"\n");
        assert!(config.ends_with(&section), "{config}");
        assert!(config.contains("followRedirects = false"));
        for remote in ["ssh://git@example.com/a", "git://example.com/a"] {
            assert!(!text(remote, token()).unwrap().contains("extraHeader"), "{remote}");
        }
        let remote = Remote::parse("https://example.com/a").unwrap();
        let header = Authorization::Header(Secret::new("Bearer \"hunter2\\"));
        let settings = Settings::new(&remote, Some(&header), SshAccess::default()).unwrap();
        let variables = settings.variables(false);
        assert!(!format!("{variables:?}").contains("hunter2"));
        assert!(variables.contains(&("GIT_ALLOW_PROTOCOL", REMOTE_PROTOCOLS.to_owned())));
        let config = std::fs::read_to_string(path_of(&settings.config)).unwrap();
        assert!(config.contains("\"Authorization: Bearer \\\"hunter2\\\\\""), "{config}");
    }

    #[test]
    fn headers_cannot_bring_settings_of_their_own() {
        for header in ["", "a\nb", "a\r\nX-Evil: 1", "a\0b"] {
            let authorization = Authorization::Header(Secret::new(header));
            let outcome = text("https://example.com/a", Some(authorization));
            assert!(matches!(outcome, Err(GitError::Credential { .. })), "{header:?}");
        }
    }
}
