//! Against servers that answer well, badly, and not at all.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cairn_session::secrets::{self, SecretSource};
use cairn_session::{Services, SessionHandle, SessionHeaders, tunnel};
use cairn_solver::SessionGroup;
use cairn_solver::progress::{EventLog, VertexProgress};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::registry::tests::fake::{FakeServer, Reply, Request};
use crate::sys::is_root_or_skip;

/// Sources with a store of their own.
struct Lab {
    sources: HttpSources,
    dir: tempfile::TempDir,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let layers = LayerStore::open(dir.path().join("layers")).unwrap();
    let mut sources = HttpSources::open(&dir.path().join("http"), layers, SessionManager::default()).unwrap();
    sources.limits = Limits {
        window: Duration::from_millis(300),
        pause: Duration::from_millis(1),
        ..Limits::default()
    };
    Lab { sources, dir }
}

impl Lab {
    /// The same directories after a restart.
    fn reopen(self) -> Self {
        let Self { sources, dir } = self;
        drop(sources);
        let layers = LayerStore::open(dir.path().join("layers")).unwrap();
        let sources = HttpSources::open(&dir.path().join("http"), layers, SessionManager::default()).unwrap();
        Self { sources, dir }
    }

    async fn resolve(&self, source: &HttpSource) -> Result<ResolvedSource, String> {
        let resolved = self.sources.resolve(source, &context(&[])).await;
        resolved.map_err(|error| error.to_string())
    }

    async fn error(&self, url: &str) -> String {
        self.resolve(&at(url)).await.unwrap_err()
    }

    /// The files of a result, by name.
    fn files(&self, result: &Ref) -> Vec<(String, Vec<u8>, std::fs::Metadata)> {
        let list = self.sources.layers.pin(result.id()).unwrap().unwrap();
        let [layer] = list.ids() else { panic!("one layer") };
        let root = self.dir.path().join("layers/layers").join(layer.as_str()).join("fs");
        let entries = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read(&path).unwrap(), path.metadata().unwrap())
            })
            .collect()
    }

    fn leftovers(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("layers/staging")).map_or(0, Iterator::count)
    }
}

fn context(sessions: &[&str]) -> CallContext {
    let group = SessionGroup::default();
    for session in sessions {
        group.add(session);
    }
    CallContext {
        progress: VertexProgress::new(Digest::sha256(b"vertex"), Arc::new(EventLog::default())),
        sessions: group,
        cancel: CancellationToken::new(),
        trace: None,
    }
}

fn at(url: &str) -> HttpSource {
    HttpSource {
        url: url.to_owned(),
        ..HttpSource::default()
    }
}

fn url(server: &FakeServer, path: &str) -> String {
    format!("http://{}{path}", server.host)
}

/// A client that knows some secrets.
async fn client(lab: &Lab, id: &str, known: &[(&str, &str)]) -> (SessionHandle, AbortOnDropHandle<()>) {
    let mut services = Services::new();
    let mut sources = std::collections::BTreeMap::new();
    for (number, (name, value)) in known.iter().enumerate() {
        let path = lab.dir.path().join(format!("secret-{id}-{number}"));
        std::fs::write(&path, value).unwrap();
        sources.insert((*name).to_owned(), SecretSource::File(path));
    }
    secrets::serve(&mut services, sources);
    connect(lab, id, services).await
}

async fn connect(lab: &Lab, id: &str, services: Services) -> (SessionHandle, AbortOnDropHandle<()>) {
    let (to_client, from_daemon) = mpsc::channel::<Bytes>(8);
    let (to_daemon, from_client) = mpsc::channel::<Bytes>(8);
    let headers = SessionHeaders::new(id, "", services.methods());
    let incoming = ReceiverStream::new(from_daemon).map(Ok::<_, std::io::Error>);
    let io = tunnel::TunnelIo::new(incoming, to_daemon, CancellationToken::new());
    let client = AbortOnDropHandle::new(tokio::spawn(async move { drop(tunnel::serve_io(io, services).await) }));
    let incoming = ReceiverStream::new(from_client).map(Ok::<_, std::io::Error>);
    let handle = lab
        .sources
        .sessions
        .register(headers, incoming, to_client)
        .await
        .unwrap();
    (handle, client)
}

