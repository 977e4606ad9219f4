//! Statements about how results were made, through Docker's own client.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_tests::git::{GitHttp, Repository};
use cairn_tests::{Buildx, Daemon, Lab, Need, Program, Registry, WebReply, WebServer};
use serde_json::{Value, json};

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Registry, Need::Sid];
const V1: &str = "https://slsa.dev/provenance/v1";
const V02: &str = "https://slsa.dev/provenance/v0.2";

struct Bench {
    buildx: Buildx,
    registry: Registry,
    server: WebServer,
    context: PathBuf,
    lab: Lab,
    _daemon: Daemon,
}

impl Bench {
    fn open() -> anyhow::Result<Option<Self>> {
        Self::open_with("")
    }

    /// A bench whose daemon has settings that stand in front of all tables.
    fn open_with(settings: &str) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(NEEDS)? else {
            return Ok(None);
        };
        let registry = Registry::start(&lab)?;
        let daemon = Daemon::start_configured(&lab, &format!("{settings}\n{}", registry.config()))?;
        let server = WebServer::start(|_| WebReply::file("from the web"))?;
        let dockerfile = format!(
            "FROM alpine AS base\n\
             RUN --mount=type=secret,id=token --mount=type=ssh true\n\
             FROM base\n\
             ARG WHO=me\n\
             COPY file /f\n\
             ADD {} /web\n\
             RUN --network=none echo $WHO > /who\n",
            server.url("/f.txt")
        );
        let context = lab.files("context", &[("Dockerfile", &dockerfile), ("file", "hello")])?;
        Ok(Some(Self {
            buildx: Buildx::remote(&lab, &daemon)?,
            registry,
            server,
            context,
            lab,
            _daemon: daemon,
        }))
    }

    /// Builds with what a client adds by itself.
    fn build(&self, options: &[&str]) -> anyhow::Result<Program> {
        let program = self.buildx.build()?.without_env("BUILDX_NO_DEFAULT_ATTESTATIONS");
        let arguments = ["--build-arg", "WHO=you", "--label", "a=b"];
        Ok(program.args(arguments).args(options).args([&self.context]))
    }

    /// Builds into a directory, and returns what is stated there.
    fn stated(&self, name: &str, provenance: &str) -> anyhow::Result<Value> {
        let dir = self.lab.path(name);
        let output = format!("type=local,dest={}", dir.display());
        let provenance = format!("--provenance={provenance}");
        self.build(&[&provenance, "-o", &output])?.output()?;
        read_json(&dir.join("provenance.json"))
    }

    /// A document of the image `name`, as it is.
    fn raw(&self, name: &str) -> anyhow::Result<Value> {
        let image = format!("docker://{}/{name}", self.registry.address());
        let program = Program::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &image]);
        Ok(serde_json::from_str(&program.output()?)?)
    }

    fn history(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.buildx.command(["history"])?.args(arguments).output()
    }
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// The addresses of what was used; each with a hash.
fn uris(materials: &Value) -> anyhow::Result<Vec<&str>> {
    let materials = materials.as_array().context("no materials")?.iter();
    let uris = materials.map(|material| {
        let hash = material["digest"]["sha256"].as_str();
        ensure!(hash.is_some_and(|hash| hash.len() == 64), "{material}");
        material["uri"].as_str().context("no address")
    });
    uris.collect()
}

