//! What clients may ask of results: Docker's own client asks, other people's programs look at what came out.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_tests::{Buildx, Cairn, Containerd, Daemon, Image, Lab, Need, Program, Registry};
use serde_json::Value;

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Sid, Need::Registry];

const DOCKERFILE: &str = "FROM alpine\n\
    RUN mkdir /data && seq 100000 > /data/numbers && ln -s numbers /data/link && ln /data/numbers /data/hard\n\
    COPY greet /greet\n\
    RUN rm /data/link\n\
    CMD [\"cat\", \"/greet\"]\n";

/// Needs nothing to be run, so that it is built for any platform.
const PORTABLE: &str = "FROM scratch\nARG TARGETARCH\nCOPY greet /greet\nCOPY only-$TARGETARCH /\nENV A=b\n";

const EPOCH: i64 = 1_000_000_000;

struct Bench {
    buildx: Buildx,
    registry: Registry,
    daemon: Daemon,
    lab: Lab,
}

impl Bench {
    fn open() -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(NEEDS)? else {
            return Ok(None);
        };
        let registry = Registry::start(&lab)?;
        let daemon = Daemon::start_configured(&lab, &registry.config())?;
        let buildx = Buildx::remote(&lab, &daemon)?;
        Ok(Some(Self {
            buildx,
            registry,
            daemon,
            lab,
        }))
    }

    fn context(&self, name: &str, dockerfile: &str) -> anyhow::Result<PathBuf> {
        let files = [
            ("Dockerfile", dockerfile),
            ("greet", "hello, world\n"),
            ("only-amd64", "amd64"),
            ("only-arm64", "arm64"),
        ];
        self.lab.files(name, &files)
    }

    /// Builds, and returns what the client was told.
    fn build(&self, context: &Path, args: &[&str]) -> anyhow::Result<Value> {
        let metadata = self.lab.path("metadata.json");
        let build = self
            .buildx
            .command(["build", "--progress", "plain", "--metadata-file"])?;
        build.args([&metadata]).args(args).args([context]).output()?;
        Ok(serde_json::from_str(&std::fs::read_to_string(metadata)?)?)
    }

    /// The manifest or index of an image in the registry, as it is.
    fn raw(&self, name: &str) -> anyhow::Result<Value> {
        let image = format!("docker://{}/{name}", self.registry.address());
        let text = Program::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", &image])
            .output()?;
        serde_json::from_str(&text).context("skopeo said something else than JSON")
    }
}

fn array<'a>(json: &'a Value, key: &str) -> anyhow::Result<&'a Vec<Value>> {
    json[key]
        .as_array()
        .with_context(|| format!("no list of {key} in {json}"))
}

#[test]
fn layers_of_every_compression_are_unpacked_by_others() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let context = bench.context("context", DOCKERFILE)?;
    let containerd = Containerd::start(&bench.lab)?;
    for (compression, level, suffix) in [
        ("uncompressed", "0", ""),
        ("gzip", "9", "+gzip"),
        ("zstd", "7", "+zstd"),
        ("estargz", "6", "+gzip"),
    ] {
        let tar = bench.lab.path(&format!("{compression}.tar"));
        let output = format!(
            "type=oci,dest={},compression={compression},compression-level={level},force-compression=true",
            tar.display()
        );
        let name = format!("docker.io/test/{compression}:1");
        bench.build(&context, &["-t", &name, "-o", &output])?;

        // containerd verifies every digest, and unpacks.
        let import = containerd
            .ctr()?
            .args(["image", "import", "--local", "--snapshotter", "native"]);
        import.args([&tar]).output()?;
        let mount = bench.lab.path(&format!("{compression}.mount"));
        std::fs::create_dir(&mount)?;
        let mounted = containerd
            .ctr()?
            .args(["image", "mount", "--snapshotter", "native", &name]);
        mounted.args([&mount]).output()?;
        let numbers = std::fs::read_to_string(mount.join("data/numbers"));
        let is_whole = mount.join("data/numbers").metadata().map(|metadata| metadata.nlink());
        let is_removed = mount.join("data/link").symlink_metadata().is_err();
        containerd.ctr()?.args(["image", "unmount"]).args([&mount]).output()?;
        ensure!(numbers?.lines().count() == 100_000, "{compression}");
        ensure!(is_whole? == 2 && is_removed, "{compression}");

        let archive = format!("oci-archive:{}", tar.display());
        let raw = Program::new("skopeo").args(["inspect", "--raw", &archive]).output()?;
        let manifest: Value = serde_json::from_str(&raw)?;
        for layer in array(&manifest, "layers")? {
            let want = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
            ensure!(layer["mediaType"] == want, "{compression}: {layer}");
            let toc = &layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"];
            ensure!(toc.is_string() == (compression == "estargz"), "{compression}: {layer}");
        }
        // umoci of Debian knows no zstd.
        if compression != "zstd" {
            let image = Image::from_oci(&bench.lab, &tar)?;
            ensure!(image.run()?.trim() == "hello, world", "{compression}");
        }
    }
    Ok(())
}

