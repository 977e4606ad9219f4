//! Caches in registries, in directories and inside images, made by one daemon and used by another.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_proto::control::StatusRequest;
use cairn_proto::gateway::{CacheOptionsEntry, SolveRequest};
use cairn_tests::driven::{self, Driven, PATIENCE};
use cairn_tests::lab;
use cairn_tests::llb::{Graph, make_file};
use cairn_tests::{Buildx, Cairn, Daemon, Lab, Need, Progress, Registry};
use serde_json::Value;

const NEEDS: &[Need] = &[Need::Containers, Need::Bases];
const WITH_BUILDX: &[Need] = &[Need::Containers, Need::Bases, Need::Sid];

const DOCKERFILE: &str = "\
FROM alpine AS builder
WORKDIR /src
COPY a.txt .
RUN cat a.txt > /out-a && date +%s%N > /other
FROM alpine
COPY --from=builder /out-a /a
COPY b.txt /b
RUN cat /a /b > /ab
";

/// A context, a registry, and daemons that know both, one after another.
struct Scene {
    registry: Registry,
    context: PathBuf,
    buildx: OnceCell<Buildx>,
    // Goes last: what runs in it has to end first.
    lab: Lab,
}

impl Scene {
    fn new(needs: &[Need]) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(needs)? else {
            return Ok(None);
        };
        let registry = Registry::start(&lab)?;
        let files = [("Dockerfile", DOCKERFILE), ("a.txt", "a\n"), ("b.txt", "b\n")];
        let context = lab.files("context", &files)?;
        let buildx = OnceCell::new();
        Ok(Some(Self {
            lab,
            registry,
            context,
            buildx,
        }))
    }

    /// A daemon that knows nothing yet.
    fn fresh(&self, name: &str) -> anyhow::Result<Daemon> {
        let config = lab::base_registry().map(|registry| lab::mirror_config(&registry))?;
        let config = format!("{config}\n{}", self.registry.config());
        Daemon::start_with(&self.lab, &self.lab.path(name), &config)
    }

    fn edit(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.context.join(name), text)?)
    }

    fn cache(&self) -> String {
        format!("type=registry,ref={}/cache:1", self.registry.address())
    }

    /// Builds with `args`, and returns what was told.
    fn build(&self, daemon: &Daemon, args: &[&str]) -> anyhow::Result<Progress> {
        let context = self.context.display().to_string();
        let args = args.iter().copied().chain([context.as_str()]);
        Ok(Cairn::with(&self.lab, daemon).build(args)?.progress)
    }

    /// The same by Docker's client.
    fn buildx(&self, daemon: &Daemon, args: &[&str]) -> anyhow::Result<Progress> {
        // All daemons have the same address.
        let buildx = match self.buildx.get() {
            Some(known) => known,
            None => {
                let made = Buildx::remote(&self.lab, daemon)?;
                self.buildx.get_or_init(|| made)
            }
        };
        let build = buildx.command(["build", "--progress", "rawjson"])?.args(args);
        let done = build.args([&self.context]).run()?.success()?;
        Ok(Progress::parse(done.stderr.lines()))
    }

    /// Builds once more and checks what comes out.
    fn expect_result(&self, daemon: &Daemon, args: &[&str], expected: &str) -> anyhow::Result<Progress> {
        let out = self.lab.path("out");
        let output = format!("type=local,dest={}", out.display());
        let args: Vec<&str> = args.iter().copied().chain(["-o", output.as_str()]).collect();
        let progress = self.build(daemon, &args)?;
        let made = std::fs::read_to_string(out.join("ab"))?;
        ensure!(made == expected, "{made:?} instead of {expected:?}");
        Ok(progress)
    }

    fn manifest(&self) -> anyhow::Result<Value> {
        let image = format!("docker://{}/cache:1", self.registry.address());
        let text = cairn_tests::Program::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", &image])
            .output()?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// Directories of layers that were unpacked.
fn unpacked(daemon: &Daemon) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(daemon.root().join("worker/layers/layers"))?.count())
}

/// Bytes of the largest blob that the daemon has.
fn largest_blob(root: &Path) -> u64 {
    let files = walkdir::WalkDir::new(root.join("worker/content")).into_iter().flatten();
    let sizes = files.filter_map(|entry| Some(entry.metadata().ok().filter(std::fs::Metadata::is_file)?.len()));
    sizes.max().unwrap_or(0)
}

fn expect_nothing_ran(progress: &Progress) -> anyhow::Result<()> {
    ensure!(progress.executed().is_empty(), "{:?} ran", progress.executed());
    ensure!(!progress.cached().is_empty(), "{:#?}", progress.names());
    Ok(())
}

