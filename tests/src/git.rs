//! Git repositories behind servers of a test's own, and what it takes to reach them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::lab::{self, Lab};
use crate::process::{Program, Running};

/// No agent takes longer to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest request that is read into memory.
const MAX_BODY: u64 = 16 << 20;

/// A repository with files in it, and more commits as they are needed.
pub struct Repository {
    dir: PathBuf,
}

impl Repository {
    /// Makes one with these files, given as relative path and text, on the branch `main`.
    ///
    /// # Errors
    /// If git fails.
    pub fn new(lab: &Lab, name: &str, files: &[(&str, &str)]) -> anyhow::Result<Self> {
        let repository = Self {
            dir: lab.files(name, &[])?,
        };
        repository.git(&["init", "--quiet", "--initial-branch=main"])?;
        repository.commit(files)?;
        Ok(repository)
    }

    /// Writes files and commits them; returns the hash.
    ///
    /// # Errors
    /// If git fails.
    pub fn commit(&self, files: &[(&str, &str)]) -> anyhow::Result<String> {
        for (path, text) in files {
            let path = self.dir.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(path, text)?;
        }
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--allow-empty", "--message=change"])?;
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in it; returns what it prints.
    ///
    /// # Errors
    /// If git fails.
    pub fn git(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut program = Program::new("git").dir(&self.dir).args(arguments);
        for who in ["AUTHOR", "COMMITTER"] {
            program = program
                .env(&format!("GIT_{who}_NAME"), "Somebody")
                .env(&format!("GIT_{who}_EMAIL"), "somebody@example.com")
                .env(&format!("GIT_{who}_DATE"), "1700000000 +0000");
        }
        let program = program
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        Ok(program.output()?.trim().to_owned())
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Something that handles connections to a free port of the loopback address, a thread each.
struct Listener {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(handle: impl Fn(TcpStream) -> anyhow::Result<()> + Send + Sync + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (is_stopped, handle) = (stopped.clone(), Arc::new(handle));
        let thread = std::thread::spawn(move || {
            let mut handlers = Vec::new();
            for stream in listener.incoming().flatten() {
                if is_stopped.load(Ordering::SeqCst) {
                    break;
                }
                let handle = handle.clone();
                // Clients go away as they like.
                handlers.push(std::thread::spawn(move || drop(handle(stream))));
            }
            for handler in handlers {
                let _ended = handler.join();
            }
        });
        Ok(Self {
            address,
            stopped,
            thread: Some(thread),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread, which then sees that it is over.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A web server with the repositories of a directory, by `git http-backend`; stopped when dropped.
pub struct GitHttp {
    listener: Listener,
    /// Every `Authorization` that was sent, or none for a request without.
    seen: Arc<Mutex<Vec<Option<String>>>>,
}

impl GitHttp {
    /// Serves everybody who sends `authorization`, or everybody if that is none.
    ///
    /// # Errors
    /// If there is no free port.
    pub fn start(root: &Path, authorization: Option<String>) -> anyhow::Result<Self> {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let (log, root) = (seen.clone(), root.to_owned());
        let listener = Listener::start(move |stream| {
            let request = Request::read(&stream)?;
            let sent = request.headers.get("authorization").cloned();
            log.lock().unwrap_or_else(PoisonError::into_inner).push(sent.clone());
            if authorization.is_some() && sent != authorization {
                return refuse(&stream);
            }
            request.answer(&root, &stream)
        })?;
        Ok(Self { listener, seen })
    }

    /// Sends everybody to another server.
    ///
    /// # Errors
    /// If there is no free port.
    pub fn redirect(target: String) -> anyhow::Result<Self> {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let log = seen.clone();
        let listener = Listener::start(move |stream| {
            let request = Request::read(&stream)?;
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(request.headers.get("authorization").cloned());
            let place = format!("{target}{}?{}", request.path, request.query);
            let head =
                format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            (&stream).write_all(head.as_bytes())?;
            Ok(stream.shutdown(Shutdown::Both)?)
        })?;
        Ok(Self { listener, seen })
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        self.listener.address.to_string()
    }

    /// Every `Authorization` that was sent so far.
    pub fn seen(&self) -> Vec<Option<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> anyhow::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: BTreeMap::new(),
            body: Vec::new(),
        };
        for header in (&mut reader).lines() {
            let header = header?;
            let Some((name, value)) = header.split_once(':') else {
                break;
            };
            request.headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        if request
            .headers
            .get("transfer-encoding")
            .is_some_and(|coding| coding == "chunked")
        {
            loop {
                let mut size = String::new();
                reader.read_line(&mut size)?;
                let size = u64::from_str_radix(size.trim(), 16)?;
                ensure!(size <= MAX_BODY, "a chunk of {size} bytes");
                (&mut reader).take(size).read_to_end(&mut request.body)?;
                reader.read_line(&mut String::new())?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = request.headers.get("content-length") {
            (&mut reader).take(length.parse()?).read_to_end(&mut request.body)?;
        }
        Ok(request)
    }

    /// Has git answer, by the rules of CGI.
    fn answer(&self, root: &Path, stream: &TcpStream) -> anyhow::Result<()> {
        let header = |name: &str| self.headers.get(name).cloned().unwrap_or_default();
        let mut backend = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("REQUEST_METHOD", &self.method)
            .env("PATH_INFO", &self.path)
            .env("QUERY_STRING", &self.query)
            .env("CONTENT_TYPE", header("content-type"))
            .env("CONTENT_LENGTH", self.body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
            .env("GIT_PROTOCOL", header("git-protocol"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = backend.stdin.take() {
            stdin.write_all(&self.body)?;
        }
        let output = backend.wait_with_output()?.stdout;
        let end = output.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = output.split_at(end.context("no answer of git")?);
        let head = String::from_utf8_lossy(head);
        let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
        let others = head.lines().filter(|line| !line.starts_with("Status: "));
        let others: String = others.map(|line| format!("{line}\r\n")).collect();
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 {}\r\n{others}content-length: {}\r\nconnection: close\r\n",
            status.unwrap_or("200 OK"),
            body.len() - 4
        )?;
        stream.write_all(b"\r\n")?;
        stream.write_all(&body[4..])?;
        Ok(stream.shutdown(Shutdown::Both)?)
    }
}

fn refuse(mut stream: &TcpStream) -> anyhow::Result<()> {
    let answer = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"test\"\r\ncontent-length: 0\r\n\
                  connection: close\r\n\r\n";
    stream.write_all(answer.as_bytes())?;
    Ok(stream.shutdown(Shutdown::Both)?)
}

/// An ssh server to which one key opens everything, by `sshd`, a process per connection; stopped when dropped.
pub struct Sshd {
    listener: Listener,
    host_key: String,
}

impl Sshd {
    /// Starts one that knows the key of `agent`.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub fn start(lab: &Lab, agent: &Agent) -> anyhow::Result<Self> {
        let dir = lab.files("sshd", &[("authorized_keys", &agent.public_key)])?;
        let host_key = make_key(&dir.join("host_key"))?;
        // Where the server locks itself up; the service that it is not run as would make it.
        std::fs::create_dir_all("/run/sshd")?;
        let config = format!(
            "HostKey {0}/host_key\nAuthorizedKeysFile {0}/authorized_keys\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             PidFile none\nLogLevel ERROR\n",
            dir.display()
        );
        let (program, file) = (lab::which("sshd").context("no sshd")?, dir.join("config"));
        std::fs::write(&file, config)?;
        let listener = Listener::start(move |stream| {
            let (input, output) = (OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream));
            let mut served = Command::new(&program);
            served.arg("-i").arg("-f").arg(&file);
            served.stdin(input).stdout(output).stderr(Stdio::null()).status()?;
            Ok(())
        })?;
        Ok(Self { listener, host_key })
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        self.listener.address.to_string()
    }

    /// Its line in `known_hosts`.
    pub fn known_host(&self) -> String {
        let address = self.listener.address;
        format!("[{}]:{} {}", address.ip(), address.port(), self.host_key)
    }
}

/// An ssh agent with one key; stopped when dropped.
pub struct Agent {
    _running: Running,
    socket: PathBuf,
    public_key: String,
}

impl Agent {
    /// Starts one.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let dir = lab.files("ssh", &[])?;
        let (key, socket) = (dir.join("key"), dir.join("agent.sock"));
        let public_key = make_key(&key)?;
        let running = Program::new("ssh-agent")
            .args([Path::new("-D"), Path::new("-a"), &socket])
            .start()?;
        let told = running
            .stdout
            .wait_for(0, PATIENCE, |line| line.contains("SSH_AUTH_SOCK"));
        told.context("the agent does not start")?;
        UnixStream::connect(&socket)?;
        Program::new("ssh-add")
            .env("SSH_AUTH_SOCK", &socket)
            .args([&key])
            .output()?;
        Ok(Self {
            _running: running,
            socket,
            public_key,
        })
    }

    /// The socket on which it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The key it holds, in base64.
    pub fn key(&self) -> &str {
        self.public_key.split(' ').nth(1).unwrap_or_default()
    }
}

/// Makes a key; returns its public half.
fn make_key(path: &Path) -> anyhow::Result<String> {
    let program = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]);
    program.args([path]).output()?;
    let public = std::fs::read_to_string(path.with_extension("pub"))?;
    Ok(public.trim().to_owned())
}
