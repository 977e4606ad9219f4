//! What is exported is what Docker Engine's BuildKit exports, asked by the same client with the same options; and what
//! makes no sense is refused in words that are known from there.
//!
//! The engine is older than the API that is served here. Where that is why they differ, `normalised` says so.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_tests::{Buildx, Daemon, Engine, Lab, Need, Program};
use serde_json::{Map, Value};

const NEEDS: &[Need] = &[Need::Containers, Need::Sid];
/// Builds that are asked for at the same time.
const AT_ONCE: usize = 9;
const PLATFORMS: &str = "linux/amd64,linux/arm64";
/// Nothing is run, so that it is built for every platform.
const DOCKERFILE: &str = "FROM scratch AS base\n\
    ARG TARGETARCH\n\
    COPY --chown=5:6 greet /greet\n\
    FROM base\n\
    COPY --chmod=4711 dir /dir-$TARGETARCH\n\
    ENV A=b\n\
    LABEL l=m\n\
    EXPOSE 80\n\
    ENTRYPOINT [\"/greet\"]\n\
    CMD [\"x\"]\n";

struct Peers {
    ours: Buildx,
    theirs: Buildx,
    context: PathBuf,
    _daemon: Daemon,
    _engine: Engine,
    lab: Lab,
}

/// How one build ended.
struct Built {
    error: Option<String>,
    metadata: Value,
    out: PathBuf,
}

impl Peers {
    fn open() -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(NEEDS)? else {
            return Ok(None);
        };
        let (daemon, engine) = (Daemon::start(&lab)?, Engine::start_with_image_store(&lab)?);
        let files = [
            ("Dockerfile", DOCKERFILE),
            ("greet", "hello\n"),
            ("dir/sub/file", "file\n"),
        ];
        let context = lab.files("context", &files)?;
        std::os::unix::fs::symlink("sub/file", context.join("dir/link"))?;
        // Whole seconds: plain tars have no others, and the engine rounds where this daemon cuts.
        let touch = Program::new("touch").dir(&context).args(["-h", "-d", "@1600000000"]);
        touch.args(["greet", "dir/link", "dir/sub/file"]).output()?;
        Ok(Some(Self {
            ours: Buildx::remote(&lab, &daemon)?,
            theirs: Buildx::engine(&lab, &engine)?,
            context,
            _daemon: daemon,
            _engine: engine,
            lab,
        }))
    }

    /// Builds; `OUT` in an option is where the result goes.
    fn build(&self, buildx: &Buildx, name: &str, args: &[&str]) -> anyhow::Result<Built> {
        let dir = tempfile::Builder::new().prefix(name).tempdir_in(self.lab.dir())?.keep();
        let (out, metadata) = (dir.join("out"), dir.join("metadata.json"));
        let place = out.display().to_string();
        let args = args.iter().map(|arg| arg.replace("OUT", &place));
        let build = buildx.command(["build", "--progress", "plain", "--metadata-file"])?;
        let finished = build.args([&metadata]).args(args).args([&self.context]).run()?;
        let error = finished.stderr.lines().find(|line| line.starts_with("ERROR: "));
        ensure!(finished.status.success() || error.is_some(), "{}", finished.stderr);
        let metadata = std::fs::read(metadata).map_or(Ok(Value::Null), |text| serde_json::from_slice(&text))?;
        Ok(Built {
            error: error.map(str::to_owned),
            metadata,
            out,
        })
    }

    /// Builds on both.
    fn both(&self, args: &[&str]) -> anyhow::Result<(Built, Built)> {
        Ok((
            self.build(&self.ours, "ours", args)?,
            self.build(&self.theirs, "theirs", args)?,
        ))
    }
}

/// The files of a tar, a line each. Directories that a step has made have times of their own.
fn listed(tar: &Path, with_times: bool) -> anyhow::Result<Vec<String>> {
    let list = Program::new("tar").env("TZ", "UTC");
    let list = list.args(["--list", "--verbose", "--numeric-owner", "--full-time", "-f"]);
    let text = list.args([tar]).output()?;
    let shown = text.lines().map(|line| {
        let is_timed = with_times || !line.starts_with('d');
        let words = line.split_whitespace().enumerate();
        let words = words.filter(|(index, _)| is_timed || !(3..5).contains(index));
        words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    });
    Ok(shown.collect())
}

