//! Credentials from a Docker client's configuration file, and from the helpers that it names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Credentials;
use crate::secret::Secret;

/// The host of Docker's own registry, and the key under which its credentials are kept.
const HUB_HOST: &str = "registry-1.docker.io";
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name with which helpers mark refresh tokens.
const TOKEN_USER: &str = "<token>";
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// Failure to read credentials.
#[derive(Debug, thiserror::Error)]
pub enum DockerConfigError {
    /// The file cannot be read.
    #[error("failed to read docker configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be. The cause is left out: it could quote a secret.
    #[error("docker configuration {} is not valid", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
    },
    /// An entry of the file cannot be decoded.
    #[error("credentials for {host} in the docker configuration are not valid")]
    Entry {
        /// The entry's key.
        host: String,
    },
    /// The configuration names a helper that cannot be meant.
    #[error("invalid credential helper name {0:?}")]
    HelperName(String),
    /// A helper could not be run.
    #[error("failed to run credential helper {program}")]
    Helper {
        /// The helper.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A helper ran and failed.
    #[error("credential helper {program} failed for {host}: {message}")]
    HelperFailed {
        /// The helper.
        program: String,
        /// The registry.
        host: String,
        /// What it said.
        message: String,
    },
}

/// The parts of the configuration that concern credentials. Read once; helpers run on every question.
#[derive(Debug, Default)]
pub struct DockerConfig {
    auths: BTreeMap<String, Credentials>,
    registry_tokens: BTreeMap<String, Secret>,
    default_helper: Option<String>,
    helpers: BTreeMap<String, String>,
    /// Where the file is or would be.
    directory: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credsStore")]
    creds_store: String,
    #[serde(rename = "credHelpers")]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

impl DockerConfig {
    /// Reads a configuration file; one that does not exist holds no credentials.
    ///
    /// # Errors
    /// [`DockerConfigError`] if the file cannot be read or understood.
    pub async fn load(path: &Path) -> Result<Self, DockerConfigError> {
        match tokio::fs::read(path).await {
            Ok(bytes) => Self::parse(&bytes, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self {
                directory: directory_of(path),
                ..Self::default()
            }),
            Err(source) => Err(DockerConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, DockerConfigError> {
        let invalid = |_| DockerConfigError::Parse { path: path.to_owned() };
        let file: File = serde_json::from_slice(bytes).map_err(invalid)?;
        let mut auths = BTreeMap::new();
        let mut registry_tokens = BTreeMap::new();
        for (host, mut entry) in file.auths {
            let registry_token = std::mem::take(&mut entry.registrytoken);
            if !registry_token.is_empty() {
                registry_tokens.insert(bare_host(&host).to_owned(), Secret::new(registry_token));
            }
            let credentials = entry
                .decode()
                .ok_or_else(|| DockerConfigError::Entry { host: host.clone() })?;
            if !credentials.is_anonymous() {
                auths.insert(bare_host(&host).to_owned(), credentials);
            }
        }
        let default_helper = Some(file.creds_store).filter(|helper| !helper.is_empty());
        Ok(Self {
            auths,
            registry_tokens,
            default_helper,
            helpers: file.cred_helpers,
            directory: directory_of(path),
        })
    }

    /// Credentials for a registry host; anonymous ones if there are none.
    ///
    /// # Errors
    /// [`DockerConfigError`] if the helper in charge fails.
    pub async fn credentials(&self, host: &str) -> Result<Credentials, DockerConfigError> {
        let key = key_of(host);
        let helper = self.helpers.get(key).or_else(|| self.helpers.get(bare_host(key)));
        match helper.or(self.default_helper.as_ref()) {
            Some(helper) => ask_helper(helper, key).await,
            None => Ok(self.auths.get(bare_host(key)).cloned().unwrap_or_default()),
        }
    }

    /// A token that the file holds for a registry host, to be sent there as it is.
    pub(super) fn registry_token(&self, host: &str) -> Option<Secret> {
        self.registry_tokens.get(bare_host(key_of(host))).cloned()
    }

    /// The directory of the file, which need not exist.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

impl Entry {
    fn decode(self) -> Option<Credentials> {
        if !self.identitytoken.is_empty() {
            return Some(Credentials {
                username: String::new(),
                secret: Secret::new(self.identitytoken),
            });
        }
        if self.auth.is_empty() {
            return Some(Credentials {
                username: self.username,
                secret: Secret::new(self.password),
            });
        }
        let decoded = String::from_utf8(STANDARD.decode(self.auth).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        let password = password.trim_matches('\0').to_owned();
        Some(Credentials {
            username: username.to_owned(),
            secret: Secret::new(password),
        })
    }
}

/// The key under which a host's credentials are kept.
fn key_of(host: &str) -> &str {
    if host == HUB_HOST { HUB_KEY } else { host }
}

fn directory_of(path: &Path) -> Option<PathBuf> {
    let directory = path.parent()?;
    // A bare file name is one in the working directory.
    let is_bare = directory.as_os_str().is_empty();
    Some(if is_bare { Path::new(".") } else { directory }.to_owned())
}

/// Old files key their entries by URL.
fn bare_host(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    key.split_once('/').map_or(key, |(host, _)| host)
}

async fn ask_helper(helper: &str, host: &str) -> Result<Credentials, DockerConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if helper.is_empty() || !helper.bytes().all(is_plain) {
        return Err(DockerConfigError::HelperName(helper.to_owned()));
    }
    ask_program(format!("docker-credential-{helper}"), host).await
}

async fn ask_program(program: String, host: &str) -> Result<Credentials, DockerConfigError> {
    let failed = |source| DockerConfigError::Helper {
        program: program.clone(),
        source,
    };
    let run = tokio::time::timeout(HELPER_TIMEOUT, run_helper(&program, host));
    let output = run
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    if !output.status.success() {
        // Helpers speak on either stream; this sentence is how all of them say "none".
        let said = if output.stdout.is_empty() {
            &output.stderr
        } else {
            &output.stdout
        };
        let message = String::from_utf8_lossy(said).trim().to_owned();
        if message.contains("credentials not found in native keychain") {
            return Ok(Credentials::default());
        }
        return Err(DockerConfigError::HelperFailed {
            program,
            host: host.to_owned(),
            message,
        });
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout).map_err(|_| DockerConfigError::HelperFailed {
        program: program.clone(),
        host: host.to_owned(),
        message: "its answer is not valid".to_owned(),
    })?;
    let username = if answer.username == TOKEN_USER {
        String::new()
    } else {
        answer.username
    };
    Ok(Credentials {
        username,
        secret: Secret::new(answer.secret),
    })
}

async fn run_helper(program: &str, host: &str) -> io::Result<std::process::Output> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without reading its input.
        match stdin.write_all(host.as_bytes()).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<DockerConfig, DockerConfigError> {
        DockerConfig::parse(json.as_bytes(), Path::new("config.json"))
    }

    #[tokio::test]
    async fn finds_credentials_by_host() {
        let json = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0OndpdGggY29sb24="},
            "ghcr.io": {"username": "u", "password": "p"},
            "http://old.example/v1/": {"identitytoken": "refresh"},
            "empty.example": {}
        }, "unknown": [1]}"#;
        let config = config(json).unwrap();
        let rows = [
            ("registry-1.docker.io", "me", "secret:with colon"),
            ("ghcr.io", "u", "p"),
            ("old.example", "", "refresh"),
            ("empty.example", "", ""),
            ("other.example", "", ""),
        ];
        for (host, username, secret) in rows {
            let found = config.credentials(host).await.unwrap();
            assert_eq!(
                (found.username.as_str(), found.secret.expose_str()),
                (username, Some(secret)),
                "{host}"
            );
        }
    }

    #[test]
    fn finds_registry_tokens_by_host() {
        let json = r#"{"credsStore": "x", "auths": {
            "https://index.docker.io/v1/": {"registrytoken": "hub"},
            "ghcr.io": {"auth": "dTpw", "registrytoken": "hunter2"}
        }}"#;
        let config = config(json).unwrap();
        let rows = [
            ("registry-1.docker.io", Some("hub")),
            ("ghcr.io", Some("hunter2")),
            ("quay.io", None),
        ];
        for (host, expected) in rows {
            let found = config.registry_token(host);
            assert_eq!(found.as_ref().and_then(Secret::expose_str), expected, "{host}");
        }
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn knows_its_directory() {
        for (path, expected) in [("/missing/config.json", "/missing"), ("missing.json", ".")] {
            let config = DockerConfig::load(Path::new(path)).await.unwrap();
            assert_eq!(config.directory(), Some(Path::new(expected)));
        }
        assert_eq!(DockerConfig::default().directory(), None);
    }