const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

#[tokio::test]
async fn a_file_is_placed_with_the_attributes_asked_for() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let server = FakeServer::start(|_| {
        Reply::new(200)
            .header("last-modified", DATE)
            .header("content-encoding", "gzip")
            .body("not unpacked")
    })
    .await;
    let plain = at(&url(&server, "/d/file.txt?x=1"));
    let resolved = lab.resolve(&plain).await.unwrap();
    let result = resolved.result.unwrap();
    let files = lab.files(&result);
    let [(name, data, metadata)] = &files[..] else {
        panic!("one file")
    };
    assert_eq!((name.as_str(), data.as_slice()), ("file.txt", &b"not unpacked"[..]));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mtime()),
        (0, 0, 1_445_412_480)
    );
    assert_eq!(resolved.parts["digest"], Digest::sha256(b"not unpacked").to_string());
    assert_eq!(server.requests()[0].headers["accept-encoding"], "identity");

    let special = HttpSource {
        filename: "other".to_owned(),
        mode: Some(0o4755),
        uid: 7,
        gid: 8,
        headers: [
            ("accept".to_owned(), "x/y".to_owned()),
            ("user-agent".to_owned(), "me".to_owned()),
        ]
        .into(),
        ..plain
    };
    let resolved_special = lab.resolve(&special).await.unwrap();
    assert_ne!(resolved_special.pin, resolved.pin);
    let files = lab.files(&resolved_special.result.unwrap());
    let (name, _, metadata) = &files[0];
    assert_eq!(name, "other");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o4755);
    assert_eq!((metadata.uid(), metadata.gid()), (7, 8));
    let request = &server.requests()[1];
    assert_eq!(
        (
            request.headers["accept"].as_str(),
            request.headers["user-agent"].as_str()
        ),
        ("x/y", "me")
    );
}

#[tokio::test]
async fn equal_files_of_two_servers_are_one_thing() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let answer = |_: &Request| Reply::new(200).body("same");
    let (one, two) = (FakeServer::start(answer).await, FakeServer::start(answer).await);
    let a = lab.resolve(&at(&url(&one, "/f"))).await.unwrap();
    let b = lab.resolve(&at(&url(&two, "/x/f"))).await.unwrap();
    assert_eq!((&a.pin, &a.parts), (&b.pin, &b.parts));
    assert_ne!(a.pin, lab.resolve(&at(&url(&two, "/g"))).await.unwrap().pin);
    let meta = lab.sources.meta(&at(&url(&two, "/g")), &context(&[])).await.unwrap();
    assert_eq!(
        (meta.checksum, meta.filename.to_str(), meta.last_modified),
        (Digest::sha256(b"same"), Some("g"), None)
    );
}

