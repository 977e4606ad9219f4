//! Web servers that answer as a test wants it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Answers every HTTP request with one status and body; stopped when dropped.
pub struct FixedAnswer {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FixedAnswer {
    /// Starts it on a free port of the loopback address.
    ///
    /// # Errors
    /// If there is none.
    pub fn start(status: &'static str, body: &'static str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = stopped.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_stopped.load(Ordering::SeqCst) {
                    break;
                }
                // Clients go away as they like.
                let _gone = answer(stream, status, body);
            }
        });
        Ok(Self {
            address,
            stopped,
            thread: Some(thread),
        })
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

fn answer(stream: TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let head = BufReader::new(&stream).lines().map_while(Result::ok);
    head.take_while(|line| !line.is_empty()).for_each(drop);
    let length = body.len();
    write!(
        &stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    stream.shutdown(Shutdown::Both)
}

impl Drop for FixedAnswer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread, which then sees that it is over.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// What came in.
#[derive(Debug, Clone)]
pub struct WebRequest {
    /// Path and query.
    pub path: String,
    /// By names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// What goes out.
#[derive(Debug, Clone, Default)]
pub struct WebReply {
    /// Such as `200 OK`.
    pub status: &'static str,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body; left out, with its length, for a status that has none.
    pub body: Vec<u8>,
}

impl WebReply {
    /// A file.
    pub fn file(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: "200 OK",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// A status and nothing else.
    pub fn status(status: &'static str) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A web server that answers as a test says, one request after another; stopped when dropped.
pub struct WebServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<WebRequest>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    /// Starts it on a free port of the loopback address.
    ///
    /// # Errors
    /// If there is none.
    pub fn start(handler: impl Fn(&WebRequest) -> WebReply + Send + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (stopped, requests) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (is_stopped, log): (_, Arc<Mutex<Vec<WebRequest>>>) = (stopped.clone(), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Some(request) = read_request(&stream) else { continue };
                log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
                // Clients go away as they like.
                let _gone = reply(stream, &handler(&request));
            }
        });
        Ok(Self {
            address,
            requests,
            stopped,
            thread: Some(thread),
        })
    }

    /// The URL of a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What came in so far.
    pub fn requests(&self) -> Vec<WebRequest> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read_request(stream: &TcpStream) -> Option<WebRequest> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let headers = lines.take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Some(WebRequest {
        path,
        headers: headers.collect(),
    })
}

fn reply(mut stream: TcpStream, reply: &WebReply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !reply.status.starts_with("304") {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&reply.body)?;
    stream.shutdown(Shutdown::Both)
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread, which then sees that it is over.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