    #[test]
    fn errors_quote_no_secrets() {
        for json in [
            r#"{"auths": {"h": {"auth": "hunter2!"}}}"#,
            r#"{"auths": {"h": "hunter2"}}"#,
            "hunter2",
        ] {
            let error = config(json).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn helper_names_are_not_paths() {
        for name in ["../x", "a b", "a/b"] {
            let json = serde_json::json!({ "credsStore": name }).to_string();
            let error = config(&json).unwrap().credentials("h").await.unwrap_err();
            assert!(matches!(error, DockerConfigError::HelperName(_)), "{name}");
        }
    }

    /// Makes a helper that behaves as the script says.
    fn helper(dir: &Path, name: &str, script: &str) -> String {
        let path = dir.join(name);
        // Written by another process: a file that this one has open for writing cannot be run.
        let write = "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\" && chmod +x \"$0\"";
        let mut shell = std::process::Command::new("sh");
        let status = shell.args(["-c", write]).arg(&path).arg(script).status();
        assert!(status.unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn helpers_answer_for_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let answer = r#"read host; printf '{"ServerURL":"x","Username":"%s","Secret":"s"}' "$host""#;
        let token = r#"echo '{"Username":"<token>","Secret":"refresh"}'"#;
        let none = "echo 'credentials not found in native keychain'; exit 1";
        let rows = [
            ("answer", answer, "ghcr.io", "s"),
            ("token", token, "", "refresh"),
            ("none", none, "", ""),
        ];
        for (name, script, username, secret) in rows {
            let program = helper(dir.path(), name, script);
            let found = ask_program(program, "ghcr.io").await.unwrap();
            assert_eq!(found.username, username, "{name}");
            assert_eq!(found.secret.expose_str(), Some(secret), "{name}");
        }
    }

    #[tokio::test]
    async fn failing_helpers_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let locked = helper(dir.path(), "locked", "echo locked >&2; exit 1");
        let error = ask_program(locked, "h").await.unwrap_err();
        assert!(error.to_string().ends_with("failed for h: locked"), "{error}");
        let garbled = helper(dir.path(), "garbled", "echo hunter2");
        let error = ask_program(garbled, "h").await.unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
        let missing = dir.path().join("missing").to_str().unwrap().to_owned();
        let error = ask_program(missing, "h").await.unwrap_err();
        assert!(matches!(error, DockerConfigError::Helper { .. }));
    }
}