#[test]
fn both_versions_tell_all_or_the_least_also_of_what_is_cached() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let whole = bench.stated("max-1", "mode=max,builder-id=https://ci/1,reproducible=true")?;
    ensure!(whole["predicateType"] == V1, "{whole}");
    let (definition, run) = (
        &whole["predicate"]["buildDefinition"],
        &whole["predicate"]["runDetails"],
    );
    let web = bench.server.url("/f.txt");
    let used = ["pkg:docker/alpine@latest?platform=linux%2Famd64", &web];
    ensure!(uris(&definition["resolvedDependencies"])? == used, "{definition}");
    let external = &definition["externalParameters"];
    ensure!(
        external["configSource"] == json!({ "path": "Dockerfile" }),
        "{external}"
    );
    let request = json!({
        "frontend": "dockerfile.v0",
        "args": { "build-arg:WHO": "you", "label:a": "b" },
        "secrets": [{ "id": "token", "optional": true }],
        "ssh": [{ "id": "default", "optional": true }],
        "locals": [{ "name": "context" }, { "name": "dockerfile" }],
    });
    ensure!(external["request"] == request, "{external}");
    let config = &definition["internalParameters"]["buildConfig"];
    let steps = config["llbDefinition"].as_array().context("no steps")?;
    ensure!(steps[0]["op"]["Op"]["source"]["identifier"].is_string(), "{config}");
    ensure!(steps.last().context("no step")?["op"]["Op"] == json!({}), "{config}");
    let mapped = config["digestMapping"].as_object().context("no digests")?;
    ensure!(mapped.len() == steps.len(), "{config}");
    ensure!(run["builder"]["id"] == "https://ci/1", "{run}");
    let metadata = &run["metadata"];
    ensure!(metadata["buildkit_reproducible"] == true, "{metadata}");
    ensure!(
        metadata["buildkit_completeness"] == json!({ "request": true, "resolvedDependencies": false }),
        "{metadata}"
    );
    let source = &metadata["buildkit_metadata"]["source"];
    ensure!(source["infos"][0]["filename"] == "Dockerfile", "{source}");
    let read = &source["infos"][0]["llbDefinition"];
    ensure!(
        read[0]["op"]["Op"]["source"]["identifier"] == "local://dockerfile",
        "{source}"
    );
    ensure!(
        read[0]["op"]["Op"]["source"]["attrs"]["local.session"].is_null(),
        "{source}"
    );
    ensure!(read[1]["inputs"] == json!(["step0:0"]), "{source}");
    ensure!(
        source["infos"][0]["digestMapping"]
            .as_object()
            .is_some_and(|map| map.len() == 2)
    );
    ensure!(
        source["locations"]["step0"]["locations"][0]["ranges"][0]["start"]["line"] == 1,
        "{source}"
    );

    let least = bench.stated("min-1", "mode=min")?;
    let definition = &least["predicate"]["buildDefinition"];
    ensure!(uris(&definition["resolvedDependencies"])? == used, "{definition}");
    let request = json!({
        "frontend": "dockerfile.v0",
        "locals": [{ "name": "context" }, { "name": "dockerfile" }],
    });
    ensure!(definition["externalParameters"]["request"] == request, "{definition}");
    ensure!(
        definition["internalParameters"]["buildConfig"].is_null(),
        "{definition}"
    );

    let older = bench.stated("max-02", "mode=max,version=v0.2")?;
    ensure!(older["predicateType"] == V02, "{older}");
    let predicate = &older["predicate"];
    ensure!(
        predicate["buildType"] == "https://mobyproject.org/buildkit@v1",
        "{predicate}"
    );
    ensure!(uris(&predicate["materials"])? == used, "{predicate}");
    ensure!(predicate["invocation"]["configSource"] == json!({ "entryPoint": "Dockerfile" }));
    ensure!(
        predicate["buildConfig"]["llbDefinition"] == config["llbDefinition"],
        "{predicate}"
    );
    let older = bench.stated("min-02", "mode=min,version=v0.2")?;
    ensure!(older["predicate"]["buildConfig"].is_null(), "{older}");
    Ok(())
}

#[test]
fn wrong_parameters_and_incomplete_materials_fail_the_build() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    for (provenance, want) in [
        ("mode=most", "invalid mode \"most\""),
        ("mode=max,version=v3", "invalid provenance SLSA version: v3"),
        ("mode=max,reproducible=maybe", "failed to parse reproducible flag"),
        (
            "mode=max,complete-materials=true",
            "provenance materials are incomplete: local sources are used: context, dockerfile",
        ),
    ] {
        let option = format!("--provenance={provenance}");
        let output = format!("type=local,dest={}", bench.lab.path("wrong").display());
        let failed = bench.build(&[&option, "-o", &output])?.run()?;
        ensure!(!failed.status.success(), "{provenance}");
        ensure!(failed.stderr.contains(want), "{provenance}: {}", failed.stderr);
    }
    Ok(())
}