fn expect_ran(progress: &Progress, steps: &[&str]) -> anyhow::Result<()> {
    let ran = progress.executed();
    let fits = ran.len() == steps.len() && steps.iter().all(|step| ran.iter().any(|name| name.contains(step)));
    let logs: Vec<&str> = progress.vertices().iter().map(|vertex| vertex.log.as_str()).collect();
    ensure!(fits, "{ran:?} ran, not {steps:?}: {logs:?}");
    Ok(())
}

#[test]
fn a_registry_keeps_everything_that_another_daemon_needs() -> anyhow::Result<()> {
    let Some(scene) = Scene::new(NEEDS)? else { return Ok(()) };
    let cache = scene.cache();
    let exported = scene.build(&scene.fresh("first")?, &["--cache-to", &format!("{cache},mode=max")])?;
    let export = exported.vertex("exporting cache to registry");
    ensure!(export.error.is_empty(), "{}", export.error);
    let max = scene.manifest()?["layers"].as_array().context("no layers")?.len();

    let second = scene.fresh("second")?;
    let progress = scene.build(&second, &["--cache-from", &cache])?;
    expect_nothing_ran(&progress)?;
    let import = progress.vertex("importing cache manifest from");
    ensure!(import.error.is_empty(), "{}", import.error);
    ensure!(unpacked(&second)? == 0, "layers were unpacked for nothing");
    ensure!(largest_blob(second.root()) < 1 << 20, "layers were fetched for nothing");
    // What was taken over is known from now on.
    expect_nothing_ran(&scene.build(&second, &["--cache-from", &cache])?)?;

    scene.edit("b.txt", "new b\n")?;
    let progress = scene.expect_result(&second, &["--cache-from", &cache], "a\nnew b\n")?;
    expect_ran(&progress, &["COPY b.txt", "RUN cat /a"])?;
    scene.edit("a.txt", "new a\n")?;
    let progress = scene.expect_result(&second, &["--cache-from", &cache], "new a\nnew b\n")?;
    expect_ran(
        &progress,
        &["COPY a.txt", "RUN cat a.txt", "COPY --from", "COPY b.txt", "RUN cat /a"],
    )?;
    drop(second);

    // Exported again by somebody who has never seen the layers, and with less in it.
    scene.edit("a.txt", "a\n")?;
    scene.edit("b.txt", "b\n")?;
    let third = scene.fresh("third")?;
    let progress = scene.build(&third, &["--cache-from", &cache, "--cache-to", &cache])?;
    expect_nothing_ran(&progress)?;
    ensure!(
        largest_blob(third.root()) < 1 << 20,
        "layers were fetched to be exported to where they are"
    );
    let min = scene.manifest()?["layers"].as_array().context("no layers")?.len();
    ensure!(0 < min && min < max, "{min} layers with mode=min, {max} with mode=max");
    drop(third);
    let fourth = scene.fresh("fourth")?;
    expect_nothing_ran(&scene.build(&fourth, &["--cache-from", &cache])?)?;
    scene.edit("b.txt", "newest b\n")?;
    let progress = scene.expect_result(&fourth, &["--cache-from", &cache], "a\nnewest b\n")?;
    expect_ran(&progress, &["COPY b.txt", "RUN cat /a"])
}

/// Fails where the registry was asked for the bytes of a blob of at least `size` bytes since its log had `before` lines.
fn expect_no_download(scene: &Scene, before: usize, size: u64) -> anyhow::Result<()> {
    for request in scene.registry.requests()?.iter().skip(before) {
        let Some((_, digest)) = request
            .strip_prefix("\"GET ")
            .and_then(|rest| rest.split_once("/blobs/"))
        else {
            continue;
        };
        let digest = digest.split([' ', '?']).next().unwrap_or_default();
        let bytes = scene.registry.blob_file(digest)?.metadata()?.len();
        ensure!(bytes < size, "{bytes} bytes were fetched for nothing: {request}");
    }
    Ok(())
}

/// Requests by which blobs were taken from `repository`.
fn mounts(scene: &Scene, before: usize, repository: &str) -> anyhow::Result<usize> {
    let from = format!("from={}", repository.replace('/', "%2F"));
    let requests = scene.registry.requests()?;
    let mounts = requests.iter().skip(before);
    let mounts = mounts.filter(|request| request.contains("mount=") && request.contains(&from));
    Ok(mounts.filter(|request| request.contains("\" 201")).count())
}

