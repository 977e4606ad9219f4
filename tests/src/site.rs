//! A web server for a directory, in which there may be git repositories.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, ensure};

/// Serves the files below a directory, and repositories named `*.git` in it by `git http-backend`; stopped when dropped.
pub struct Site {
    address: SocketAddr,
    dir: PathBuf,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Starts it on a free port of the loopback address.
    ///
    /// # Errors
    /// If there is none.
    pub fn start(dir: PathBuf) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (is_stopped, served) = (stopped.clone(), dir.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_stopped.load(Ordering::SeqCst) {
                    break;
                }
                // Clients go away as they like.
                let _gone = answer(&stream, &served);
            }
        });
        Ok(Self {
            address,
            dir,
            stopped,
            thread: Some(thread),
        })
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Makes a repository `name` of what is in `files`, with one commit at the branch `main` and the tag `v1`; returns the
    /// commit's hash. It was made at `seconds` since the epoch.
    ///
    /// # Errors
    /// If git fails.
    pub fn repository(&self, name: &str, files: &Path, seconds: i64) -> anyhow::Result<String> {
        let repository = self.dir.join(name);
        git(files, seconds, &["init", "-q", "-b", "main"])?;
        git(files, seconds, &["add", "-A"])?;
        git(files, seconds, &["commit", "-q", "-m", "all of it"])?;
        git(files, seconds, &["tag", "v1"])?;
        let to = repository.display().to_string();
        git(files, seconds, &["clone", "-q", "--bare", ".", &to])?;
        Ok(git(files, seconds, &["rev-parse", "HEAD"])?.trim().to_owned())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread up.
        let _unreachable = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn git(dir: &Path, seconds: i64, args: &[&str]) -> anyhow::Result<String> {
    let when = format!("{seconds} +0000");
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.com",
            "-c",
            "commit.gpgsign=false",
        ])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", &when)
        .env("GIT_COMMITTER_DATE", &when)
        .output()
        .context("failed to start git")?;
    ensure!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What was asked for.
#[derive(Default)]
struct Request {
    method: String,
    path: String,
    query: String,
    content_type: String,
    content_encoding: String,
    git_protocol: String,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let mut request = Self {
            method: words.next().unwrap_or_default().to_owned(),
            ..Self::default()
        };
        let target = words.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        (request.path, request.query) = (path.to_owned(), query.to_owned());
        let (mut length, mut is_chunked) = (0, false);
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else {
                break;
            };
            let value = value.trim().to_owned();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "transfer-encoding" => is_chunked = value == "chunked",
                "content-type" => request.content_type = value,
                "content-encoding" => request.content_encoding = value,
                "git-protocol" => request.git_protocol = value,
                _ => {}
            }
        }
        while is_chunked {
            line.clear();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.by_ref().take(size).read_to_end(&mut request.body)?;
            reader.read_line(&mut line)?;
            is_chunked = size > 0;
        }
        reader.take(length).read_to_end(&mut request.body)?;
        Ok(request)
    }
}

fn answer(stream: &TcpStream, dir: &Path) -> std::io::Result<()> {
    let request = Request::read(stream)?;
    let (head, body) = if request.path.contains(".git/") {
        repository(&request, dir)?
    } else {
        file(&request, dir)
    };
    let length = body.len();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    if request.method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.shutdown(Shutdown::Both)
}

fn file(request: &Request, dir: &Path) -> (String, Vec<u8>) {
    let path = Path::new(request.path.trim_start_matches('/'));
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    // What is asked for as a directory is called `index` here.
    let file = if path.as_os_str().is_empty() {
        Path::new("index")
    } else {
        path
    };
    match std::fs::read(dir.join(file)) {
        Ok(body) if is_inside => ("200 OK".to_owned(), body),
        _ => ("404 Not Found".to_owned(), Vec::new()),
    }
}

fn repository(request: &Request, dir: &Path) -> std::io::Result<(String, Vec<u8>)> {
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", dir)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", &request.content_type)
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", &request.content_encoding)
        .env("GIT_PROTOCOL", &request.git_protocol)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = backend.stdin.take() {
        input.write_all(&request.body)?;
    }
    let output = backend.wait_with_output()?.stdout;
    let end = output
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap_or(output.len());
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
    let headers: String = head
        .lines()
        .filter(|line| !line.starts_with("Status: "))
        .map(|line| format!("\r\n{line}"))
        .collect();
    let body = output.get(end + 4..).unwrap_or_default().to_vec();
    Ok((format!("{}{headers}", status.unwrap_or("200 OK")), body))
}
