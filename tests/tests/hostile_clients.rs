//! Whatever is sent to the daemon's socket ends in an error for whoever sent it, and harms nobody else.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, BufMut as _};
use cairn_proto::content::content_client::ContentClient;
use cairn_proto::content::{InfoRequest as BlobRequest, ReadContentRequest};
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{
    BuildHistoryRequest, DiskUsageRequest, InfoRequest, ListWorkersRequest, PruneRequest, SolveRequest, StatusRequest,
};
use cairn_proto::gateway::llb_bridge_client::LlbBridgeClient;
use cairn_proto::gateway::{
    self, EvaluateRequest, PingRequest, ReadDirRequest, ReadFileRequest, Result as WireResult, ReturnRequest,
    StatFileRequest, result,
};
use cairn_proto::pb;
use cairn_tests::Need;
use cairn_tests::abuse::{PATIENCE, Solving, Victim};
use cairn_tests::llb::{Graph, make_file};
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// Sends what it is given as it is, and does not look at answers.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = buffer.remaining();
        buffer.advance(length);
        Ok(Some(length))
    }
}

/// One call with these bytes as its only message; whatever comes of it, within bounds.
async fn call(channel: &Channel, method: &'static str, message: Vec<u8>) -> anyhow::Result<Result<(), Status>> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    let path = PathAndQuery::from_static(method);
    let request = Request::new(tokio_stream::once(message));
    let answered = async {
        let mut answers = client.streaming(request, path, Raw).await?.into_inner();
        answers.message().await.map(drop)
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .with_context(|| format!("{method} does not answer"))
}

/// A definition whose sources are definitions whose sources are…
fn nested(depth: usize) -> Vec<u8> {
    let mut definition = Vec::new();
    for _ in 0..depth {
        // `SourceInfo.definition` in `Source.infos` in `Definition.Source`.
        for tag in [0x1a, 0x12, 0x1a] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(definition.len() as u64, &mut outer);
            outer.append(&mut definition);
            definition = outer;
        }
    }
    let mut request = vec![0x12];
    prost::encoding::encode_varint(definition.len() as u64, &mut request);
    request.append(&mut definition);
    request
}

#[tokio::test]
async fn malformed_messages_are_refused() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    let channel = victim.connect().await?;
    for method in [
        "/moby.buildkit.v1.Control/Solve",
        "/moby.buildkit.v1.Control/Status",
        "/moby.buildkit.v1.Control/DiskUsage",
        "/moby.buildkit.v1.Control/Prune",
        "/moby.buildkit.v1.Control/ListWorkers",
        "/moby.buildkit.v1.Control/ListenBuildHistory",
        "/moby.buildkit.v1.Control/UpdateBuildHistory",
        "/moby.buildkit.v1.frontend.LLBBridge/Solve",
        "/moby.buildkit.v1.frontend.LLBBridge/Return",
        "/moby.buildkit.v1.frontend.LLBBridge/NewContainer",
        "/containerd.services.content.v1.Content/Read",
        "/cairn.v1.Explain/Why",
    ] {
        for (name, message) in [
            ("garbage", vec![0xff; 64]),
            ("a length beyond the end", b"\x0a\x7fxyz".to_vec()),
            (
                "a length of ten bytes",
                b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(),
            ),
            ("a tag of zero", vec![0, 0]),
            ("a group that does not end", vec![0x0b; 5000]),
            ("text that is none", b"\x0a\x02\xff\xfe".to_vec()),
        ] {
            let refused = call(&channel, method, message).await?;
            ensure!(refused.is_err(), "{method} took {name}");
        }
        let large = call(&channel, method, vec![0x0a; 17 << 20]).await?;
        let status = large.err().with_context(|| format!("{method} took 17 MiB"))?;
        ensure!(
            matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted),
            "{method}: {status:?}"
        );
    }
    for depth in [10, 100, 100_000] {
        let refused = call(&channel, "/moby.buildkit.v1.Control/Solve", nested(depth)).await?;
        ensure!(refused.is_err(), "definitions nested {depth} deep were taken");
    }
    for method in ["/moby.buildkit.v1.Control/Nothing", "/x.Y/Z", "/"] {
        let status = call(&channel, method, Vec::new()).await?.err().context("answered")?;
        ensure!(status.code() == Code::Unimplemented, "{method}: {status:?}");
    }
    victim.expect_unharmed().await
}