#[test]
fn images_of_cached_results_are_pushed_without_fetching_what_the_registry_has() -> anyhow::Result<()> {
    let Some(scene) = Scene::new(NEEDS)? else { return Ok(()) };
    let cache = scene.cache();
    let output = |name: &str| format!("type=image,name={}/{name},push=true", scene.registry.address());
    scene.build(
        &scene.fresh("first")?,
        &[
            "--cache-to",
            &format!("{cache},mode=max"),
            "-o",
            &output("first/image:1"),
        ],
    )?;
    let layers = scene.registry.inspect("first/image:1")?["Layers"].clone();
    let count = layers.as_array().context("no layers")?.len();

    // To a repository that has nothing: the registry takes all from where the cache is.
    let second = scene.fresh("second")?;
    let before = scene.registry.requests()?.len();
    let progress = scene.build(&second, &["--cache-from", &cache, "-o", &output("other/image:1")])?;
    expect_nothing_ran(&progress)?;
    expect_no_download(&scene, before, 8 << 10)?;
    ensure!(
        mounts(&scene, before, "cache")? == count,
        "{:#?}",
        scene.registry.requests()?
    );
    ensure!(unpacked(&second)? == 0, "layers were unpacked for nothing");
    ensure!(largest_blob(second.root()) < 8 << 10, "layers were fetched for nothing");
    ensure!(
        scene.registry.inspect("other/image:1")?["Layers"] == layers,
        "another image"
    );
    // To one that has everything.
    let before = scene.registry.requests()?.len();
    scene.build(&second, &["--cache-from", &cache, "-o", &output("first/image:2")])?;
    expect_no_download(&scene, before, 8 << 10)?;
    ensure!(mounts(&scene, before, "cache")? == 0, "what was there was mounted");
    // What is needed here is fetched, and only that: an archive has no use for directories.
    let archive = scene.lab.path("image.tar");
    let to_archive = format!("type=oci,dest={}", archive.display());
    let progress = scene.build(&second, &["--cache-from", &cache, "-o", &to_archive])?;
    expect_nothing_ran(&progress)?;
    ensure!(unpacked(&second)? == 0, "layers were unpacked for an archive");
    ensure!(archive.metadata()?.len() > 1 << 20, "the archive lacks layers");
    drop(second);

    // Recompressed layers are others.
    let third = scene.fresh("third")?;
    let zstd = format!("{},compression=zstd,force-compression=true", output("zstd/image:1"));
    expect_nothing_ran(&scene.build(&third, &["--cache-from", &cache, "-o", &zstd])?)?;
    ensure!(
        scene.registry.inspect("zstd/image:1")?["Layers"] != layers,
        "nothing was recompressed"
    );
    drop(third);

    // What the registry has lost is made again.
    for layer in scene.manifest()?["layers"].as_array().context("no layers")? {
        let digest = layer["digest"].as_str().context("no digest")?;
        std::fs::remove_file(scene.registry.blob_file(digest)?)?;
    }
    let fourth = scene.fresh("fourth")?;
    scene.build(&fourth, &["--cache-from", &cache, "-o", &output("again/image:1")])?;
    let again = scene.registry.inspect("again/image:1")?;
    ensure!(again["Layers"].as_array().map(Vec::len) == Some(count), "{again}");
    Ok(())
}

#[test]
fn what_was_pulled_or_pushed_elsewhere_in_a_registry_is_not_sent_again() -> anyhow::Result<()> {
    let Some(scene) = Scene::new(NEEDS)? else { return Ok(()) };
    scene.registry.copy_base("library/alpine:latest")?;
    let dockerfile = format!(
        "FROM {}/library/alpine:latest\nCOPY a.txt b.txt /\n",
        scene.registry.address()
    );
    scene.edit("Dockerfile", &dockerfile)?;
    let daemon = scene.fresh("daemon")?;
    let output = |name: &str| format!("type=image,name={}/{name},push=true", scene.registry.address());
    let before = scene.registry.requests()?.len();
    scene.build(&daemon, &["-o", &output("team/app:1")])?;
    ensure!(
        mounts(&scene, before, "library/alpine")? == 1,
        "{:#?}",
        scene.registry.requests()?
    );
    let uploads = |before: usize| -> anyhow::Result<usize> {
        let requests = scene.registry.requests()?;
        Ok(requests
            .iter()
            .skip(before)
            .filter(|request| request.starts_with("\"PUT ") && request.contains("/blobs/uploads/"))
            .count())
    };
    ensure!(uploads(before)? == 2, "more than a layer and a config was sent");
    // The neighbour has all of it, and is asked first; a restarted daemon still knows.
    drop(daemon);
    let daemon = scene.fresh("daemon")?;
    let before = scene.registry.requests()?.len();
    scene.build(&daemon, &["-o", &output("team/copy:1")])?;
    ensure!(
        mounts(&scene, before, "team/app")? == 3,
        "{:#?}",
        scene.registry.requests()?
    );
    ensure!(uploads(before)? == 0, "something was sent again");
    Ok(())
}

