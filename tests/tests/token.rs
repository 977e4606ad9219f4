//! Registries that want a token: the client gets it, with credentials that stay with it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, ensure};
use cairn_tests::{Cairn, Daemon, Lab, Need};

/// `me:hunter2`, as in the Docker configuration and in a header.
const LOGIN: &str = "bWU6aHVudGVyMg==";
const LAST: &str = "/last";

/// A registry without any image, and the token server that it names. Ends when asked for [`LAST`].
struct TokenRegistry {
    address: String,
    /// Request line and authorization of every request.
    requests: Receiver<(String, String)>,
    thread: std::thread::JoinHandle<()>,
}

impl TokenRegistry {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let (sender, requests) = channel();
        let name = address.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Clients go away as they like.
                if answer(stream, &name, &sender).unwrap_or(false) {
                    break;
                }
            }
        });
        Ok(Self {
            address,
            requests,
            thread,
        })
    }

    fn finish(self) -> anyhow::Result<Vec<(String, String)>> {
        write!(TcpStream::connect(&self.address)?, "GET {LAST} HTTP/1.1\r\n\r\n")?;
        ensure!(self.thread.join().is_ok(), "the registry panicked");
        Ok(self.requests.try_iter().collect())
    }
}

/// Whether that was the last one.
fn answer(stream: TcpStream, address: &str, log: &Sender<(String, String)>) -> anyhow::Result<bool> {
    let lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let request = head.first().context("no request")?.clone();
    if request.contains(LAST) {
        return Ok(true);
    }
    let authorization = head.iter().find_map(|line| line.strip_prefix("authorization: "));
    let authorization = authorization.unwrap_or_default().to_owned();
    let challenge = format!("www-authenticate: Bearer realm=\"http://{address}/token\",service=\"test\"\r\n");
    let (status, header, body) = match (request.contains(" /token?"), authorization.as_str()) {
        (true, _) => ("200 OK", "", r#"{"token":"canary"}"#),
        (false, "Bearer canary") => ("404 Not Found", "", r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        (false, _) => ("401 Unauthorized", challenge.as_str(), "{}"),
    };
    let length = body.len();
    let body = if request.starts_with("HEAD") { "" } else { body };
    log.send((request, authorization))?;
    write!(
        &stream,
        "HTTP/1.1 {status}\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    stream.shutdown(Shutdown::Both)?;
    Ok(false)
}

#[test]
fn the_client_gets_it() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let registry = TokenRegistry::start()?;
    let address = registry.address.clone();
    let home = lab.path("home").join(".docker");
    std::fs::create_dir_all(&home)?;
    let config = format!(r#"{{"auths": {{"{address}": {{"auth": "{LOGIN}"}}}}}}"#);
    std::fs::write(home.join("config.json"), config)?;
    let http = format!("[registry.\"{address}\"]\nhttp = true\n");
    let daemon = Daemon::start_with(&lab, &lab.path("root"), &http)?;
    let dockerfile = format!("FROM {address}/some/image:tag\n");
    let context = lab.files("context", &[("Dockerfile", &dockerfile)])?;
    let outcome = Cairn::with(&lab, &daemon).try_build([context])?;

    ensure!(outcome.code == 1, "exit code {}:\n{}", outcome.code, outcome.remarks);
    let is_missing = outcome.remarks.to_lowercase().contains("not found");
    ensure!(is_missing, "the registry was not satisfied:\n{}", outcome.remarks);
    let requests = registry.finish()?;
    let is_there = |path: &str, authorization: &str| {
        let mut requests = requests.iter();
        requests.any(|(request, with)| request.contains(path) && with == authorization)
    };
    ensure!(is_there("/token?", &format!("Basic {LOGIN}")), "{requests:?}");
    ensure!(is_there("/manifests/tag", "Bearer canary"), "{requests:?}");
    // Only clients make one, and only when they are to get tokens.
    let seed = std::fs::metadata(home.join(".cairn_token_seed")).context("the daemon got the token itself")?;
    ensure!(seed.mode() & 0o7777 == 0o600, "mode {:o}", seed.mode());
    let said = format!("{}{}", outcome.remarks, daemon.log());
    for secret in ["canary", "hunter2", LOGIN] {
        ensure!(!said.contains(secret), "{secret} in:\n{said}");
    }
    Ok(())
}
