//! A frontend of our own, as others write theirs: it reaches the daemon through its standard streams.
//!
//! What it does is the word behind its name in `# syntax=NAME WORD`, or the build argument `WORD`. Called with `span NAME`,
//! it is a step that sends a span of that name.

mod connection;
mod span;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use cairn_proto::gateway::llb_bridge_client::LlbBridgeClient;
use cairn_proto::gateway::{
    InputsRequest, PingRequest, ReadFileRequest, Ref, Result as WireResult, ReturnRequest, SolveRequest, result,
};
use cairn_proto::{pb, rpc};
use cairn_tests::llb::{Graph, local, make_file};
use tonic::transport::Channel;

type Bridge = LlbBridgeClient<Channel>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::from(9)
        }
    }
}

/// Into the daemon's log.
fn say(text: &str) {
    let _unheard = writeln!(std::io::stderr(), "{text}");
}

/// The options of the request, from the environment.
fn options() -> BTreeMap<String, String> {
    let variables = std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
    let pairs = variables.filter_map(|(_, option)| {
        let (key, value) = option.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

async fn run() -> anyhow::Result<u8> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("span") => {
            span::send(&arguments.next().context("a span without a name")?).await?;
            return Ok(0);
        }
        Some("span-of-another-trace") => {
            span::send_to_another("of-another-trace").await?;
            return Ok(0);
        }
        _ => {}
    }
    let options = options();
    let asked = options.get("cmdline").and_then(|line| line.split(' ').nth(1));
    let asked = asked.or_else(|| options.get("build-arg:WORD").map(String::as_str));
    let word = asked.unwrap_or("build").to_owned();
    match word.as_str() {
        "exit" => {
            say("boom on standard error");
            return Ok(1);
        }
        "silent" => return Ok(0),
        "garbage" => {
            std::io::stdout().write_all(b"this is not the protocol\n")?;
            std::io::stdout().flush()?;
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let mut bridge = LlbBridgeClient::new(connection::connect().await?);
    bridge.ping(PingRequest {}).await.context("ping")?;
    match word.as_str() {
        "build" => build(&mut bridge, &options).await?,
        "error" => {
            let error = rpc::Status {
                code: 3,
                message: "this cannot be built".to_owned(),
                details: vec![prost_types::Any {
                    type_url: "example.com/detail".to_owned(),
                    value: b"{}".to_vec(),
                }],
            };
            answer(&mut bridge, None, Some(error)).await?;
        }
        "late" => {
            answer(&mut bridge, Some(WireResult::default()), None).await?;
            return Ok(4);
        }
        "hang" => {
            say("hanging");
            std::future::pending::<()>().await;
        }
        "forge" => forge(&mut bridge, &options).await?,
        "recurse" => recurse(&mut bridge, &options).await?,
        "network" => network(&mut bridge).await?,
        "span" => {
            span::send("of-a-frontend").await?;
            give(&mut bridge, "sent".to_owned(), &[]).await?;
        }
        other => bail!("nobody knows how to {other}"),
    }
    Ok(0)
}

async fn answer(bridge: &mut Bridge, result: Option<WireResult>, error: Option<rpc::Status>) -> anyhow::Result<()> {
    bridge
        .r#return(ReturnRequest { result, error })
        .await
        .context("return")?;
    Ok(())
}

async fn solve(bridge: &mut Bridge, definition: pb::Definition) -> anyhow::Result<String> {
    let request = SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..SolveRequest::default()
    };
    let response = bridge.solve(request).await.context("solve")?.into_inner();
    match response.result.and_then(|result| result.result) {
        Some(result::Result::Ref(reference)) => Ok(reference.id),
        other => bail!("another result: {other:?}"),
    }
}

async fn read(bridge: &mut Bridge, reference: &str, path: &str) -> Result<String, tonic::Status> {
    let request = ReadFileRequest {
        r#ref: reference.to_owned(),
        file_path: path.to_owned().into(),
        ..ReadFileRequest::default()
    };
    let data = bridge.read_file(request).await?.into_inner().data;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// Returns one file with this text.
async fn give(bridge: &mut Bridge, text: String, metadata: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut graph = Graph::default();
    let file = graph.add(&make_file("/result", &text));
    let id = solve(bridge, graph.asking_for(&file, 0)).await?;
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec().into()));
    let result = WireResult {
        result: Some(result::Result::Ref(Ref { id, def: None })),
        metadata: metadata.collect(),
        ..WireResult::default()
    };
    answer(bridge, Some(result), None).await
}

/// Tells what it was given: the file in the client's directory, options, inputs, surroundings.
async fn build(bridge: &mut Bridge, options: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut graph = Graph::default();
    let directory = graph.add(&local("dockerfile"));
    let directory = solve(bridge, graph.asking_for(&directory, 0)).await?;
    let filename = options.get("filename").map_or("Dockerfile", String::as_str);
    let file = read(bridge, &directory, filename).await.context("read the file")?;
    let inputs = bridge.inputs(InputsRequest {}).await?.into_inner().definitions;
    let mut text = format!("file:\n{file}");
    for (key, value) in options.iter().filter(|(key, _)| key.starts_with("build-arg:")) {
        text.push_str(&format!("{key}={value}\n"));
    }
    for (name, input) in inputs {
        let id = solve(bridge, input).await?;
        let content = read(bridge, &id, "/result").await.context("read an input")?;
        text.push_str(&format!("input {name}: {content}\n"));
    }
    let own = std::fs::read("/run/config/buildkit/metadata/frontend.bin")?;
    let own = <pb::Definition as prost::Message>::decode(own.as_slice())?;
    text.push_str(&format!("own definition of {} operations\n", own.def.len()));
    for name in ["BUILDKIT_EXPORTEDPRODUCT", "FROM_IMAGE"] {
        text.push_str(&format!("{name}={}\n", std::env::var(name).unwrap_or_default()));
    }
    let workers: serde_json::Value = serde_json::from_str(&std::env::var("BUILDKIT_WORKERS")?)?;
    text.push_str(&format!("os of worker: {}\n", workers[0]["platforms"][0]["os"]));
    // Thrown away with the container.
    std::fs::write("/scribble", "anything")?;
    give(bridge, text, &[("frontend.test", "what it says")]).await
}

/// Asks for a result of somebody else.
async fn forge(bridge: &mut Bridge, options: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let forged = options.get("build-arg:REF").context("no reference to forge")?;
    let refused = match read(bridge, forged, "/result").await {
        Ok(text) => format!("read {text}"),
        Err(status) => status.message().to_owned(),
    };
    give(bridge, refused, &[]).await
}

/// Calls itself.
async fn recurse(bridge: &mut Bridge, options: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let request = SolveRequest {
        frontend: "gateway.v0".to_owned(),
        frontend_opt: options.clone(),
        allow_result_return: true,
        ..SolveRequest::default()
    };
    match bridge.solve(request).await {
        Ok(response) => answer(bridge, response.into_inner().result, None).await,
        Err(status) => give(bridge, status.message().to_owned(), &[]).await,
    }
}

async fn network(bridge: &mut Bridge) -> anyhow::Result<()> {
    let devices = std::fs::read_to_string("/proc/net/dev")?;
    let devices = devices.lines().filter_map(|line| line.split_once(':'));
    let devices: Vec<&str> = devices.map(|(name, _)| name.trim()).collect();
    give(bridge, devices.join(" "), &[]).await
}
