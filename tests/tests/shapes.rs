//! Answers hold every field that clients read, in a form that they understand. Which those are stands in
//! `tests/data/shapes.txt`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use cairn_client::{Client, LocalDir, OutputTarget, SolveOptions, SolveOutput, Solved};
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{
    BuildHistoryRequest, CacheOptionsEntry, DiskUsageRequest, InfoRequest, ListWorkersRequest, SolveRequest,
    StatusRequest, UpdateBuildHistoryRequest,
};
use cairn_proto::gateway::llb_bridge_client::LlbBridgeClient;
use cairn_proto::gateway::{
    self, PingRequest, ReadDirRequest, ReadFileRequest, ResolveImageConfigRequest, ResolveSourceMetaRequest,
    StatFileRequest, result,
};
use cairn_proto::pb;
use cairn_tests::abuse::Solving;
use cairn_tests::llb::{Graph, image, input, run};
use cairn_tests::{Daemon, Lab, Need, lab, solve};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

const ALPINE: &str = "docker.io/library/alpine:latest";
/// Has a step, a warning, and a second build that knows everything.
const WELL: &str = "FROM alpine as warned\nRUN echo told; echo made > /made\n";
const BAD: &str = "FROM alpine\nRUN echo lost; exit 3\n";

/// Answers in their JSON form, by the call.
struct Answers {
    pool: DescriptorPool,
    seen: BTreeMap<String, Vec<Value>>,
}

impl Answers {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            pool: DescriptorPool::decode(cairn_proto::FILE_DESCRIPTORS)?,
            seen: BTreeMap::new(),
        })
    }

    fn add(&mut self, call: &str, kind: &str, message: &impl Message) -> anyhow::Result<()> {
        let descriptor = self.pool.get_message_by_name(kind);
        let descriptor = descriptor.with_context(|| format!("no message {kind}"))?;
        let message = DynamicMessage::decode(descriptor, &message.encode_to_vec()[..])?;
        let json = serde_json::to_value(message)?;
        self.seen.entry(call.to_owned()).or_default().push(json);
        Ok(())
    }

    async fn add_all<T: Message>(&mut self, call: &str, kind: &str, mut all: Streaming<T>) -> anyhow::Result<()> {
        while let Some(message) = all.message().await? {
            self.add(call, kind, &message)?;
        }
        Ok(())
    }

    fn add_response(&mut self, call: &str, solved: &Solved) {
        let json = json!({ "ExporterResponse": solved.response });
        self.seen.entry(call.to_owned()).or_default().push(json);
    }

    /// Everything at a path in the answers to a call.
    fn at(&self, call: &str, path: &str) -> Vec<&Value> {
        let mut found: Vec<&Value> = self.seen.get(call).into_iter().flatten().collect();
        for step in path.split('/') {
            found = found
                .into_iter()
                .flat_map(|value| match (step, value) {
                    ("[]", Value::Array(list)) => list.iter().collect(),
                    ("*", Value::Object(map)) => map.values().collect(),
                    (name, Value::Object(map)) => map.get(name).into_iter().collect(),
                    _ => Vec::new(),
                })
                .collect();
        }
        found
    }
}

/// Whether a value looks as it has to.
fn is_of_form(value: &Value, form: &str) -> anyhow::Result<bool> {
    let text = value.as_str().unwrap_or_default();
    let bytes = || base64::engine::general_purpose::STANDARD.decode(text);
    let is_hex = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    Ok(match form {
        "text" => !text.is_empty(),
        "digest" => text
            .strip_prefix("sha256:")
            .is_some_and(|hash| hash.len() == 64 && is_hex(hash)),
        "id" => {
            text.len() == 25
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        }
        "set" => value == &Value::Bool(true),
        "number" => value.as_i64().or(text.parse().ok()).is_some_and(|number| number > 0),
        "time" => text.parse::<jiff::Timestamp>().is_ok_and(|time| time.as_second() > 0),
        "json" => serde_json::from_str::<Value>(text).is_ok_and(|json| json.is_object()),
        "base64" => bytes().is_ok_and(|bytes| !bytes.is_empty()),
        "base64 json" => {
            bytes().is_ok_and(|bytes| serde_json::from_slice::<Value>(&bytes).is_ok_and(|json| json.is_object()))
        }
        other => anyhow::bail!("no form is called {other:?}"),
    })
}