#[test]
fn pushed_images_carry_the_least_unless_that_is_not_wanted() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let name = |name: &str| format!("{}/{name}", bench.registry.address());
    bench.build(&["--push", "-t", &name("default:1")])?.output()?;
    let index = bench.raw("default:1")?;
    let entry = &index["manifests"][1];
    ensure!(
        entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest",
        "{index}"
    );
    let digest = entry["digest"].as_str().context("no digest")?;
    let manifest = bench.raw(&format!("default@{digest}"))?;
    let layer = &manifest["layers"][0];
    ensure!(layer["annotations"]["in-toto.io/predicate-type"] == V1, "{manifest}");
    let statement = read_json(
        &bench
            .registry
            .blob_file(layer["digest"].as_str().context("no digest")?)?,
    )?;
    ensure!(statement["predicateType"] == V1, "{statement}");
    let subject = &statement["subject"][0];
    ensure!(
        index["manifests"][0]["digest"] == format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap_or("")),
        "{statement}"
    );
    let details = &statement["predicate"]["buildDefinition"];
    ensure!(details["internalParameters"]["buildConfig"].is_null(), "{statement}");

    bench
        .build(&["--push", "-t", &name("plain:1"), "--provenance=false"])?
        .output()?;
    let plain = bench.raw("plain:1")?;
    ensure!(plain["manifests"].is_null() && plain["layers"].is_array(), "{plain}");
    // Files get no statement that is only for images.
    let dir = bench.lab.path("files");
    let output = format!("type=local,dest={}", dir.display());
    bench.build(&["-o", &output])?.output()?;
    ensure!(dir.join("who").exists() && !dir.join("provenance.json").exists());
    let tar = bench.lab.path("docker.tar");
    bench
        .build(&["-t", "x:1", "-o", &format!("type=docker,dest={}", tar.display())])?
        .output()?;
    let list = Program::new("tar").args(["-tf"]).args([&tar]).output()?;
    ensure!(list.lines().any(|line| line == "manifest.json"), "{list}");
    // What is only for an index is in every index.
    let layout = bench.lab.path("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    bench
        .build(&["--platform", "linux/amd64,linux/386", "-o", &output])?
        .output()?;
    let top = read_json(&layout.join("index.json"))?;
    let digest = top["manifests"][0]["digest"].as_str().context("no digest")?;
    let index = read_json(&layout.join("blobs").join(digest.replace(':', "/")))?;
    ensure!(index["manifests"].as_array().map(Vec::len) == Some(4), "{index}");
    Ok(())
}