#[test]
fn docker_s_client_uses_every_kind_of_cache() -> anyhow::Result<()> {
    let Some(scene) = Scene::new(WITH_BUILDX)? else {
        return Ok(());
    };
    let registry = scene.cache();
    let list = format!("{registry},image-manifest=false,oci-mediatypes=false,mode=max");
    let dir = scene.lab.path("local-cache");
    let (to_dir, from_dir) = (
        format!("type=local,dest={},mode=max", dir.display()),
        format!("type=local,src={}", dir.display()),
    );
    let image = format!("{}/image:1", scene.registry.address());
    let from_image = format!("type=registry,ref={image}");
    let output = format!("type=image,name={image},push=true");
    for (number, (to, from)) in [
        (vec!["--cache-to", &list], &registry),
        (vec!["--cache-to", &to_dir], &from_dir),
        (vec!["--cache-to", "type=inline", "-o", &output], &from_image),
    ]
    .into_iter()
    .enumerate()
    {
        scene.edit("b.txt", "b\n")?;
        scene.buildx(&scene.fresh(&format!("first-{number}"))?, &to)?;
        let second = scene.fresh(&format!("second-{number}"))?;
        let progress = scene.buildx(&second, &["--cache-from", from])?;
        expect_nothing_ran(&progress).with_context(|| from.clone())?;
        ensure!(unpacked(&second)? == 0, "layers of {from} were unpacked for nothing");
        scene.edit("b.txt", "new b\n")?;
        let progress = scene.buildx(&second, &["--cache-from", from])?;
        expect_ran(&progress, &["COPY b.txt", "RUN cat /a"]).with_context(|| from.clone())?;
    }
    Ok(())
}

#[test]
fn a_directory_is_a_cache_and_keeps_several() -> anyhow::Result<()> {
    let Some(scene) = Scene::new(NEEDS)? else { return Ok(()) };
    let dir = scene.lab.path("local-cache");
    let to = format!("type=local,dest={},mode=max", dir.display());
    let from = format!("type=local,src={}", dir.display());
    {
        let first = scene.fresh("first")?;
        scene.build(&first, &["--cache-to", &to])?;
        scene.edit("b.txt", "other b\n")?;
        scene.build(
            &first,
            &[
                "--cache-to",
                &format!("{to},tag=other,compression=zstd,force-compression=true"),
            ],
        )?;
    }
    let second = scene.fresh("second")?;
    expect_nothing_ran(&scene.build(&second, &["--cache-from", &format!("{from},tag=other")])?)?;
    scene.edit("b.txt", "b\n")?;
    expect_nothing_ran(&scene.expect_result(&second, &["--cache-from", &from], "a\nb\n")?)?;
    // The directory is gone: whoever needs its layers makes them.
    drop(second);
    let third = scene.fresh("third")?;
    expect_nothing_ran(&scene.build(&third, &["--cache-from", &from])?)?;
    std::fs::remove_dir_all(&dir)?;
    scene.edit("b.txt", "new b\n")?;
    let progress = scene.expect_result(&third, &[], "a\nnew b\n")?;
    expect_ran(
        &progress,
        &[
            "WORKDIR",
            "COPY a.txt",
            "RUN cat a.txt",
            "COPY --from",
            "COPY b.txt",
            "RUN cat /a",
        ],
    )?;
    let progress = scene.expect_result(&third, &["--cache-from", &from], "a\nnew b\n")?;
    expect_nothing_ran(&progress)?;
    let import = progress.vertex("importing cache manifest from");
    ensure!(import.error.contains("requires digest"), "{:?}", import.error);
    Ok(())
}