#[test]
fn annotations_stand_at_every_level() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let context = bench.context("context", PORTABLE)?;
    let name = format!("{}/annotated:1", bench.registry.address());
    let output = format!(
        "type=image,name={name},push=true,annotation.all=1,annotation[linux/arm64].arm=2,annotation-index.index=3,\
         annotation-manifest-descriptor[linux/amd64].entry=4,annotation-index-descriptor.outer=5"
    );
    let platforms = ["--platform", "linux/arm64,linux/amd64", "-o", &output];
    let told = bench.build(&context, &platforms)?;
    ensure!(
        told["containerimage.descriptor"]["annotations"]["outer"] == "5",
        "{told}"
    );
    ensure!(told["containerimage.config.digest"].is_null(), "{told}");
    let index = bench.raw("annotated:1")?;
    ensure!(
        index["mediaType"] == "application/vnd.oci.image.index.v1+json",
        "{index}"
    );
    ensure!(index["annotations"]["index"] == "3", "{index}");
    let manifests = array(&index, "manifests")?;
    ensure!(manifests.len() == 2, "{index}");
    for (entry, (arch, arm, annotation)) in manifests.iter().zip([("arm64", "2", None), ("amd64", "", Some("4"))]) {
        ensure!(entry["platform"]["architecture"] == arch, "{index}");
        ensure!(entry["annotations"]["entry"].as_str() == annotation, "{index}");
        let digest = entry["digest"].as_str().context("no digest")?;
        let manifest = bench.raw(&format!("annotated@{digest}"))?;
        ensure!(manifest["annotations"]["all"] == "1", "{manifest}");
        ensure!(
            manifest["annotations"]["arm"].as_str().unwrap_or_default() == arm,
            "{manifest}"
        );
    }
    // The layer that both have was sent once, and is the same.
    let first_layer = |entry: &Value| -> anyhow::Result<Value> {
        let digest = entry["digest"].as_str().context("no digest")?;
        Ok(bench.raw(&format!("annotated@{digest}"))?["layers"][0]["digest"].clone())
    };
    ensure!(first_layer(&manifests[0])? == first_layer(&manifests[1])?);

    let single = format!("type=image,name={name},push=true,annotation-index.index=3");
    let refused = bench.build(&context, &["-o", &single]).unwrap_err().to_string();
    ensure!(
        refused.contains("index annotations not supported for single platform export"),
        "{refused}"
    );
    let unknown = format!("type=image,name={name},push=true,annotation[linux/s390x].x=1");
    let refused = bench.build(&context, &["--platform", "linux/arm64,linux/amd64", "-o", &unknown]);
    let refused = refused.unwrap_err().to_string();
    ensure!(refused.contains("no platform linux/s390x found in source"), "{refused}");
    Ok(())
}

#[test]
fn the_same_steps_at_other_times_make_the_same_image() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let context = bench.context("context", DOCKERFILE)?;
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    for compression in ["gzip", "estargz"] {
        let digest = |tar: &Path| -> anyhow::Result<Value> {
            let output = format!(
                "type=oci,dest={},rewrite-timestamp=true,compression={compression}",
                tar.display()
            );
            let args = ["--no-cache", "--build-arg", &epoch, "-o", &output];
            Ok(bench.build(&context, &args)?["containerimage.digest"].clone())
        };
        let (one, two) = (bench.lab.path("one.tar"), bench.lab.path("two.tar"));
        ensure!(digest(&one)? == digest(&two)?, "{compression}");
        ensure!(std::fs::read(&one)? == std::fs::read(&two)?, "{compression}");
        let image = Image::from_oci(&bench.lab, &one)?;
        for path in ["/data/numbers", "/data", "/greet"] {
            let time = image.path(path).symlink_metadata()?.mtime();
            ensure!(time <= EPOCH, "{path} is of {time}");
        }
        let config = image.config();
        ensure!(config["created"] == "2001-09-09T01:46:40Z", "{config}");
        let history = array(config, "history")?;
        ensure!(
            history.last().context("no history")?["created"] == "2001-09-09T01:46:40Z",
            "{config}"
        );
    }
    Ok(())
}

#[test]
fn an_image_goes_into_a_directory_without_a_tar() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let context = bench.context("context", DOCKERFILE)?;
    let dir = bench.lab.path("layout");
    let output = format!("type=oci,tar=false,dest={}", dir.display());
    // The second time everything is there.
    for _ in 0..2 {
        let told = bench.build(&context, &["-t", "test/greet:1", "-o", &output])?;
        let image = Image::from_layout(&bench.lab, &dir, "1")?;
        ensure!(image.run()?.trim() == "hello, world");
        let index: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("index.json"))?)?;
        ensure!(
            index["manifests"][0]["digest"] == told["containerimage.digest"],
            "{index} {told}"
        );
    }
    let leftovers = dir.join("ingest").read_dir().map(Iterator::count).unwrap_or(0);
    ensure!(leftovers == 0, "{leftovers} unfinished blobs");
    let several = bench.lab.path("several");
    let output = format!("type=oci,tar=false,dest={}", several.display());
    bench.build(
        &bench.context("portable", PORTABLE)?,
        &["--platform", "linux/arm64,linux/amd64", "-o", &output],
    )?;
    let index: Value = serde_json::from_str(&std::fs::read_to_string(several.join("index.json"))?)?;
    ensure!(
        index["manifests"][0]["mediaType"] == "application/vnd.oci.image.index.v1+json",
        "{index}"
    );
    Ok(())
}