#[tokio::test]
async fn servers_say_whether_a_file_is_still_the_same() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let version = Arc::new(AtomicUsize::new(1));
    let current = version.clone();
    let server = FakeServer::start(move |request| {
        let version = current.load(Ordering::SeqCst);
        let file = Reply::new(200).body(format!("v{version}"));
        let tag = format!("\"{version}\"");
        let is_known = request.headers.get("if-none-match").is_some_and(|known| *known == tag);
        match request.path.as_str() {
            "/tagged" if is_known => Reply::new(304).header("etag", tag),
            "/shy" if is_known => Reply::new(304),
            // Knows tags, but not conditions.
            "/tagged" | "/shy" | "/ignorant" => file.header("etag", tag),
            "/dated"
                if request
                    .headers
                    .get("if-modified-since")
                    .is_some_and(|date| date == DATE)
                    && version == 1 =>
            {
                Reply::new(304)
            }
            "/dated" => file.header("last-modified", DATE),
            _ => file,
        }
    })
    .await;
    let read = |resolved: &ResolvedSource| lab.files(resolved.result.as_ref().unwrap())[0].1.clone();
    let mut first = HashMap::new();
    for path in ["/tagged", "/shy", "/ignorant", "/dated", "/plain"] {
        let source = at(&url(&server, path));
        let before = lab.resolve(&source).await.unwrap();
        assert_eq!(read(&before), b"v1", "{path}");
        let again = lab.resolve(&source).await.unwrap();
        let is_same = before.result.as_ref().unwrap().id() == again.result.as_ref().unwrap().id();
        assert_eq!(is_same, path != "/plain", "{path}");
        assert_eq!(before.pin, again.pin, "{path}");
        first.insert(path, before.pin);
    }
    version.store(2, Ordering::SeqCst);
    for (path, before) in &first {
        let after = lab.resolve(&at(&url(&server, path))).await.unwrap();
        assert_eq!(read(&after), b"v2", "{path}");
        assert_ne!(&after.pin, before, "{path}");
    }
    // Also after a restart; and a result that is gone is fetched again.
    let tagged = at(&url(&server, "/tagged"));
    let before = lab.resolve(&tagged).await.unwrap();
    let id = before.result.as_ref().unwrap().id().clone();
    drop(before);
    let lab = lab.reopen();
    assert_eq!(lab.resolve(&tagged).await.unwrap().result.unwrap().id(), &id);
    let everything = crate::layer::PruneOptions {
        all: true,
        ..Default::default()
    };
    lab.sources.layers.prune(&everything, |_| true).unwrap();
    assert_ne!(lab.resolve(&tagged).await.unwrap().result.unwrap().id(), &id);
    assert!(!server.requests().last().unwrap().headers.contains_key("if-none-match"));
}

#[tokio::test]
async fn a_checksum_is_trusted_until_the_file_is_needed() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let server = FakeServer::start(|_| Reply::new(200).header("etag", "\"1\"").body("text")).await;
    let with = |checksum| HttpSource {
        checksum: Some(Digest::sha256(checksum)),
        ..at(&url(&server, "/f"))
    };
    let wrong = lab.resolve(&with(b"other")).await.unwrap();
    let right = lab.resolve(&with(b"text")).await.unwrap();
    assert!(server.requests().is_empty() && wrong.result.is_none());
    let make = async |source: &HttpSource, resolved| lab.sources.make(source, Some(resolved), &context(&[])).await;
    let error = make(&with(b"other"), &wrong).await.unwrap_err().to_string();
    let (actual, wanted) = (Digest::sha256(b"text"), Digest::sha256(b"other"));
    assert_eq!(error, format!("digest mismatch {actual}: {wanted}"));
    assert_eq!(lab.leftovers(), 0);
    for _ in 0..2 {
        let made = make(&with(b"text"), &right).await.unwrap().unwrap();
        assert_eq!(lab.files(&made)[0].1, b"text");
    }
    assert_eq!(server.requests().len(), 2);
    // What is wanted is not what is here: that the server's file has not changed does not help.
    assert!(make(&with(b"other"), &wrong).await.is_err());
    assert!(!server.requests()[2].headers.contains_key("if-none-match"));
}