#[test]
fn layers_are_named_of_steps_that_have_just_run_for_the_first_time() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let name = format!("{}/layers:1", bench.registry.address());
    let program = bench.build(&["--push", "-t", &name, "--provenance=mode=max"])?;
    program.output()?;
    let index = bench.raw("layers:1")?;
    let digest = |place: usize| index["manifests"][place]["digest"].as_str().context("no digest");
    let image = bench.raw(&format!("layers@{}", digest(0)?))?;
    let statement = bench.raw(&format!("layers@{}", digest(1)?))?;
    let statement = statement["layers"][0]["digest"].as_str().context("no statement")?;
    let statement = read_json(&bench.registry.blob_file(statement)?)?;
    let layers = &statement["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["layers"];
    let named = layers.as_object().context("no layers")?;
    let digests = |layers: &Value| -> Vec<String> {
        let layers = layers.as_array().into_iter().flatten();
        layers.map(|layer| layer["digest"].to_string()).collect()
    };
    let whole = digests(&image["layers"]);
    ensure!(whole.len() == 5, "{image}");
    // Every layer is the last of what one step made.
    let mut chains: Vec<Vec<String>> = named.values().map(|chains| digests(&chains[0])).collect();
    chains.retain(|chain| whole.starts_with(chain));
    chains.sort_by_key(Vec::len);
    let lengths: Vec<usize> = chains.iter().map(Vec::len).collect();
    ensure!(lengths == [1, 2, 3, 4, 5], "{layers}");
    // The record of the build tells them, too.
    let inspected: Value = serde_json::from_str(&bench.history(&["inspect", "--format", "json"])?)?;
    let attachments = inspected["Attachments"].as_array().context("no attachments")?;
    let recorded = attachments.iter().find(|attachment| attachment["Type"] == V02);
    let digest = recorded
        .and_then(|recorded| recorded["Digest"].as_str())
        .context("no digest")?;
    let id = inspected["Ref"].as_str().context("no id")?;
    let recorded: Value = serde_json::from_str(&bench.history(&["inspect", "attachment", id, digest])?)?;
    let recorded = &recorded["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["layers"];
    ensure!(recorded == layers, "{recorded}");
    Ok(())
}

#[test]
fn it_is_told_what_steps_used_of_the_machine_if_that_is_wanted() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let dockerfile = "FROM alpine\n\
                      RUN dd if=/dev/zero of=/dev/shm/x bs=1M count=32; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 3\n\
                      RUN true\n";
    let context = bench.lab.files("busy", &[("Dockerfile", dockerfile)])?;
    let build = |name: &str, provenance: &str| -> anyhow::Result<(Value, String)> {
        let dir = bench.lab.path(name);
        let program = bench.buildx.build()?.args(["--progress=plain", provenance]);
        let program = program.args(["-o", &format!("type=local,dest={}", dir.display())]);
        let ran = program.args([&context]).run()?;
        ensure!(ran.status.success(), "{}", ran.stderr);
        Ok((read_json(&dir.join("provenance.json"))?, ran.stderr))
    };
    let steps = |statement: &Value| {
        statement["predicate"]["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"].clone()
    };
    let machine =
        |statement: &Value| statement["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["sysUsage"].clone();
    let (plain, _) = build("plain", "--provenance=mode=max")?;
    ensure!(steps(&plain).to_string().matches("resourceUsage").count() == 0 && machine(&plain).is_null());
    bench.buildx.command(["prune", "-af"])?.output()?;

    let (measured, log) = build("measured", "--provenance=mode=max,capture-usage=true")?;
    let sample = &machine(&measured)[0];
    ensure!(
        sample["timestamp"].is_string() && sample["memoryStat"]["total"].is_u64(),
        "{sample}"
    );
    ensure!(
        sample["cpuStat"]["user"].is_f64() && sample["procStat"]["processCreated"].is_u64(),
        "{sample}"
    );
    let used = &steps(&measured)[1]["resourceUsage"];
    if log.contains("there are no control groups to count it") {
        ensure!(used.is_null(), "{used}");
        return Ok(());
    }
    let samples = used["samples"]
        .as_array()
        .with_context(|| format!("not measured: {measured}"))?;
    let last = samples.last().context("no sample")?;
    ensure!(
        samples.len() >= 2,
        "a step of more than two seconds is measured while it runs: {used}"
    );
    ensure!(samples[0]["timestamp"].as_str() < last["timestamp"].as_str(), "{used}");
    let number = |pointer: &str| last.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    ensure!(number("/cpuStat/usageNanos") > 10_000_000, "{last}");
    ensure!(
        number("/cpuStat/userNanos") <= number("/cpuStat/usageNanos") * 2,
        "{last}"
    );
    ensure!(number("/memoryStat/peak") > 32 << 20, "{last}");
    ensure!(last["pidsStat"]["current"].is_u64(), "{last}");
    ensure!(used["sysCPUStat"]["user"].is_f64(), "{used}");
    ensure!(
        steps(&measured)[0]["resourceUsage"].is_null(),
        "nothing ran for the image"
    );
    let short = steps(&measured)[2]["resourceUsage"]["samples"].as_array().map(Vec::len);
    ensure!(short == Some(1), "a short step is measured at its end: {short:?}");

    let (known, _) = build("known", "--provenance=mode=max,capture-usage=true")?;
    ensure!(
        steps(&known).to_string().matches("resourceUsage").count() == 0,
        "nothing ran"
    );
    ensure!(machine(&known).is_array());
    let (least, _) = build("least", "--provenance=mode=min,capture-usage=true")?;
    ensure!(machine(&least).is_null(), "{least}");
    Ok(())
}

#[test]
fn operators_add_to_every_statement() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let added = lab.files(
        "added",
        &[
            ("10.json", r#"{"pool": "a", "platform": "mine"}"#),
            ("20.json", r#"{"pool": {"name": "b"}}"#),
        ],
    )?;
    let setting = format!("provenanceEnvDir = {:?}", added.display().to_string());
    let bench = Bench::open_with(&setting)?.context("there is a lab")?;
    for provenance in ["mode=max", "mode=min"] {
        let statement = bench.stated(provenance, provenance)?;
        let internal = &statement["predicate"]["buildDefinition"]["internalParameters"];
        ensure!(
            internal["pool"]["name"] == "b" && internal["platform"] == "mine",
            "{internal}"
        );
        ensure!(internal["builderPlatform"] == "linux/amd64", "{internal}");
    }
    let older = bench.stated("older", "mode=max,version=v0.2")?;
    let environment = &older["predicate"]["invocation"]["environment"];
    ensure!(
        environment["pool"]["name"] == "b" && environment["platform"] == "linux/amd64",
        "{environment}"
    );
    Ok(())
}

#[test]
fn a_target_on_top_of_another_tells_what_both_are_made_of() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let web = bench.server.url("/f.txt");
    let dir = bench.lab.path("linked");
    let file = format!(
        "target \"base\" {{\n  context = \"base\"\n}}\n\
         target \"app\" {{\n  context = \"app\"\n  contexts = {{ below = \"target:base\" }}\n  \
         attest = [\"type=provenance,mode=max,version=v1\"]\n  output = [\"type=local,dest={}\"]\n}}\n",
        dir.display()
    );
    let base = format!("FROM alpine\nADD {web} /web\n");
    let root = bench.lab.files(
        "bake",
        &[
            ("docker-bake.hcl", &file),
            ("base/Dockerfile", &base),
            (
                "app/Dockerfile",
                "FROM below\nCOPY x /x\nRUN --network=none test -f /web\n",
            ),
            ("app/x", "x"),
        ],
    )?;
    let facts = bench.lab.path("bake.json");
    let program = bench.buildx.command(["bake"])?.dir(&root);
    let program = program.args(["--allow", &format!("fs.write={}", bench.lab.path("").display())]);
    program
        .args(["--metadata-file", &facts.display().to_string(), "app"])
        .output()?;
    let statement = read_json(&dir.join("provenance.json"))?;
    let definition = &statement["predicate"]["buildDefinition"];
    let used = uris(&definition["resolvedDependencies"])?;
    ensure!(
        used.len() == 2 && used[0].starts_with("pkg:docker/alpine@latest?") && used[1] == web,
        "{used:?}"
    );
    let metadata = &statement["predicate"]["runDetails"]["metadata"];
    let source = &metadata["buildkit_metadata"]["source"];
    let files: Vec<bool> = source["infos"]
        .as_array()
        .context("no files")?
        .iter()
        .map(|file| file["filename"] == "Dockerfile" && file["llbDefinition"].is_array())
        .collect();
    ensure!(files == [true, true], "{source}");
    let facts = read_json(&facts)?;
    for target in ["app", "base"] {
        let told = &facts[target]["buildx.build.provenance"];
        ensure!(
            told["invocation"]["parameters"]["frontend"] == "dockerfile.v0",
            "{facts}"
        );
        ensure!(
            told["materials"]
                .as_array()
                .is_some_and(|materials| materials.len() == 2),
            "{told}"
        );
    }
    Ok(())
}

#[test]
fn each_platform_has_its_own_statement() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let context = bench.lab.files(
        "many",
        &[
            ("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /a\n"),
            ("amd64", "1"),
            ("arm64", "2"),
        ],
    )?;
    let (dir, facts) = (bench.lab.path("platforms"), bench.lab.path("facts.json"));
    let program = bench
        .buildx
        .build()?
        .args(["--platform", "linux/amd64,linux/arm64", "--provenance=mode=max"]);
    let program = program.args(["-o", &format!("type=local,dest={}", dir.display())]);
    let program = program.args(["--metadata-file", &facts.display().to_string()]);
    program.args([&context]).output()?;
    for (platform, file) in [("linux_amd64", "/amd64"), ("linux_arm64", "/arm64")] {
        let statement = read_json(&dir.join(platform).join("provenance.json"))?;
        let steps = &statement["predicate"]["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"];
        let text = steps.to_string();
        ensure!(text.contains(&format!("\"src\":\"{file}\"")), "{platform}: {text}");
    }
    let facts = read_json(&facts)?;
    for platform in ["linux/amd64", "linux/arm64"] {
        let key = format!("buildx.build.provenance/{platform}");
        ensure!(
            facts[&key]["invocation"]["parameters"]["frontend"] == "dockerfile.v0",
            "{facts}"
        );
    }
    Ok(())
}