#[test]
fn files_of_platforms_are_apart_or_together() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let context = bench.context("context", PORTABLE)?;
    let platforms = ["--platform", "linux/arm64,linux/amd64", "-o"];
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let build = |output: &str| {
        let args = [&platforms[..], &[output, "--build-arg", &epoch]].concat();
        bench.build(&context, &args)
    };
    let apart = bench.lab.path("apart");
    build(&format!("type=local,dest={}", apart.display()))?;
    for arch in ["amd64", "arm64"] {
        let dir = apart.join(format!("linux_{arch}"));
        ensure!(std::fs::read_to_string(dir.join(format!("only-{arch}")))? == arch);
        ensure!(std::fs::metadata(dir.join("greet"))?.mtime() == EPOCH);
    }
    let tar = bench.lab.path("apart.tar");
    build(&format!("type=tar,dest={}", tar.display()))?;
    let listed = Program::new("tar")
        .args(["-tvf"])
        .args([&tar])
        .env("TZ", "UTC")
        .output()?;
    for path in ["linux_amd64/only-amd64", "linux_arm64/greet", "linux_arm64/"] {
        let line = listed.lines().find(|line| line.ends_with(&format!(" {path}")));
        ensure!(
            line.is_some_and(|line| line.contains("2001-09-09 01:46")),
            "{path}: {listed}"
        );
    }
    let together = format!(
        "type=local,platform-split=false,dest={}",
        bench.lab.path("together").display()
    );
    let refused = build(&together).unwrap_err().to_string();
    ensure!(
        refused.contains("cannot overwrite greet from linux/arm64 with linux/amd64 when split option is disabled"),
        "{refused}"
    );
    // With nothing in common they fit.
    let apart = "FROM scratch\nARG TARGETARCH\nCOPY only-$TARGETARCH /bin/\n";
    let context = bench.context("disjoint", apart)?;
    // Docker's client of today does not know that it could delete anything.
    let cairn = Cairn::with(&bench.lab, &bench.daemon);
    for mode in ["copy", "delete"] {
        let dir = bench.lab.path(&format!("together-{mode}"));
        std::fs::create_dir(&dir)?;
        std::fs::write(dir.join("old"), "")?;
        let output = format!("type=local,platform-split=false,mode={mode},dest={}", dir.display());
        let context = context.display().to_string();
        cairn.build([&platforms[..], &[&output, &context]].concat())?;
        let is_whole = dir.join("bin/only-amd64").exists() && dir.join("bin/only-arm64").exists();
        ensure!(is_whole && dir.join("old").exists() == (mode == "copy"), "{mode}");
    }
    let single = bench.lab.path("single");
    let output = format!("type=local,platform-split=true,dest={}", single.display());
    bench.build(&context, &["-o", &output])?;
    let listed: Vec<_> = single.read_dir()?.collect::<Result<_, _>>()?;
    ensure!(
        listed.len() == 1 && listed[0].file_name().to_string_lossy().starts_with("linux_"),
        "{listed:?}"
    );
    Ok(())
}

#[test]
fn one_build_has_several_outputs_and_names() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let context = bench.context("context", DOCKERFILE)?;
    let (tar, dir) = (bench.lab.path("image.tar"), bench.lab.path("files"));
    let name = format!("{}/several:1", bench.registry.address());
    let outputs = [
        format!("type=image,name={name},push=true,name-canonical=true,unpack=true,dangling-name-prefix=unnamed"),
        format!("type=oci,dest={}", tar.display()),
        format!("type=local,dest={}", dir.display()),
    ];
    let args: Vec<&str> = outputs.iter().flat_map(|output| ["-o", output]).collect();
    let told = bench.build(&context, &args)?;
    ensure!(std::fs::read_to_string(dir.join("greet"))? == "hello, world\n");
    ensure!(Image::from_oci(&bench.lab, &tar)?.run()?.trim() == "hello, world");
    ensure!(Image::from_registry(&bench.lab, &name)?.run()?.trim() == "hello, world");
    let digest = told["containerimage.digest"].as_str().context("no digest")?;
    ensure!(told["image.name"] == format!("{name},unnamed@{digest}"), "{told}");
    ensure!(bench.registry.inspect("several:1")?["Digest"] == digest);

    let refused = bench.build(&context, &["-o", "type=image,unpack=true,rewrite-timestamp=true"]);
    let refused = refused.unwrap_err().to_string();
    ensure!(
        refused.contains("\"rewrite-timestamp\" conflicts with \"unpack\""),
        "{refused}"
    );
    Ok(())
}
