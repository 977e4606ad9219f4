//! Statements that a client returns with its result, and the images that carry them.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{Exporter, SolveRequest as ControlSolve, SolveResponse as Solved};
use cairn_proto::gateway::llb_bridge_client::LlbBridgeClient;
use cairn_proto::gateway::{
    Attestation, AttestationKind, Attestations, InTotoSubject, InTotoSubjectKind, Ref, Result as WireResult,
    ReturnRequest, SolveRequest, result,
};
use cairn_proto::pb;
use cairn_tests::llb::{Graph, make_file};
use cairn_tests::{Daemon, Lab, Need, Program, Registry};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Registry];
const PLATFORM: &str = "linux/s390x";

/// A definition of one file.
fn file(path: &str, text: &str) -> pb::Definition {
    let mut graph = Graph::default();
    let digest = graph.add(&make_file(path, text));
    graph.asking_for(&digest, 0)
}

struct Driver {
    channel: Channel,
    id: String,
}

impl Driver {
    async fn connect(daemon: &Daemon, id: &str) -> anyhow::Result<Self> {
        let path = daemon.address().trim_start_matches("unix://").to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        Ok(Self {
            channel: endpoint.connect_with_connector(connector).await?,
            id: id.to_owned(),
        })
    }

    fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("buildkit-controlapi-buildid", self.id.parse()?);
        Ok(request)
    }

    async fn make(&self, definition: pb::Definition) -> anyhow::Result<Ref> {
        let request = self.request(SolveRequest {
            definition: Some(definition),
            ..SolveRequest::default()
        })?;
        let mut bridge = LlbBridgeClient::new(self.channel.clone());
        let response = bridge.solve(request).await?.into_inner();
        match response.result.and_then(|result| result.result) {
            Some(result::Result::Ref(reference)) => Ok(Ref {
                id: reference.id,
                def: None,
            }),
            other => bail!("another result: {other:?}"),
        }
    }

    /// A result for one platform, with statements about it.
    async fn result(&self) -> anyhow::Result<WireResult> {
        let reference = self.make(file("/hello", "hello")).await?;
        let own = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://spdx.dev/Document",
            "subject": [{"name": "", "digest": {"sha1": "0123"}}],
            "predicate": {"SPDXID": 1.50},
        });
        let bundle = Attestation {
            kind: AttestationKind::Bundle.into(),
            r#ref: Some(self.make(file("/sbom.spdx.json", &own.to_string())).await?),
            path: "/".to_owned(),
            in_toto_predicate_type: "https://spdx.dev/Document".to_owned(),
            ..Attestation::default()
        };
        let subject = InTotoSubject {
            kind: InTotoSubjectKind::Self_.into(),
            ..InTotoSubject::default()
        };
        let inline = Attestation {
            kind: AttestationKind::InToto.into(),
            r#ref: Some(self.make(file("/made.json", "{ \"by\": \"hand\" }")).await?),
            path: "/made.json".to_owned(),
            in_toto_predicate_type: "https://example.org/made".to_owned(),
            in_toto_subjects: vec![subject],
            metadata: BTreeMap::from([("inline-only".to_owned(), b"true".to_vec().into())]),
        };
        let platforms = json!({"Platforms": [
            {"ID": PLATFORM, "Platform": {"os": "linux", "architecture": "s390x"}},
        ]});
        let attestation = vec![bundle, inline];
        Ok(WireResult {
            result: Some(result::Result::Ref(reference)),
            metadata: BTreeMap::from([("refs.platforms".to_owned(), platforms.to_string().into_bytes().into())]),
            attestations: BTreeMap::from([(PLATFORM.to_owned(), Attestations { attestation })]),
        })
    }

    /// Builds, as an image of a compatibility version.
    async fn build(&self, version: i64, attrs: &[(&str, &str)]) -> anyhow::Result<Solved> {
        let attrs = attrs.iter();
        let exporter = Exporter {
            r#type: "image".to_owned(),
            attrs: attrs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let request = ControlSolve {
            r#ref: self.id.clone(),
            exporters: vec![exporter],
            compatibility_version: version,
            ..ControlSolve::default()
        };
        let mut control = ControlClient::new(self.channel.clone());
        let drive = async {
            let returned = ReturnRequest {
                result: Some(self.result().await?),
                ..ReturnRequest::default()
            };
            let mut bridge = LlbBridgeClient::new(self.channel.clone());
            bridge.r#return(self.request(returned)?).await?;
            anyhow::Ok(())
        };
        let (solved, driven) = tokio::join!(control.solve(request), drive);
        let solved = solved?.into_inner();
        driven?;
        Ok(solved)
    }
}