/// Builds a Dockerfile, with one output.
async fn build(
    client: &Client,
    context: &Path,
    frontend: BTreeMap<String, String>,
    output: Option<SolveOutput>,
    caches: Vec<CacheOptionsEntry>,
) -> Result<Solved, cairn_client::ClientError> {
    let dir = LocalDir {
        path: context.to_owned(),
        keeps_owner: false,
    };
    let options = SolveOptions {
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: frontend,
        local_dirs: [("context".to_owned(), dir.clone()), ("dockerfile".to_owned(), dir)].into(),
        outputs: output.into_iter().collect(),
        cache_exports: caches,
        ..SolveOptions::default()
    };
    solve(client, options).await
}

async fn builds(lab: &Lab, client: &Client, answers: &mut Answers) -> anyhow::Result<()> {
    let well = lab.files("well", &[("Dockerfile", WELL)])?;
    let attrs = BTreeMap::from([("filename".to_owned(), "Dockerfile".to_owned())]);
    for kind in ["image", "oci", "docker"] {
        let target = match kind {
            "image" => None,
            _ => Some(OutputTarget::file(lab.path(kind))),
        };
        let output = SolveOutput {
            kind: kind.to_owned(),
            attrs: [("name".to_owned(), "test/shape:1".to_owned())].into(),
            target,
        };
        let solved = build(client, &well, attrs.clone(), Some(output), Vec::new()).await?;
        answers.add_response(&format!("Control.Solve {kind}"), &solved);
    }
    let cache = CacheOptionsEntry {
        r#type: "local".to_owned(),
        attrs: [("dest".to_owned(), lab.path("cache").display().to_string())].into(),
    };
    let solved = build(client, &well, attrs.clone(), None, vec![cache]).await?;
    answers.add_response("Control.Solve cache", &solved);
    let bad = lab.files("bad", &[("Dockerfile", BAD)])?;
    let failed = build(client, &bad, attrs, None, Vec::new()).await;
    ensure!(failed.is_err(), "a step that fails was built");
    Ok(())
}

