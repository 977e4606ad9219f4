//! What comes out of a build, in every form, and who accepts it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_tests::{Cairn, Containerd, Daemon, Engine, Image, Lab, Need, Program, Registry};

const DOCKERFILE: &str = "FROM alpine\n\
    RUN mkdir -p /data/empty && echo one > /data/one && ln -s one /data/link && ln /data/one /data/hard \
        && chown 12:34 /data/one && chmod 4750 /data/one && echo two > /data/two\n\
    RUN rm /data/link && ln /data/two /data/later\n\
    COPY --chmod=755 greet /usr/bin/greet\n\
    ENV GREETING=hello\n\
    LABEL org.example.kind=test\n\
    STOPSIGNAL SIGINT\n\
    WORKDIR /data\n\
    CMD [\"greet\"]\n";

struct Bench {
    cairn: Cairn,
    _daemon: Daemon,
    context: String,
    lab: Lab,
}

impl Bench {
    fn open(needs: &[Need]) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(needs)? else {
            return Ok(None);
        };
        let daemon = Daemon::start(&lab)?;
        let files = [
            ("Dockerfile", DOCKERFILE),
            ("greet", "#!/bin/sh\necho \"$GREETING, world\"\n"),
        ];
        let context = lab.files("context", &files)?.display().to_string();
        Ok(Some(Self {
            cairn: Cairn::with(&lab, &daemon),
            _daemon: daemon,
            context,
            lab,
        }))
    }

    fn build(&self, kind: &str, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.lab.path(name);
        let output = format!("type={kind},dest={}", path.display());
        self.cairn.build(["-t", "test/greet:1", "-o", &output, &self.context])?;
        Ok(path)
    }
}

fn is_right(image: &Image) -> anyhow::Result<()> {
    image.expect_files(
        &["/data/one", "/data/empty", "/usr/bin/greet", "/bin/sh"],
        &["/data/link"],
    )?;
    let metadata = image.path("/data/one").metadata()?;
    ensure!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777) == (12, 34, 0o4750),
        "{metadata:?}"
    );
    for (name, other) in [("/data/one", "/data/hard"), ("/data/two", "/data/later")] {
        let (file, link) = (image.path(name).metadata()?, image.path(other).metadata()?);
        ensure!(file.ino() == link.ino(), "{name} and {other} came apart");
    }
    let config = &image.config()["config"];
    ensure!(
        config["WorkingDir"] == "/data" && config["StopSignal"] == "SIGINT",
        "{config}"
    );
    ensure!(config["Labels"]["org.example.kind"] == "test", "{config}");
    let environment = config["Env"].as_array().context("no environment")?;
    ensure!(environment.iter().any(|entry| entry == "GREETING=hello"), "{config}");
    let layers = image.manifest()["layers"].as_array().context("no layers")?.len();
    let ids = image.config()["rootfs"]["diff_ids"]
        .as_array()
        .context("no diff ids")?
        .len();
    let history = image.config()["history"].as_array().context("no history")?;
    let filled = history.iter().filter(|entry| entry["empty_layer"] != true).count();
    ensure!(
        layers == ids && layers == filled,
        "{layers} layers, {ids} ids, {filled} in the history"
    );
    ensure!(image.run()?.trim() == "hello, world");
    Ok(())
}

#[test]
fn oci_tars_are_taken_by_skopeo_umoci_runc_and_containerd() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let tar = bench.build("oci", "oci.tar")?;
    is_right(&Image::from_oci(&bench.lab, &tar)?)?;
    if Lab::open(&[Need::Sid])?.is_none() {
        return Ok(());
    }
    let containerd = Containerd::start(&bench.lab)?;
    containerd
        .ctr()?
        .args(["image", "import", "--local", "--no-unpack"])
        .args([&tar])
        .output()?;
    let listed = containerd.ctr()?.args(["image", "list", "--quiet"]).output()?;
    ensure!(listed.contains("test/greet:1"), "{listed}");
    let checked = containerd.ctr()?.args(["image", "check"]).output()?;
    ensure!(checked.contains("complete"), "{checked}");
    Ok(())
}

#[test]
fn docker_tars_are_loaded_and_run_by_docker() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let tar = bench.build("docker", "docker.tar")?;
    is_right(&Image::from_docker(&bench.lab, &tar)?)?;
    if Lab::open(&[Need::Sid])?.is_none() {
        return Ok(());
    }
    let engine = Engine::start(&bench.lab)?;
    let loaded = engine.docker()?.args(["load", "--input"]).args([&tar]).output()?;
    ensure!(loaded.contains("test/greet:1"), "{loaded}");
    let said = engine
        .docker()?
        .args(["run", "--rm", "--network", "none", "test/greet:1"])
        .output()?;
    ensure!(said.trim() == "hello, world", "{said}");
    Ok(())
}