struct Bench {
    daemon: Daemon,
    registry: Registry,
    _lab: Lab,
}

impl Bench {
    fn open() -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(NEEDS)? else {
            return Ok(None);
        };
        let registry = Registry::start(&lab)?;
        let daemon = Daemon::start_with(&lab, &lab.path("root"), &registry.config())?;
        Ok(Some(Self {
            daemon,
            registry,
            _lab: lab,
        }))
    }

    /// A document of the image `name`, as it is.
    fn raw(&self, name: &str) -> anyhow::Result<Value> {
        let image = format!("docker://{}/{name}", self.registry.address());
        let text = Program::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", &image])
            .output()?;
        serde_json::from_str(&text).context("skopeo said something else than JSON")
    }

    fn blob(&self, descriptor: &Value) -> anyhow::Result<String> {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        Ok(std::fs::read_to_string(self.registry.blob_file(digest)?)?)
    }
}

#[tokio::test]
async fn images_carry_statements_as_artifacts() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let name = format!("{}/attested:1", bench.registry.address());
    let driver = Driver::connect(&bench.daemon, "artifacts").await?;
    let solved = driver.build(0, &[("name", &name), ("push", "true")]).await?;
    let response = &solved.exporter_response;
    ensure!(!response.contains_key("containerimage.config.digest"), "{response:?}");
    let index = bench.raw("attested:1")?;
    let (image, entry) = (&index["manifests"][0], &index["manifests"][1]);
    ensure!(
        image["platform"] == json!({"architecture": "s390x", "os": "linux"}),
        "{index}"
    );
    ensure!(
        entry["platform"] == json!({"architecture": "unknown", "os": "unknown"}),
        "{index}"
    );
    let annotations = json!({
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    });
    ensure!(entry["annotations"] == annotations, "{index}");
    let digest = entry["digest"].as_str().context("no digest")?;
    let manifest = bench.raw(&format!("attested@{digest}"))?;
    let artifact = "application/vnd.docker.attestation.manifest.v1+json";
    ensure!(manifest["artifactType"] == artifact, "{manifest}");
    ensure!(
        manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json",
        "{manifest}"
    );
    ensure!(manifest["subject"]["digest"] == image["digest"], "{manifest}");
    let layers = manifest["layers"].as_array().context("no layers")?;
    ensure!(layers.len() == 2, "{manifest}");
    ensure!(
        layers[0]["annotations"]["in-toto.io/predicate-type"] == "https://spdx.dev/Document",
        "{manifest}"
    );
    ensure!(
        bench.blob(&layers[0])?
            == "{\"_type\":\"https://in-toto.io/Statement/v1\",\"predicateType\":\"https://spdx.dev/Document\",\
                \"subject\":[{\"name\":\"_\",\"digest\":{\"sha1\":\"0123\"}}],\"predicate\":{\"SPDXID\":1.5}}"
    );
    let made: Value = serde_json::from_str(&bench.blob(&layers[1])?)?;
    let purl = format!(
        "pkg:docker/{}/attested@1?platform=linux%2Fs390x",
        bench.registry.address().replace(':', "%3A")
    );
    let hash = image["digest"]
        .as_str()
        .and_then(|digest| digest.strip_prefix("sha256:"));
    ensure!(
        made["subject"] == json!([{"name": purl, "digest": {"sha256": hash}}]),
        "{made}"
    );
    ensure!(made["predicate"] == json!({"by": "hand"}), "{made}");
    Ok(())
}

#[tokio::test]
async fn older_clients_get_statements_as_images_and_only_those_they_want() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let name = format!("{}/older:1", bench.registry.address());
    let attrs = [
        ("name", name.as_str()),
        ("push", "true"),
        ("attestation-inline", "false"),
    ];
    let driver = Driver::connect(&bench.daemon, "older").await?;
    driver.build(20, &attrs).await?;
    let index = bench.raw("older:1")?;
    let oci = "application/vnd.oci.image.index.v1+json";
    ensure!(index["mediaType"] == oci, "{index}");
    let digest = index["manifests"][1]["digest"].as_str().context("no digest")?;
    let manifest = bench.raw(&format!("older@{digest}"))?;
    ensure!(
        manifest["artifactType"].is_null() && manifest["subject"].is_null(),
        "{manifest}"
    );
    let layers = manifest["layers"].as_array().context("no layers")?;
    ensure!(layers.len() == 1, "{manifest}");
    let config: Value = serde_json::from_str(&bench.blob(&manifest["config"])?)?;
    ensure!(config["rootfs"]["diff_ids"] == json!([layers[0]["digest"]]), "{config}");
    Ok(())
}