#[tokio::test]
async fn refusals_and_nonsense_are_errors_and_leave_nothing() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let server = FakeServer::start(|request| match request.path.as_str() {
        "/short" => Reply::new(200).body("1234").cut(2),
        "/unasked" => Reply::new(304),
        "/loop" => Reply::new(302).header("location", "/loop"),
        "/nowhere" => Reply::new(302),
        "/file" => Reply::new(302).header("location", "file:///etc/passwd"),
        "/broken" => Reply::new(302).header("location", "http://[/"),
        "/headers" => (0..200).fold(Reply::new(200), |reply, i| reply.header(&format!("x-{i}"), "y")),
        "/header" => Reply::new(200).header("x", "y".repeat(1 << 20)),
        "/length" => Reply::new(200).header("content-length", "-1").body("1"),
        path => Reply::new(path[1..].parse().unwrap()),
    })
    .await;
    for status in [400, 401, 403, 404, 410, 500, 503] {
        let error = lab.error(&url(&server, &format!("/{status}"))).await;
        assert_eq!(
            error,
            format!("failed to load cache key: invalid response status {status}")
        );
    }
    assert_eq!(
        server
            .requests()
            .iter()
            .filter(|request| request.path == "/404")
            .count(),
        1
    );
    assert_eq!(
        server
            .requests()
            .iter()
            .filter(|request| request.path == "/503")
            .count(),
        3
    );
    assert!(
        lab.error(&url(&server, "/unasked"))
            .await
            .ends_with("invalid response status 304")
    );
    for path in ["/short", "/headers", "/header", "/length"] {
        let error = lab.error(&url(&server, path)).await;
        assert!(error.contains("failed to fetch: Get \"http://"), "{path}: {error}");
    }
    let before = server.requests().len();
    let error = lab.error(&url(&server, "/loop")).await;
    assert!(error.ends_with("stopped after 10 redirects"), "{error}");
    assert_eq!(server.requests().len() - before, 11);
    for path in ["/nowhere", "/file", "/broken"] {
        let error = lab.error(&url(&server, path)).await;
        assert!(error.contains("redirect to "), "{path}: {error}");
    }
    for url in ["http://", "http:///x y", "nonsense", "http://h:99999/", "data:,x"] {
        let error = lab.error(url).await;
        assert!(error.contains("failed to parse the URL"), "{url}: {error}");
    }
    let error = lab.error("http://user:hunter2@127.0.0.1:1/x?token=hunter2").await;
    assert!(
        error.contains("http://127.0.0.1:1/x") && !error.contains("hunter2"),
        "{error}"
    );
    assert_eq!(lab.leftovers(), 0);
}

#[tokio::test]
async fn a_server_that_stalls_is_given_up() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let drip = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent_at, drip_at) = (silent.local_addr().unwrap(), drip.local_addr().unwrap());
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (mut stream, _) = drip.accept().await.unwrap();
            let mut head = [0; 1024];
            drop(stream.read(&mut head).await);
            drop(stream.write_all(b"HTTP/1.1 200 x\r\n\r\n").await);
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }));
    for address in [silent_at, drip_at] {
        let error = lab.error(&format!("http://{address}/f")).await;
        assert!(error.contains("too little came within 0.3 s"), "{error}");
    }
    assert_eq!(lab.leftovers(), 0);
    drop(silent);
}