#[test]
fn directories_and_tars_hold_the_files_themselves() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let dir = bench.build("local", "files")?;
    ensure!(std::fs::read_to_string(dir.join("data/one"))? == "one\n");
    ensure!(dir.join("usr/bin/greet").metadata()?.permissions().mode() & 0o777 == 0o755);
    ensure!(
        dir.join("data/link").symlink_metadata().is_err(),
        "a removed file is there"
    );
    ensure!(!dir.join("config.json").exists() && !dir.join("manifest.json").exists());

    let tar = bench.build("tar", "files.tar")?;
    let mut names = Vec::new();
    for entry in tar::Archive::new(std::fs::File::open(&tar)?).entries()? {
        names.push(
            entry?
                .path()?
                .to_string_lossy()
                .trim_start_matches("./")
                .trim_end_matches('/')
                .to_owned(),
        );
    }
    for name in ["data/one", "data/empty", "usr/bin/greet"] {
        ensure!(names.iter().any(|found| found == name), "no {name} in {names:?}");
    }
    ensure!(names.iter().all(|name| !name.contains(".wh.")), "{names:?}");

    // The same on standard output.
    let piped = bench.lab.path("piped.tar");
    let script = format!("exec \"$@\" > {}", piped.display());
    let cairn = bench
        .cairn
        .command(["build", "--progress", "quiet", "-o", "type=tar,dest=-", &bench.context])?;
    let sh = Program::new("sh").args(["-c", &script, "sh"]).args(cairn.words());
    sh.output()?;
    ensure!(
        std::fs::read(&tar)? == std::fs::read(&piped)?,
        "the same build made two different tars"
    );
    Ok(())
}

#[test]
fn images_are_pushed_under_all_their_names() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers, Need::Bases, Need::Registry])? else {
        return Ok(());
    };
    let registry = Registry::start(&bench.lab)?;
    let mut daemon = bench._daemon;
    daemon.stop()?;
    drop(daemon);
    let daemon = Daemon::start_configured(&bench.lab, &registry.config())?;
    let cairn = Cairn::with(&bench.lab, &daemon);
    let (one, two) = (
        format!("{}/greet:1", registry.address()),
        format!("{}/a/b/greet:latest", registry.address()),
    );
    let metadata = bench.lab.path("metadata.json");
    let metadata_path = metadata.display().to_string();
    cairn.build([
        "-t",
        &one,
        "-t",
        &two,
        "--push",
        "--metadata-file",
        &metadata_path,
        &bench.context,
    ])?;
    is_right(&Image::from_registry(&bench.lab, &one)?)?;
    let digests = [
        registry.inspect("greet:1")?["Digest"].clone(),
        registry.inspect("a/b/greet:latest")?["Digest"].clone(),
    ];
    ensure!(digests[0] == digests[1], "{digests:?}");
    let told: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(metadata)?)?;
    ensure!(told["containerimage.digest"] == digests[0], "{told}");
    ensure!(
        told["image.name"]
            .as_str()
            .is_some_and(|names| names.contains(&one) && names.contains(&two)),
        "{told}"
    );

    // What was pushed can be built on.
    let files = [("Dockerfile", format!("FROM {one}\nRUN greet > /said\n"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let context = bench.lab.files("upon", &files)?.display().to_string();
    let tar = bench.lab.path("upon.tar");
    cairn.build(["-o", &format!("type=oci,dest={}", tar.display()), &context])?;
    ensure!(std::fs::read_to_string(Image::from_oci(&bench.lab, &tar)?.path("/said"))? == "hello, world\n");
    Ok(())
}

#[test]
fn the_same_input_makes_the_same_image() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY x y/z /\nENV a=b\n"),
        ("x", "1"),
        ("y/z", "2"),
    ];
    let context = lab.files("context", &files)?.display().to_string();
    let layers = |root: &Path| -> anyhow::Result<serde_json::Value> {
        let daemon = Daemon::start_with(&lab, root, "")?;
        let tar = root.with_extension("tar");
        Cairn::with(&lab, &daemon).build(["-o", &format!("type=oci,dest={}", tar.display()), &context])?;
        Ok(Image::from_oci(&lab, &tar)?.manifest()["layers"].clone())
    };
    let (one, two) = (layers(&lab.path("one"))?, layers(&lab.path("two"))?);
    ensure!(one == two, "{one} and {two}");
    Ok(())
}