async fn control(channel: &Channel, answers: &mut Answers) -> anyhow::Result<()> {
    let mut control = ControlClient::new(channel.clone());
    let info = control.info(InfoRequest {}).await?.into_inner();
    answers.add("Control.Info", "moby.buildkit.v1.InfoResponse", &info)?;
    let workers = control.list_workers(ListWorkersRequest::default()).await?.into_inner();
    answers.add("Control.ListWorkers", "moby.buildkit.v1.ListWorkersResponse", &workers)?;
    let usage = control.disk_usage(DiskUsageRequest::default()).await?.into_inner();
    answers.add("Control.DiskUsage", "moby.buildkit.v1.DiskUsageResponse", &usage)?;
    let request = BuildHistoryRequest {
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let (call, kind) = ("Control.ListenBuildHistory", "moby.buildkit.v1.BuildHistoryEvent");
    let events = control.listen_build_history(request.clone()).await?.into_inner();
    answers.add_all(call, kind, events).await?;
    let records: Vec<String> = answers
        .at(call, "record/Ref")
        .into_iter()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    ensure!(records.len() == 5, "{records:?}");
    // Changes are counted from nothing.
    let change = UpdateBuildHistoryRequest {
        r#ref: records[0].clone(),
        pinned: true,
        ..UpdateBuildHistoryRequest::default()
    };
    control.update_build_history(change).await?;
    let events = control.listen_build_history(request).await?.into_inner();
    answers.add_all(call, kind, events).await?;
    for id in records {
        let events = control.status(StatusRequest { r#ref: id }).await?.into_inner();
        answers
            .add_all("Control.Status", "moby.buildkit.v1.StatusResponse", events)
            .await?;
    }
    Ok(())
}

async fn bridge(channel: &Channel, answers: &mut Answers) -> anyhow::Result<()> {
    const BUILD: &str = "shapes";
    fn named<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        let id = tonic::metadata::MetadataValue::from_static(BUILD);
        request.metadata_mut().insert("buildkit-controlapi-buildid", id);
        request
    }
    let request = SolveRequest {
        r#ref: BUILD.to_owned(),
        ..SolveRequest::default()
    };
    let _solving = Solving::start(channel, request);
    let mut bridge = LlbBridgeClient::new(channel.clone());
    let mut add = |call: &str, kind: &str, message: &dyn ErasedMessage| message.add_to(answers, call, kind);

    let pong = bridge.ping(named(PingRequest {})).await?.into_inner();
    add("LLBBridge.Ping", "PongResponse", &pong)?;
    let mut graph = Graph::default();
    let base = graph.add(&image(ALPINE));
    let step = graph.add(&run(input(&base, 0), &["sh", "-c", "echo made > /made"]));
    let request = gateway::SolveRequest {
        definition: Some(graph.asking_for(&step, 0)),
        ..gateway::SolveRequest::default()
    };
    let solved = bridge.solve(named(request)).await?.into_inner();
    add("LLBBridge.Solve", "SolveResponse", &solved)?;
    let Some(result::Result::Ref(made)) = solved.result.and_then(|result| result.result) else {
        anyhow::bail!("another kind of result")
    };
    let request = ReadFileRequest {
        r#ref: made.id.clone(),
        file_path: "/made".into(),
        ..ReadFileRequest::default()
    };
    let file = bridge.read_file(named(request)).await?.into_inner();
    add("LLBBridge.ReadFile", "ReadFileResponse", &file)?;
    let request = ReadDirRequest {
        r#ref: made.id.clone(),
        dir_path: "/".into(),
        ..ReadDirRequest::default()
    };
    let entries = bridge.read_dir(named(request)).await?.into_inner();
    add("LLBBridge.ReadDir", "ReadDirResponse", &entries)?;
    let request = StatFileRequest {
        r#ref: made.id,
        path: "/made".into(),
        ..StatFileRequest::default()
    };
    let stat = bridge.stat_file(named(request)).await?.into_inner();
    add("LLBBridge.StatFile", "StatFileResponse", &stat)?;
    let request = ResolveImageConfigRequest {
        r#ref: ALPINE.to_owned(),
        ..ResolveImageConfigRequest::default()
    };
    let config = bridge.resolve_image_config(named(request)).await?.into_inner();
    add("LLBBridge.ResolveImageConfig", "ResolveImageConfigResponse", &config)?;
    let request = ResolveSourceMetaRequest {
        source: Some(pb::SourceOp {
            identifier: format!("docker-image://{ALPINE}"),
            ..pb::SourceOp::default()
        }),
        ..ResolveSourceMetaRequest::default()
    };
    let meta = bridge.resolve_source_meta(named(request)).await?.into_inner();
    add("LLBBridge.ResolveSourceMeta", "ResolveSourceMetaResponse", &meta)
}

/// A message of the gateway, whichever.
trait ErasedMessage {
    fn add_to(&self, answers: &mut Answers, call: &str, kind: &str) -> anyhow::Result<()>;
}

impl<M: Message> ErasedMessage for M {
    fn add_to(&self, answers: &mut Answers, call: &str, kind: &str) -> anyhow::Result<()> {
        answers.add(call, &format!("moby.buildkit.v1.frontend.{kind}"), self)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_hold_what_clients_read() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let client = Client::connect(&daemon.address().parse()?).await?;
    let channel = Endpoint::try_from(daemon.address())?.connect().await?;
    let mut answers = Answers::new()?;
    builds(&lab, &client, &mut answers).await?;
    control(&channel, &mut answers).await?;
    bridge(&channel, &mut answers).await?;

    let table = std::fs::read_to_string(lab::repository().join("tests/data/shapes.txt"))?;
    let mut wrong = Vec::new();
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let row: Vec<&str> = line.split(" | ").collect();
        let [call, path, form] = row[..] else {
            anyhow::bail!("{line:?} has {} columns", row.len())
        };
        let found = answers.at(call, path);
        if found.is_empty() {
            wrong.push(format!("{call}: {path} is missing"));
        }
        for value in found {
            if !is_of_form(value, form)? {
                wrong.push(format!("{call}: {path} is {value:.200}, which is no {form}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
