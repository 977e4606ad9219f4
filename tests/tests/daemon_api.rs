//! Calls that no build makes: which services there are, blobs, and what the daemon says of its worker.

use anyhow::{Context as _, ensure};
use cairn_proto::content::content_client::ContentClient;
use cairn_proto::content::{DeleteContentRequest, InfoRequest, ListContentRequest, ReadContentRequest};
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{
    BuildHistoryRecord, BuildHistoryRequest, ListWorkersRequest, StatusRequest, UpdateBuildHistoryRequest,
};
use cairn_tests::{Buildx, Daemon, Lab, Need};
use prost::Message as _;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn connect(daemon: &Daemon) -> anyhow::Result<Channel> {
    Ok(Endpoint::try_from(daemon.address())?.connect().await?)
}

/// Everything that is known now.
async fn history(control: &mut ControlClient<Channel>, id: &str) -> anyhow::Result<Vec<BuildHistoryRecord>> {
    let request = BuildHistoryRequest {
        r#ref: id.to_owned(),
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let mut events = control.listen_build_history(request).await?.into_inner();
    let mut records = Vec::new();
    while let Some(event) = events.message().await? {
        records.extend(event.record);
    }
    Ok(records)
}

#[tokio::test]
async fn services_and_the_worker_are_described() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let config = "[worker.oci]\nlabels = { team = \"a\" }\nmaxUsedSpace = \"40GB\"\n";
    let daemon = Daemon::start_with(&lab, &lab.path("root"), config)?;
    let channel = connect(&daemon).await?;
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let ask = |what| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(what),
    };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "moby.buildkit.v1.Control".to_owned(),
        )),
    ];
    let answers = reflection.server_reflection_info(tokio_stream::iter(questions)).await?;
    let mut answers = answers.into_inner();
    let mut next = async || {
        answers
            .message()
            .await?
            .and_then(|answer| answer.message_response)
            .context("no answer")
    };
    let MessageResponse::ListServicesResponse(services) = next().await? else {
        anyhow::bail!("no list of services");
    };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in [
        "moby.buildkit.v1.Control",
        "moby.buildkit.v1.frontend.LLBBridge",
        "containerd.services.content.v1.Content",
        "grpc.health.v1.Health",
    ] {
        ensure!(names.contains(&name), "{name} is missing: {names:?}");
    }
    ensure!(
        !names.contains(&"moby.filesync.v1.FileSync"),
        "clients serve this: {names:?}"
    );
    ensure!(matches!(next().await?, MessageResponse::FileDescriptorResponse(_)));

    let mut control = ControlClient::new(channel);
    let workers = control
        .list_workers(ListWorkersRequest::default())
        .await?
        .into_inner()
        .record;
    let [worker] = &workers[..] else {
        anyhow::bail!("{workers:?}")
    };
    for (name, value) in [("executor", "oci"), ("snapshotter", "overlayfs"), ("network", "host")] {
        let label = &worker.labels[&format!("org.mobyproject.buildkit.worker.{name}")];
        ensure!(label == value, "{name} is {label}");
    }
    ensure!(worker.labels["team"] == "a");
    ensure!(
        !worker.labels.keys().any(|name| name.contains("worker.moby.")),
        "{:?}",
        worker.labels
    );
    let native = &worker.platforms[0];
    ensure!(native.os == "linux" && native.variant.is_empty(), "{native:?}");
    if cfg!(target_arch = "x86_64") {
        let v2 = worker.platforms.get(1).context("no variants")?;
        ensure!(
            (v2.architecture.as_str(), v2.variant.as_str()) == ("amd64", "v2"),
            "{v2:?}"
        );
    }
    let [first, second, third, last] = &worker.gc_policy[..] else {
        anyhow::bail!("{:?}", worker.gc_policy)
    };
    ensure!(
        first.filters.len() == 3 && first.max_used_space == 512_000_000,
        "{first:?}"
    );
    ensure!(first.keep_duration == 48 * 3_600_000_000_000 && second.keep_duration == 1440 * 3_600_000_000_000);
    ensure!(
        third.max_used_space == 40 << 30 && third.keep_duration == 0 && !third.all,
        "{third:?}"
    );
    // A limit that is set is the only one.
    ensure!(
        last.all && last.max_used_space == 40 << 30 && last.reserved_space == 0 && last.min_free_space == 0,
        "{last:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_lead_to_blobs_that_can_only_be_read() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Sid])? else {
        return Ok(());
    };
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let context = lab.files("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")])?;
    let metadata = lab.path("metadata.json");
    let build = buildx.command(["build", "-t", "x", "-o", "type=image,name=x,oci-mediatypes=true"])?;
    build
        .args(["--metadata-file".as_ref(), metadata.as_os_str(), context.as_os_str()])
        .output()?;
    let bad = lab.files("bad", &[("Dockerfile", "FROM scratch\nCOPY missing /\n")])?;
    ensure!(!buildx.command(["build"])?.args([&bad]).run()?.status.success());

    let channel = connect(&daemon).await?;
    let mut control = ControlClient::new(channel.clone());
    let mut content = ContentClient::new(channel);
    let records = history(&mut control, "").await?;
    let [well, failed] = &records[..] else {
        anyhow::bail!("{records:?}")
    };
    ensure!(history(&mut control, &well.r#ref).await?.len() == 1);
    ensure!(
        history(&mut control, "buildx-test-history-api-feature")
            .await?
            .is_empty()
    );
    ensure!((well.pinned, well.num_warnings) == (false, 0), "{well:?}");
    ensure!(well.exporters.len() == 1 && well.error.is_none() && well.external_error.is_none());
    ensure!(
        well.exporter_response.contains_key("containerimage.config"),
        "{:?}",
        well.exporter_response
    );
    let asked = &well.exporter_response["verifier.requestopts"];
    let asked: serde_json::Value = serde_json::from_str(asked)?;
    ensure!(
        asked["Platforms"]
            .as_array()
            .is_some_and(|platforms| platforms.len() == 1),
        "{asked}"
    );
    let described: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata)?)?;
    let image = &well.result.as_ref().context("no result")?.results[&0];
    ensure!(described["containerimage.digest"] == image.digest, "{described}");

    let mut read = async |digest: &str| {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            ..ReadContentRequest::default()
        };
        let mut messages = content.read(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = messages.message().await? {
            bytes.extend_from_slice(&message.data);
        }
        Ok::<_, tonic::Status>(bytes)
    };
    let manifest: serde_json::Value = serde_json::from_slice(&read(&image.digest).await?)?;
    ensure!(
        manifest["layers"].as_array().is_some_and(|layers| layers.len() == 1),
        "{manifest}"
    );
    let error = failed.external_error.as_ref().context("no details of the error")?;
    ensure!(error.media_type == "application/vnd.googeapis.google.rpc.status+proto");
    let status = cairn_proto::rpc::Status::decode(&read(&error.digest).await?[..])?;
    let short = failed.error.as_ref().context("no error")?;
    ensure!(status.message == short.message && short.details.is_empty() && !status.details.is_empty());

    let logs = well.logs.as_ref().context("no log")?;
    ensure!(logs.media_type == "application/vnd.buildkit.status.v0");
    let mut replayed = control
        .status(StatusRequest {
            r#ref: well.r#ref.clone(),
        })
        .await?;
    ensure!(replayed.metadata().contains_key("buildkit-current-timestamp"));
    let mut from_status = Vec::new();
    while let Some(message) = replayed.get_mut().message().await? {
        let bytes = message.encode_to_vec();
        from_status.extend_from_slice(&u32::try_from(bytes.len())?.to_le_bytes());
        from_status.extend(bytes);
    }
    ensure!(
        read(&logs.digest).await? == from_status,
        "the log is what the build told"
    );

    ensure!(read("sha256:nonsense").await.unwrap_err().code() == Code::InvalidArgument);
    let missing = format!("sha256:{}", "0".repeat(64));
    let info = content.info(InfoRequest { digest: missing }).await;
    ensure!(info.unwrap_err().code() == Code::NotFound);
    let mut listed = content.list(ListContentRequest::default()).await?.into_inner();
    let mut digests = Vec::new();
    while let Some(page) = listed.message().await? {
        digests.extend(page.info.into_iter().map(|info| info.digest));
    }
    ensure!(
        [&image.digest, &error.digest, &logs.digest]
            .iter()
            .all(|digest| digests.contains(digest))
    );
    let deleted = content
        .delete(DeleteContentRequest {
            digest: image.digest.clone(),
        })
        .await;
    ensure!(deleted.unwrap_err().code() == Code::FailedPrecondition);

    let pin = UpdateBuildHistoryRequest {
        r#ref: well.r#ref.clone(),
        pinned: true,
        ..UpdateBuildHistoryRequest::default()
    };
    control.update_build_history(pin).await?;
    let pinned = history(&mut control, &well.r#ref).await?;
    ensure!(pinned[0].pinned && pinned[0].generation > well.generation);
    let unknown = UpdateBuildHistoryRequest {
        r#ref: "x".to_owned(),
        delete: true,
        ..UpdateBuildHistoryRequest::default()
    };
    let status = control.update_build_history(unknown).await.unwrap_err();
    ensure!(
        status.message() == "failed to retrieve ref x: file does not exist",
        "{status}"
    );
    Ok(())
}