/// Sends bytes and reads until the daemon ends the connection; returns how many bytes it sent.
fn converse(victim: &Victim, bytes: &[u8]) -> anyhow::Result<usize> {
    let path = victim.daemon.address();
    let mut stream = UnixStream::connect(path.trim_start_matches("unix://"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The daemon may have had enough before the end.
    let _unread = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(answer.len()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(answer.len()),
        Err(error) => Err(error).context("the connection was not ended"),
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http2_ends_its_connection() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    let opened = [PREFACE, SETTINGS].concat();
    let with = |frames: &[Vec<u8>]| [opened.clone(), frames.concat()].concat();
    let headers = b"\x83\x84\x86\x41\x09localhost";
    let mut rows = vec![
        ("nothing at all", Vec::new()),
        ("half a preface", PREFACE[..10].to_vec()),
        ("an older version", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20)),
        ("noise", (0..=255).cycle().take(100_000).collect()),
        (
            "a frame that is too large",
            with(&[b"\xff\xff\xff\0\0\0\0\0\x01".to_vec()]),
        ),
        ("data of no stream", with(&[frame(0, 0, 7, b"x")])),
        ("settings of a stream", with(&[frame(4, 0, 1, &[])])),
        (
            "a window that overflows",
            with(&[frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]),
        ),
        ("broken headers", with(&[frame(1, 5, 1, &[0xff; 200])])),
    ];
    // Headers that do not end.
    let mut endless = vec![frame(1, 0, 1, headers)];
    endless.extend((0..2000).map(|_| frame(9, 0, 1, &[b"\x40\x01a\x7f\x80\x7e".as_slice(), &[b'v'; 16000]].concat())));
    rows.push(("headers that do not end", with(&endless)));
    let mut empty = vec![frame(1, 0, 1, headers)];
    empty.extend((0..100_000).map(|_| frame(9, 0, 1, &[])));
    rows.push(("headers that go on with nothing", with(&empty)));
    // Streams that are opened and reset at once.
    let reset = (0..20_000_u32).flat_map(|n| [frame(1, 4, 2 * n + 1, headers), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])]);
    rows.push(("streams opened and reset", with(&reset.collect::<Vec<_>>())));

    std::thread::scope(|scope| {
        let victim = &victim;
        let talks: Vec<_> = rows
            .iter()
            .map(|(name, bytes)| scope.spawn(move || converse(victim, bytes).with_context(|| (*name).to_owned())))
            .collect();
        for talk in talks {
            talk.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    victim.expect_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_beyond_measure_are_refused() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    for (count, length) in [(1, 1 << 20), (5000, 100), (100_000, 1)] {
        let mut control = ControlClient::new(victim.connect().await?);
        let mut request = Request::new(InfoRequest {});
        for _ in 0..count {
            request.metadata_mut().append("x-bomb", "v".repeat(length).parse()?);
        }
        let answered = tokio::time::timeout(PATIENCE, control.info(request)).await?;
        ensure!(answered.is_err(), "{count} headers of {length} bytes were taken");
    }
    victim.expect_unharmed().await
}

/// Asks for everything that could have this id.
async fn nothing_is_called(channel: Channel, id: String) -> anyhow::Result<()> {
    let mut control = ControlClient::new(channel.clone());
    let mut content = ContentClient::new(channel);
    let request = StatusRequest { r#ref: id.clone() };
    let mut events = control.status(request).await?.into_inner();
    let ended = tokio::time::timeout(PATIENCE, events.message()).await?;
    let status = ended.err().context("something is told of a build that is not")?;
    ensure!(status.code() == Code::NotFound, "{status:?}");
    let request = BuildHistoryRequest {
        r#ref: id.clone(),
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let mut events = control.listen_build_history(request).await?.into_inner();
    let found = tokio::time::timeout(PATIENCE, events.message()).await?;
    ensure!(id.is_empty() || matches!(found, Ok(None) | Err(_)), "{found:?}");
    let digest = format!("sha256:{id}");
    for digest in [id, digest] {
        let request = BlobRequest { digest: digest.clone() };
        let status = content.info(request).await.err().context("a blob was found")?;
        ensure!(
            matches!(status.code(), Code::InvalidArgument | Code::NotFound),
            "{status:?}"
        );
        let request = ReadContentRequest {
            digest,
            offset: i64::MIN,
            size: i64::MAX,
        };
        ensure!(content.read(request).await.is_err());
    }
    Ok(())
}

/// A gateway without a build, and with one that is not.
async fn no_build_is_driven(channel: Channel) -> anyhow::Result<()> {
    let mut bridge = LlbBridgeClient::new(channel);
    let status = bridge.ping(PingRequest {}).await.err().context("no build was named")?;
    ensure!(status.message().contains("no buildid found"), "{status:?}");
    let request = named("nobody", PingRequest {})?;
    let status = bridge.ping(request).await.err().context("there is no such build")?;
    ensure!(
        status.code() == Code::NotFound && status.message() == "no such job nobody",
        "{status:?}"
    );
    Ok(())
}

/// A session that never comes.
async fn nobody_sends_files(channel: Channel) -> anyhow::Result<()> {
    let mut graph = Graph::default();
    let context = graph.add(&cairn_tests::llb::local("context"));
    let request = SolveRequest {
        r#ref: "alone".to_owned(),
        session: "nobody".to_owned(),
        definition: Some(graph.asking_for(&context, 0)),
        ..SolveRequest::default()
    };
    let status = Solving::start(&channel, request).failure().await?;
    ensure!(status.message().contains("no active session"), "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_nothing_has_are_not_found() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    let channel = victim.connect().await?;
    let mut control = ControlClient::new(channel.clone());
    let long = "x".repeat(1 << 20);
    // The daemon waits some seconds for what may be about to begin, as clients ask for the status of a build while they
    // ask for the build.
    let mut asked = JoinSet::new();
    for id in ["", "nobody", "../../etc/passwd", "a\nb", "\u{1b}[2J", long.as_str()] {
        asked.spawn(nothing_is_called(channel.clone(), id.to_owned()));
    }
    asked.spawn(no_build_is_driven(channel.clone()));
    asked.spawn(nobody_sends_files(channel));
    while let Some(outcome) = asked.join_next().await {
        outcome??;
    }
    // Filters and numbers without a sense.
    let filter = vec!["type==".repeat(1000), "((((".to_owned(), "id~=[".to_owned()];
    let request = DiskUsageRequest {
        filter: filter.clone(),
        age_limit: i64::MIN,
    };
    let status = control
        .disk_usage(request)
        .await
        .err()
        .context("the filter was taken")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    ensure!(
        status.message().contains("failed to parse diskusage filters"),
        "{status:?}"
    );
    let request = PruneRequest {
        keep_duration: -1,
        ..PruneRequest::default()
    };
    let status = control.prune(request).await.err().context("the duration was taken")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    let status = control.list_workers(ListWorkersRequest { filter }).await.err();
    let status = status.context("the filter was taken")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    victim.expect_unharmed().await
}

/// A build that its client drives.
async fn driven(channel: &Channel, id: &'static str) -> anyhow::Result<(Solving, String)> {
    let request = SolveRequest {
        r#ref: id.to_owned(),
        ..SolveRequest::default()
    };
    let solving = Solving::start(channel, request);
    let mut graph = Graph::default();
    let file = graph.add(&make_file("/secret", id));
    let request = named(
        id,
        gateway::SolveRequest {
            definition: Some(graph.asking_for(&file, 0)),
            ..gateway::SolveRequest::default()
        },
    )?;
    let answer = LlbBridgeClient::new(channel.clone()).solve(request).await?.into_inner();
    match answer.result.and_then(|result| result.result) {
        Some(result::Result::Ref(reference)) => Ok((solving, reference.id)),
        other => anyhow::bail!("another result: {other:?}"),
    }
}

fn named<T>(build: &str, message: T) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("buildkit-controlapi-buildid", build.parse()?);
    Ok(request)
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_other_builds_cannot_be_named() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    let (ours, theirs) = (victim.connect().await?, victim.connect().await?);
    let (thief, own) = driven(&ours, "thief").await?;
    let (owner, stolen) = driven(&theirs, "owner").await?;
    ensure!(own != stolen);
    let mut bridge = LlbBridgeClient::new(ours.clone());
    let read = |build: &str, result: &str| {
        named(
            build,
            ReadFileRequest {
                r#ref: result.to_owned(),
                file_path: "/secret".into(),
                ..ReadFileRequest::default()
            },
        )
    };
    ensure!(&bridge.read_file(read("thief", &own)?).await?.into_inner().data[..] == b"thief");
    let forged: Vec<String> = vec![
        stolen.clone(),
        own[..own.len() - 1].to_owned(),
        format!("{own}0"),
        "../x".to_owned(),
    ];
    for forged in &forged {
        let refused = bridge.read_file(read("thief", forged)?).await.map(drop);
        let directory = ReadDirRequest {
            r#ref: forged.clone(),
            dir_path: "/".into(),
            ..ReadDirRequest::default()
        };
        let stat = StatFileRequest {
            r#ref: forged.clone(),
            path: "/secret".into(),
            ..StatFileRequest::default()
        };
        let evaluate = EvaluateRequest { r#ref: forged.clone() };
        let listed = bridge.read_dir(named("thief", directory)?).await.map(drop);
        let described = bridge.stat_file(named("thief", stat)?).await.map(drop);
        let evaluated = bridge.evaluate(named("thief", evaluate)?).await.map(drop);
        for outcome in [refused, listed, described, evaluated] {
            let status = outcome.err().context("a forged result was taken")?;
            ensure!(status.message() == format!("no such ref: {forged}"), "{status:?}");
        }
        let result = WireResult {
            result: Some(result::Result::Ref(gateway::Ref {
                id: forged.clone(),
                def: None,
            })),
            ..WireResult::default()
        };
        let answer = ReturnRequest {
            result: Some(result),
            error: None,
        };
        let status = bridge.r#return(named("thief", answer)?).await.err();
        ensure!(status.is_some(), "a forged result was returned");
    }
    // Whoever knows the id of a build drives it, but it is not the one in the message that counts.
    let outside = ["/../../etc/passwd", "/proc/self/environ", "secret/../../etc/passwd"];
    for path in outside {
        let mut request = read("thief", &own)?;
        request.get_mut().file_path = path.to_owned().into();
        ensure!(bridge.read_file(request).await.is_err(), "{path} was read");
    }
    drop((thief, owner));
    victim.expect_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_at_once_are_answered() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    let mut calls = JoinSet::new();
    for connection in 0..10 {
        let channel = victim.connect().await?;
        for call in 0..1000 {
            let mut control = ControlClient::new(channel.clone());
            calls.spawn(async move {
                if call % 2 == 0 {
                    return control.info(InfoRequest {}).await.map(drop);
                }
                let id = format!("{connection}-{call}");
                let mut events = control.status(StatusRequest { r#ref: id }).await?.into_inner();
                match events.message().await {
                    Err(status) if status.code() == Code::NotFound => Ok(()),
                    other => Err(Status::unknown(format!("{other:?}"))),
                }
            });
        }
    }
    let all = async {
        while let Some(answered) = calls.join_next().await {
            answered??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .context("not all are answered")??;
    victim.expect_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_take_every_file_are_outlived() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    let pid = i32::try_from(victim.daemon.pid())?;
    let pid = rustix::process::Pid::from_raw(pid).context("no process id")?;
    let files = cairn_tests::abuse::Held::by(victim.daemon.pid())?.files;
    let resource = rustix::process::Resource::Nofile;
    // The daemon has the limits of this process, and all that they allow.
    let maximum = rustix::process::getrlimit(resource).maximum;
    let limit = |current| rustix::process::Rlimit { current, maximum };
    rustix::process::prlimit(Some(pid), resource, limit(Some(files as u64 + 20)))?;
    let socket = victim.daemon.address().trim_start_matches("unix://").to_owned();
    let connections: Vec<UnixStream> = (0..60).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    ensure!(connections.len() > 20, "only {} connections", connections.len());
    victim.daemon.wait_for_log("failed to accept a connection")?;
    drop(connections);
    rustix::process::prlimit(Some(pid), resource, limit(maximum))?;
    let answered = tokio::time::timeout(PATIENCE, async {
        ControlClient::new(victim.connect().await?)
            .info(InfoRequest {})
            .await
            .map_err(anyhow::Error::from)
    });
    answered.await??;
    victim.expect_unharmed().await
}

#[tokio::test]
async fn absurd_requests_are_refused_before_anything_is_built() -> anyhow::Result<()> {
    let Some(mut victim) = Victim::start(&[Need::Containers], "")? else {
        return Ok(());
    };
    let channel = victim.connect().await?;
    let file = || {
        let mut graph = Graph::default();
        let file = graph.add(&make_file("/f", "text"));
        Some(graph.asking_for(&file, 0))
    };
    let base = |id: &str| SolveRequest {
        r#ref: id.to_owned(),
        definition: file(),
        ..SolveRequest::default()
    };
    let exporter = cairn_proto::control::Exporter {
        r#type: "image".to_owned(),
        ..Default::default()
    };
    let entry = cairn_proto::control::CacheOptionsEntry {
        r#type: "registry".to_owned(),
        attrs: [("ref".to_owned(), "localhost:1/x".to_owned())].into(),
    };
    let many_exporters = SolveRequest {
        exporters: vec![exporter; 5000],
        ..base("exporters")
    };
    let many_imports = SolveRequest {
        cache: Some(cairn_proto::control::CacheOptions {
            imports: vec![entry; 5000],
            ..Default::default()
        }),
        ..base("imports")
    };
    let both = SolveRequest {
        frontend: "dockerfile.v0".to_owned(),
        ..base("both")
    };
    let unknown = SolveRequest {
        definition: None,
        frontend: "x".repeat(1 << 20),
        ..base("frontend")
    };
    let entitled = SolveRequest {
        entitlements: vec!["network.host".to_owned(), "x".repeat(1 << 20)],
        ..base("entitled")
    };
    for (request, expected) in [
        (base(""), "needs an id"),
        (base("a\nb"), "control characters"),
        (base(&"a".repeat(1 << 20)), "at most 256 bytes"),
        (many_exporters, "5000 exporters"),
        (many_imports, "5000 cache imports"),
        (both, "cannot solve with both"),
        (unknown, "invalid frontend"),
        (entitled, "not allowed by build daemon configuration"),
    ] {
        let id: String = request.r#ref.chars().take(20).collect();
        let status = Solving::start(&channel, request).failure().await.context(id.clone())?;
        ensure!(status.message().contains(expected), "{id:?}: {:.300}", status.message());
        ensure!(
            status.message().len() < 8 << 10,
            "{id:?}: {} bytes",
            status.message().len()
        );
    }
    // The same id twice, at the same time.
    let forever = SolveRequest {
        r#ref: "twice".to_owned(),
        ..SolveRequest::default()
    };
    let first = Solving::start(&channel, forever.clone());
    let mut bridge = LlbBridgeClient::new(channel.clone());
    bridge.ping(named("twice", PingRequest {})?).await?;
    let status = Solving::start(&channel, forever).failure().await?;
    ensure!(status.code() == Code::AlreadyExists, "{status:?}");
    drop(first);
    // Definitions that are large, but well formed, are built: each operation is on its own.
    let mut graph = Graph::default();
    let files: Vec<String> = (0..2000).map(|n| graph.add(&make_file("/f", &n.to_string()))).collect();
    let merge = pb::Op {
        inputs: files.iter().map(|digest| cairn_tests::llb::input(digest, 0)).collect(),
        op: Some(pb::op::Op::Merge(pb::MergeOp {
            inputs: (0..2000).map(|input| pb::MergeInput { input }).collect(),
        })),
        ..pb::Op::default()
    };
    ensure!(merge.encoded_len() > 100_000);
    let merge = graph.add(&merge);
    let wide = SolveRequest {
        definition: Some(graph.asking_for(&merge, 0)),
        ..base("wide")
    };
    let mut control = ControlClient::new(channel);
    let ended = tokio::time::timeout(PATIENCE * 2, control.solve(wide)).await;
    let ended = ended.context("a wide definition hangs")?;
    ensure!(
        ended
            .as_ref()
            .err()
            .is_none_or(|status| !status.message().contains("panic")),
        "{ended:?}"
    );
    victim.expect_unharmed().await
}