/// The files of a directory, a line each; what holds statements, by name only.
fn found(dir: &Path) -> anyhow::Result<Vec<String>> {
    let list = Program::new("find").dir(dir).env("TZ", "UTC");
    let list = list.args([".", "-type", "d", "-printf", "%y %m %U:%G %P\\n", "-o"]);
    let list = list.args(["-name", "*.json", "-printf", "%y %m %U:%G %P\\n", "-o"]);
    let text = list.args(["-printf", "%y %m %U:%G %s %T+ %P %l\\n"]).output()?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    Ok(lines)
}

/// Everything in an OCI layout in a tar: manifests, configs, statements, and what layers hold.
fn layout(tar: &Path, with_times: bool) -> anyhow::Result<Vec<String>> {
    let dir = tar.with_extension("layout");
    tar::Archive::new(std::fs::File::open(tar)?).unpack(&dir)?;
    let index: Value = serde_json::from_slice(&std::fs::read(dir.join("index.json"))?)?;
    let mut lines = Vec::new();
    for entry in index["manifests"].as_array().context("no manifests")? {
        document(&dir, entry, with_times, &mut lines)?;
    }
    Ok(lines)
}

fn document(dir: &Path, descriptor: &Value, with_times: bool, lines: &mut Vec<String>) -> anyhow::Result<()> {
    lines.extend(format!("{:#}", normalised(descriptor)).lines().map(str::to_owned));
    let digest = descriptor["digest"].as_str().context("no digest")?;
    let blob = dir.join("blobs").join(digest.replace(':', "/"));
    let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
    if media_type.contains("layer") || media_type.contains("rootfs") {
        lines.extend(listed(&blob, with_times)?);
        return Ok(());
    }
    let mut json: Value = serde_json::from_slice(&std::fs::read(&blob)?)?;
    let fields = json.as_object_mut().context("no object")?;
    let config = fields.remove("config").filter(|config| config.get("digest").is_some());
    let parts = ["manifests", "layers"].map(|key| fields.remove(key));
    if let (None, Some(own)) = (&config, descriptor.get("mediaType")) {
        // A config or an index, and not a manifest: its own `config` is no descriptor.
        let whole: Value = serde_json::from_slice(&std::fs::read(&blob)?)?;
        if own
            .as_str()
            .is_some_and(|own| !own.contains("index") && !own.contains("list"))
        {
            json = whole;
        }
    }
    lines.extend(format!("{:#}", normalised(&json)).lines().map(str::to_owned));
    let parts = parts.into_iter().flatten();
    let parts = parts.flat_map(|part| part.as_array().cloned().unwrap_or_default());
    for part in config.into_iter().chain(parts) {
        document(dir, &part, with_times, lines)?;
    }
    Ok(())
}

/// What is to be the same: no digests, sizes and times of this moment, and nothing that only a newer daemon tells.
fn normalised(value: &Value) -> Value {
    // The engine has an older version of statements and of the frontend; it marks layers that it has rewritten.
    const LEFT_OUT: &[&str] = &[
        "_type",
        "buildkit/rewritten-timestamp",
        "digestMapping",
        "dockerfileVersion",
        "invocationId",
        "layers",
        "locations",
        "moby.buildkit.cache.v0",
        "size",
    ];
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str()));
            let kept = fields.map(|(key, value)| (key.clone(), normalised(value)));
            // An object of nothing but what is left out is as good as none.
            let kept = kept.filter(|(_, value)| value.as_object().is_none_or(|fields| !fields.is_empty()));
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(normalised).collect(),
        Value::String(text) => Value::String(masked(text)),
        other => other.clone(),
    }
}

fn masked(text: &str) -> String {
    // Docker's types were the usual ones, and are OCI's now.
    for (docker, oci) in [
        ("vnd.docker.distribution.manifest.v2", "vnd.oci.image.manifest.v1"),
        ("vnd.docker.distribution.manifest.list.v2", "vnd.oci.image.index.v1"),
        ("vnd.docker.container.image.v1", "vnd.oci.image.config.v1"),
        (
            "vnd.docker.image.rootfs.diff.tar.gzip",
            "vnd.oci.image.layer.v1.tar+gzip",
        ),
    ] {
        if text.contains(docker) {
            return text.replace(docker, oci);
        }
    }
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_time = text.len() >= 20
        && text
            .parse::<jiff::Timestamp>()
            .is_ok_and(|time| time.as_second() > 1_700_000_000);
    match text.strip_prefix("sha256:").unwrap_or(text) {
        digest if hex(digest) => "<digest>".to_owned(),
        _ if is_time => "<time>".to_owned(),
        _ => text.to_owned(),
    }
}

/// What is the same in the client's summary: its keys, but for the client's own.
fn keys(metadata: &Value) -> Vec<&str> {
    let fields = metadata.as_object().into_iter().flatten();
    let keys = fields.map(|(key, _)| key.as_str());
    keys.filter(|key| !key.starts_with("buildx.")).collect()
}