#[tokio::test]
async fn giving_up_stops_the_transfer_and_removes_what_arrived() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let endless = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = endless.local_addr().unwrap();
    let (gone, left) = tokio::sync::oneshot::channel();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        let (mut stream, _) = endless.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.is_ok());
        drop(stream.write_all(b"HTTP/1.1 200 x\r\n\r\n").await);
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        assert!(gone.send(()).is_ok());
    }));
    let source = at(&format!("http://{address}/f"));
    let resolving = lab.resolve(&source);
    let progress = tokio::time::timeout(Duration::from_millis(200), resolving).await;
    assert!(progress.is_err(), "it has no end");
    left.await.unwrap();
    // The writer notices on a thread of its own.
    while lab.leftovers() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn secrets_go_to_the_server_they_are_named_after_and_no_further() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let other = FakeServer::start(|_| Reply::new(200).body("elsewhere")).await;
    let away = format!("http://{}/stolen", other.host);
    let server = FakeServer::start(move |request| match request.path.as_str() {
        "/away" => Reply::new(302).header("location", away.clone()),
        "/near" => Reply::new(302).header("location", "/here"),
        _ => Reply::new(200).body("here"),
    })
    .await;
    let _all = [
        client(&lab, "token", &[("HTTP_AUTH_TOKEN_127.0.0.1", "t0ken\n")]).await,
        client(
            &lab,
            "header",
            &[
                ("HTTP_AUTH_HEADER_127.0.0.1", "Basic abc"),
                ("HTTP_AUTH_TOKEN_127.0.0.1", "x"),
            ],
        )
        .await,
        client(&lab, "elsewhere", &[("HTTP_AUTH_TOKEN_example.com", "x")]).await,
        client(&lab, "named", &[("mine", "Custom 1"), ("bad", "a\nb")]).await,
    ];
    let fetch = async |session: &str, path: &str, secret: &str| {
        let source = HttpSource {
            auth_header_secret: secret.to_owned(),
            ..at(&url(&server, path))
        };
        let resolved = lab.sources.resolve(&source, &context(&[session])).await;
        let sent = server
            .requests()
            .pop()
            .and_then(|request| request.headers.get("authorization").cloned());
        resolved.map(|_| sent).map_err(|error| error.to_string())
    };
    let sent = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(fetch("token", "/1", "").await, sent("Bearer t0ken"));
    assert_eq!(fetch("token", "/near", "").await, sent("Bearer t0ken"));
    assert_eq!(fetch("header", "/2", "").await, sent("Basic abc"));
    assert_eq!(fetch("elsewhere", "/3", "").await, Ok(None));
    assert_eq!(fetch("named", "/4", "mine").await, sent("Custom 1"));
    let missing = fetch("token", "/5", "mine").await.unwrap_err();
    assert!(missing.contains("secret mine: not found"), "{missing}");
    let unfit = fetch("named", "/6", "bad").await.unwrap_err();
    assert!(unfit.contains("secret bad is no header value"), "{unfit}");
    assert_eq!(fetch("token", "/away", "").await, sent("Bearer t0ken"));
    assert_eq!(other.requests().len(), 1);
    assert!(!other.requests()[0].headers.contains_key("authorization"));

    // A user in the URL, too.
    let source = at(&format!("http://me:pw@{}/away", server.host));
    lab.sources.resolve(&source, &context(&[])).await.unwrap();
    assert!(server.requests().pop().unwrap().headers["authorization"].starts_with("Basic "));
    assert!(!other.requests()[1].headers.contains_key("authorization"));
}

#[tokio::test]
async fn uploads_are_received_once() {
    if !is_root_or_skip() {
        return;
    }
    let lab = lab();
    let mut services = Services::new();
    let streams = ["a", "b", "c"].map(|id| {
        let data: upload::UploadSource = Box::new(std::io::Cursor::new(id.repeat(100_000)));
        (id.to_owned(), data)
    });
    upload::serve(&mut services, HashMap::from(streams));
    let _client = connect(&lab, "s", services).await;
    let _other = client(&lab, "other", &[]).await;
    let resolve = async |source: HttpSource| {
        let resolved = lab.sources.resolve(&source, &context(&["other", "s"])).await;
        resolved.map_err(|error| error.to_string())
    };
    let a = resolve(at("http://buildkit-session/a")).await.unwrap();
    let files = lab.files(a.result.as_ref().unwrap());
    assert_eq!(
        (files[0].0.as_str(), files[0].1.len(), files[0].2.mtime()),
        ("a", 100_000, 0)
    );
    assert!(resolve(at("http://buildkit-session/a")).await.is_err());
    let named = HttpSource {
        filename: "context".to_owned(),
        checksum: Some(Digest::sha256("b".repeat(100_000).as_bytes())),
        ..at("http://buildkit-session/b")
    };
    let b = resolve(named.clone()).await.unwrap();
    assert_eq!(lab.files(b.result.as_ref().unwrap())[0].0, "context");
    let wrong = HttpSource {
        url: "http://buildkit-session/c".to_owned(),
        ..named
    };
    assert!(resolve(wrong).await.unwrap_err().contains("digest mismatch"));
    assert_eq!(lab.leftovers(), 0);
}