#[test]
fn a_build_from_a_repository_is_complete() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let dockerfile = "FROM alpine\nCOPY file /f\nRUN --network=none true\n";
    let repository = Repository::new(&bench.lab, "served/a.git", &[("Dockerfile", dockerfile), ("file", "x")])?;
    let commit = repository.git(&["rev-parse", "HEAD"])?.trim().to_owned();
    repository.git(&["update-server-info"])?;
    let server = GitHttp::start(&bench.lab.path("served"), None)?;
    let context = format!("http://{}/a.git#main", server.address());
    let dir = bench.lab.path("from-git");
    let program = bench
        .buildx
        .build()?
        .args(["--provenance=mode=max,complete-materials=true"]);
    let program = program.args(["-o", &format!("type=local,dest={}", dir.display()), &context]);
    program.output()?;
    let statement = read_json(&dir.join("provenance.json"))?;
    let definition = &statement["predicate"]["buildDefinition"];
    let source = &definition["externalParameters"]["configSource"];
    ensure!(
        source["uri"] == context.as_str() && source["digest"]["sha1"] == commit.as_str(),
        "{source}"
    );
    let used = &definition["resolvedDependencies"];
    ensure!(
        used[0]["uri"] == "pkg:docker/alpine@latest?platform=linux%2Famd64",
        "{used}"
    );
    ensure!(
        used[1] == json!({ "uri": context, "digest": { "sha1": commit } }),
        "{used}"
    );
    let metadata = &statement["predicate"]["runDetails"]["metadata"];
    ensure!(
        metadata["buildkit_completeness"]["resolvedDependencies"] == true,
        "{metadata}"
    );
    ensure!(metadata["buildkit_hermetic"] == true, "{metadata}");
    Ok(())
}