#[test]
fn what_is_missing_in_the_registry_is_made_again() -> anyhow::Result<()> {
    let Some(scene) = Scene::new(NEEDS)? else { return Ok(()) };
    let cache = scene.cache();
    scene.build(&scene.fresh("first")?, &["--cache-to", &format!("{cache},mode=max")])?;
    let layers = scene.manifest()?["layers"].as_array().context("no layers")?.clone();
    for layer in &layers {
        let digest = layer["digest"].as_str().context("no digest")?;
        std::fs::remove_file(scene.registry.blob_file(digest)?)?;
    }
    let second = scene.fresh("second")?;
    // Nothing of it is looked into.
    expect_nothing_ran(&scene.build(&second, &["--cache-from", &cache])?)?;
    scene.edit("b.txt", "new b\n")?;
    scene.expect_result(&second, &["--cache-from", &cache], "a\nnew b\n")?;
    expect_nothing_ran(&scene.build(&second, &["--cache-from", &cache])?)
}

#[test]
fn caches_that_cannot_be_had_are_told_of_and_fail_nothing() -> anyhow::Result<()> {
    let Some(scene) = Scene::new(NEEDS)? else { return Ok(()) };
    let daemon = scene.fresh("root")?;
    let missing = format!("{}/nowhere:1", scene.registry.address());
    for (cache, told) in [
        (
            "type=registry,ref=localhost:1/cache:1",
            "failed to configure registry cache importer",
        ),
        (&format!("type=registry,ref={missing}"), "not found"),
        ("type=s3,bucket=b,region=r", "not supported by this daemon yet"),
        ("type=abacus", "unknown cache importer: abacus"),
    ] {
        let progress = scene.build(&daemon, &["--cache-from", cache])?;
        let import = progress.vertex("importing cache manifest from");
        ensure!(import.error.contains(told), "{cache}: {:?}", import.error);
    }
    let cairn = Cairn::with(&scene.lab, &daemon);
    let context = scene.context.display().to_string();
    for (args, told) in [
        (vec!["--cache-to", "type=gha"], "not supported by this daemon yet"),
        (vec!["--cache-to", "type=abacus"], "unknown cache exporter: \"abacus\""),
        (
            vec!["--cache-to", "type=registry,ref=x/y,compression=lzma"],
            "failed to configure registry cache exporter: unsupported compression type lzma",
        ),
        (
            vec![
                "--cache-to",
                "type=registry,ref=x/y,oci-mediatypes=false,image-manifest=true",
            ],
            "OCI mediatypes are required for image-manifest cache format",
        ),
        (
            vec!["--cache-to", "x/y", "--cache-to", "docker.io/x/y:latest"],
            "duplicate cache exports [registry]",
        ),
        (vec!["--cache-to", "localhost:1/cache:1"], "localhost:1"),
    ] {
        let outcome = cairn.try_build(args.iter().copied().chain([context.as_str()]))?;
        ensure!(
            outcome.code != 0 && outcome.remarks.contains(told),
            "{args:?}: {}",
            outcome.remarks
        );
    }
    scene.build(
        &daemon,
        &["--cache-to", "type=registry,ref=localhost:1/cache:1,ignore-error=true"],
    )?;
    Ok(())
}

/// Clients that drive their builds repeat in each call what a frontend is told of by its options.
#[tokio::test(flavor = "multi_thread")]
async fn frontends_are_told_of_caches_by_their_options_alone() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let mut driven = Driven::start(&daemon, "driven").await?;
    let import = |source: &str| CacheOptionsEntry {
        r#type: "local".to_owned(),
        attrs: [("src".to_owned(), source.to_owned())].into(),
    };
    let asked = driven.request(SolveRequest {
        frontend: "dockerfile.v0".to_owned(),
        frontend_opt: [("requestid".to_owned(), "frontend.subrequests.describe".to_owned())].into(),
        cache_imports: vec![import("of-a-frontend")],
        ..SolveRequest::default()
    });
    // There is no client that it could ask for a Dockerfile.
    ensure!(driven.bridge.solve(asked).await.is_err());
    let mut graph = Graph::default();
    let nothing = graph.add(&make_file("/d", "d"));
    let asked = driven.request(SolveRequest {
        definition: Some(graph.asking_for(&nothing, 0)),
        cache_imports: vec![import("of-a-definition")],
        ..SolveRequest::default()
    });
    driven.bridge.solve(asked).await?;
    let request = StatusRequest {
        r#ref: "driven".to_owned(),
    };
    let mut events = driven::control(&daemon).await?.status(request).await?.into_inner();
    let mut names = Vec::new();
    while !names.iter().any(|name: &String| name.contains("of-a-definition")) {
        let event = tokio::time::timeout(PATIENCE, events.message()).await??;
        let event = event.with_context(|| format!("only {names:?} were told of"))?;
        names.extend(event.vertexes.into_iter().map(|vertex| vertex.name));
    }
    ensure!(!names.iter().any(|name| name.contains("of-a-frontend")), "{names:?}");
    Ok(())
}