#[test]
fn the_same_options_give_the_same_results() -> anyhow::Result<()> {
    let Some(peers) = Peers::open()? else { return Ok(()) };
    let annotations: &[&str] = &[
        "--annotation=a=1",
        "--annotation=index,manifest:b=2",
        "--annotation=manifest-descriptor:c=3",
        "--annotation=index-descriptor:d=4",
        "--annotation=manifest[linux/arm64]:e=5",
        "--platform",
        PLATFORMS,
    ];
    let max = "--provenance=mode=max,version=v1";
    let images: &[&[&str]] = &[
        &["-otype=oci,dest=OUT"],
        &["-ta/b", "-tc:2", "-otype=oci,dest=OUT"],
        &["-ta/b", "-tc:2", "-otype=docker,dest=OUT"],
        &["-otype=oci,dest=OUT,oci-mediatypes=false", "--platform", PLATFORMS],
        &["-otype=oci,dest=OUT,compression=zstd,force-compression=true"],
        &["-otype=oci,dest=OUT,compression=uncompressed,force-compression=true"],
        &["--annotation=a=1", "-otype=docker,dest=OUT"],
        &[
            "-otype=oci,dest=OUT,annotation-index[linux/amd64].g=1",
            "--platform",
            PLATFORMS,
        ],
        &[annotations, &["-otype=oci,dest=OUT"]].concat(),
        &["--build-arg=SOURCE_DATE_EPOCH=1500000000", "-otype=oci,dest=OUT"],
        &[
            "--build-arg=SOURCE_DATE_EPOCH=1500000000",
            "-otype=oci,dest=OUT,rewrite-timestamp=true",
        ],
        &["--cache-to=type=inline", "-otype=oci,dest=OUT"],
        &[
            max,
            "-ta:1",
            "--platform",
            PLATFORMS,
            "-otype=oci,dest=OUT,oci-artifact=true",
        ],
        &[
            "--provenance=mode=min,version=v1",
            "-ta:1",
            "-otype=oci,dest=OUT,oci-artifact=false",
        ],
        &[
            "--provenance=mode=max,version=v1,inline-only=true",
            "-otype=oci,dest=OUT",
        ],
    ];
    for args in images {
        let (ours, theirs) = peers.both(args).with_context(|| format!("{args:?}"))?;
        ensure!(
            (&ours.error, &theirs.error) == (&None, &None),
            "{args:?}: {:?} {:?}",
            ours.error,
            theirs.error
        );
        ensure!(
            keys(&ours.metadata) == keys(&theirs.metadata),
            "{args:?}: {:?}",
            ours.metadata
        );
        let with_times = args.iter().any(|arg| arg.contains("rewrite-timestamp"));
        let (mine, others) = (layout(&ours.out, with_times)?, layout(&theirs.out, with_times)?);
        same(args, &mine, &others)?;
        if with_times {
            let config = "containerimage.config.digest";
            let (ours, theirs) = (&ours.metadata[config], &theirs.metadata[config]);
            ensure!(
                !ours.is_null() && ours == theirs,
                "the same image has other ids: {ours} {theirs}"
            );
        }
        ensure!(
            listed(&ours.out, true)?.len() == listed(&theirs.out, true)?.len(),
            "{args:?}: blobs"
        );
    }

    let files: &[&[&str]] = &[
        &["-otype=tar,dest=OUT"],
        &["-otype=tar,dest=OUT", "--platform", PLATFORMS],
        &["-otype=tar,dest=OUT", "--build-arg=SOURCE_DATE_EPOCH=1500000000"],
        &["-otype=local,dest=OUT"],
        &["-otype=local,dest=OUT", "--platform", PLATFORMS],
        &["-otype=local,dest=OUT,platform-split=true"],
        &["-otype=local,dest=OUT", "--build-arg=SOURCE_DATE_EPOCH=1500000000"],
        &[
            max,
            "-otype=local,dest=OUT,attestation-prefix=of-",
            "--platform",
            PLATFORMS,
        ],
    ];
    for args in files {
        let (ours, theirs) = peers.both(args).with_context(|| format!("{args:?}"))?;
        ensure!(
            (&ours.error, &theirs.error) == (&None, &None),
            "{args:?}: {:?} {:?}",
            ours.error,
            theirs.error
        );
        let shown = |out: &Path| if out.is_dir() { found(out) } else { listed(out, false) };
        same(args, &shown(&ours.out)?, &shown(&theirs.out)?)?;
    }
    Ok(())
}