#[test]
fn records_of_builds_say_how_results_were_made_although_nobody_asked() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let facts = bench.lab.path("facts.json");
    let option = facts.display().to_string();
    bench
        .build(&["--metadata-file", &option, "--provenance=false"])?
        .output()?;
    let facts = read_json(&facts)?;
    let told = &facts["buildx.build.provenance"];
    let web = bench.server.url("/f.txt");
    let used = ["pkg:docker/alpine@latest?platform=linux%2Famd64", &web];
    ensure!(uris(&told["materials"])? == used, "{facts}");
    ensure!(
        told["invocation"]["parameters"]["args"]["build-arg:WHO"] == "you",
        "{facts}"
    );

    let inspected: Value = serde_json::from_str(&bench.history(&["inspect", "--format", "json"])?)?;
    ensure!(inspected["Materials"][0]["URI"] == used[0], "{inspected}");
    let attachment = &inspected["Attachments"][0];
    ensure!(
        attachment["Type"]
            .as_str()
            .is_some_and(|kind| kind.starts_with("https://slsa.dev/provenance/")),
        "{inspected}"
    );
    let digest = attachment["Digest"].as_str().context("no digest")?;
    let id = inspected["Ref"].as_str().context("no id")?;
    let blob: Value = serde_json::from_str(&bench.history(&["inspect", "attachment", id, digest])?)?;
    ensure!(blob["buildConfig"]["llbDefinition"].is_array(), "{blob}");

    let blobs = bench.lab.path("root/history/blobs/sha256");
    let file = blobs.join(digest.trim_start_matches("sha256:"));
    ensure!(file.exists(), "{}", file.display());
    bench.history(&["rm", id])?;
    ensure!(!file.exists(), "the record is gone, its provenance is not");

    bench
        .build(&["--build-arg", "BUILDKIT_HISTORY_PROVENANCE_V1=1"])?
        .output()?;
    let inspected: Value = serde_json::from_str(&bench.history(&["inspect", "--format", "json"])?)?;
    let kind = &inspected["Attachments"][0]["Type"];
    ensure!(kind == "https://slsa.dev/provenance/v1", "{inspected}");
    Ok(())
}