fn same(args: &[&str], ours: &[String], theirs: &[String]) -> anyhow::Result<()> {
    ensure!(!ours.is_empty(), "{args:?}: nothing came out");
    let only = |these: &[String], others: &[String]| {
        let only = these.iter().filter(|line| !others.contains(line));
        only.cloned().collect::<Vec<_>>().join("\n")
    };
    ensure!(
        ours == theirs,
        "{args:?}\nonly ours:\n{}\nonly theirs:\n{}",
        only(ours, theirs),
        only(theirs, ours)
    );
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_in_the_same_words() -> anyhow::Result<()> {
    let Some(peers) = Peers::open()? else { return Ok(()) };
    let output = |options: &str| format!("-otype=oci,dest=OUT,{options}");
    let image = |options: &str| format!("-otype=image,{options}");
    let cache = |options: &str| format!("--cache-to=type=registry,ref=127.0.0.1:1/x:1,{options}");
    let cases = [
        (output("compression=lzma"), "unsupported compression type lzma"),
        (
            output("compression-level=x"),
            "non-integer value x specified for compression-level",
        ),
        (
            output("force-compression=x"),
            "non-bool value x specified for force-compression",
        ),
        (
            output("oci-mediatypes=x"),
            "non-bool value specified for oci-mediatypes",
        ),
        (
            output("rewrite-timestamp=x"),
            "non-bool value specified for rewrite-timestamp",
        ),
        (output("tar=x"), "non-bool value specified for tar"),
        (output("oci-artifact="), "non-bool value specified for oci-artifact"),
        (output("compression="), "unsupported compression type "),
        (output("source-date-epoch=x"), "invalid source-date-epoch"),
        (output("annotation-layer.x=1"), "unrecognized annotation type layer"),
        (
            output("annotation[x].a=b"),
            "\"x\": unknown operating system or architecture: invalid argument",
        ),
        (
            output("annotation-index.a=b"),
            "index annotations not supported for single platform export",
        ),
        (output("name=a b"), "failed to parse a b: invalid reference format"),
        (
            image("name=127.0.0.1:1/x,push=true"),
            "dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        (image("push=x"), "non-bool value specified for push"),
        (image("store=x"), "non-bool value specified for store"),
        (image("name=*,push=true"), "invalid reference format"),
        (
            image("rewrite-timestamp=true,unpack=true,source-date-epoch=1"),
            "exporter option \"rewrite-timestamp\" conflicts with \"unpack\"",
        ),
        (
            "-otype=local,dest=OUT,platform-split=x".to_owned(),
            "non-bool value for platform-split: x",
        ),
        (
            "-otype=nothing,dest=OUT".to_owned(),
            "exporter \"nothing\" could not be found",
        ),
        (
            cache("compression=lzma"),
            "failed to configure registry cache exporter: unsupported compression type lzma",
        ),
        (
            cache("compression-level=x"),
            "non-integer value x specified for compression-level",
        ),
        (
            cache("force-compression=x"),
            "non-bool value x specified for force-compression",
        ),
        (cache("oci-mediatypes=x"), "failed to parse oci-mediatypes"),
        (cache("image-manifest=x"), "failed to parse image-manifest"),
        (
            cache("oci-mediatypes=false,image-manifest=true"),
            "OCI mediatypes are required for image-manifest cache format",
        ),
        ("--cache-to=type=s3,bucket=b,region=r".to_owned(), "s3"),
        ("--attest=type=x".to_owned(), "x"),
        ("--provenance=mode=x".to_owned(), "invalid mode \"x\""),
    ];
    // A client waits for seconds after a build was refused, so that several are asked at once.
    for some in cases.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let asked = some
                .iter()
                .map(|(option, words)| scope.spawn(|| refused(&peers, option, words)));
            let asked: Vec<_> = asked.collect();
            asked.into_iter().try_for_each(|asked| asked.join().expect("no panic"))
        })?;
    }
    Ok(())
}

/// Both refuse an option, with an error that has these words.
fn refused(peers: &Peers, option: &str, words: &str) -> anyhow::Result<()> {
    let output = (!option.starts_with("-o")).then_some("-otype=oci,dest=OUT");
    let args: Vec<&str> = output.into_iter().chain([option]).collect();
    let (ours, theirs) = peers.both(&args).with_context(|| option.to_owned())?;
    for (who, built) in [("ours", ours), ("theirs", theirs)] {
        let error = built.error.with_context(|| format!("{option}: {who}: no error"))?;
        ensure!(error.contains(words), "{option}: {who}: {error}");
    }
    Ok(())
}
