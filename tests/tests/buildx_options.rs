//! Options of `docker buildx`, each seen in what comes out.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use cairn_tests::{Buildx, Daemon, Finished, Image, Lab, Need, Progress, Registry};
use serde_json::Value;

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Sid];

struct Bench {
    // The daemon goes before its lab.
    daemon: Daemon,
    buildx: Buildx,
    lab: Lab,
}

impl Bench {
    fn open(needs: &[Need], more_config: &str) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(needs)? else {
            return Ok(None);
        };
        let daemon = Daemon::start_configured(&lab, more_config)?;
        Ok(Some(Self {
            buildx: Buildx::remote(&lab, &daemon)?,
            daemon,
            lab,
        }))
    }

    fn context(&self, dockerfile: &str) -> anyhow::Result<PathBuf> {
        self.lab
            .files("context", &[("Dockerfile", dockerfile), ("file", "text\n")])
    }

    /// A build of a Dockerfile with these options, whatever comes of it.
    fn try_build(&self, dockerfile: &str, options: &[&str]) -> anyhow::Result<Finished> {
        let context = self.context(dockerfile)?;
        let build = self.buildx.command(["build", "--progress", "rawjson"])?;
        build.args(options).args([&context]).run()
    }

    fn build(&self, dockerfile: &str, options: &[&str]) -> anyhow::Result<Progress> {
        let finished = self.try_build(dockerfile, options)?.success()?;
        Ok(Progress::parse(finished.stderr.lines()))
    }
}

fn expect_log(progress: &Progress, step: &str, lines: &[&str]) -> anyhow::Result<()> {
    let log = &progress.vertex(step).log;
    for line in lines {
        ensure!(
            log.lines().any(|said| said.trim() == *line),
            "no line {line:?} in:\n{log}"
        );
    }
    Ok(())
}

#[test]
fn limits_and_hosts_reach_the_steps() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let dockerfile = "FROM alpine\n\
         RUN echo files $(ulimit -Sn) $(ulimit -Hn); echo shm $(df -k /dev/shm | tail -1 | awk '{print $2}'); \
         grep other.example /etc/hosts; echo devices $(ls /sys/class/net)\n";
    let options = [
        "--ulimit",
        "nofile=123:456",
        "--shm-size",
        "32m",
        "--add-host",
        "other.example:10.1.2.3",
        "--network",
        "none",
        "--cgroup-parent",
        "cairn-test",
    ];
    let progress = bench.build(dockerfile, &options)?;
    let host = progress.vertex("RUN echo files").log.replace('\t', " ");
    ensure!(host.contains("10.1.2.3 other.example"), "{host}");
    expect_log(
        &progress,
        "RUN echo files",
        &["files 123 456", "shm 32768", "devices lo"],
    )
}

#[test]
fn privileges_are_granted_by_client_and_daemon_together() -> anyhow::Result<()> {
    let allowed = "insecure-entitlements = [\"network.host\", \"security.insecure\"]";
    let Some(bench) = Bench::open(NEEDS, allowed)? else {
        return Ok(());
    };
    let insecure =
        "# syntax=docker/dockerfile:1-labs\nFROM alpine\nRUN --security=insecure grep CapEff /proc/self/status\n";
    let progress = bench.build(insecure, &["--allow", "security.insecure"])?;
    let log = progress.vertex("RUN --security=insecure").log.clone();
    let capabilities = log.split_whitespace().last().context("no capabilities")?;
    let all = u64::from_str_radix(capabilities, 16)?;
    ensure!(all & (1 << 21) != 0, "no CAP_SYS_ADMIN in {capabilities}");
    let network = "FROM alpine\nRUN echo devices $(ls /sys/class/net | wc -l)\n";
    bench.build(network, &["--network", "host", "--allow", "network.host"])?;
    let refused = bench.try_build(insecure, &[])?;
    ensure!(
        !refused.status.success() && refused.stderr.contains("security.insecure is not allowed"),
        "{}",
        refused.stderr
    );

    let Some(strict) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let refused = strict.try_build(network, &["--network", "host", "--allow", "network.host"])?;
    let said = "granting entitlement network.host is not allowed by build daemon configuration";
    ensure!(
        !refused.status.success() && refused.stderr.contains(said),
        "{}",
        refused.stderr
    );
    Ok(())
}

#[test]
fn what_was_built_is_written_down() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let (metadata, id, tar) = (
        bench.lab.path("metadata.json"),
        bench.lab.path("id"),
        bench.lab.path("image.tar"),
    );
    let paths = [&metadata, &id].map(|path| path.display().to_string());
    let output = format!("type=oci,dest={}", tar.display());
    bench.build(
        "FROM scratch\nCOPY file /\n",
        &[
            "--metadata-file",
            &paths[0],
            "--iidfile",
            &paths[1],
            "--label",
            "color=green",
            "--annotation",
            "manifest:note=kept",
            "-t",
            "test/described:1",
            "-o",
            &output,
        ],
    )?;
    let told: Value = serde_json::from_str(&std::fs::read_to_string(metadata)?)?;
    for key in [
        "containerimage.digest",
        "containerimage.config.digest",
        "buildx.build.ref",
        "image.name",
    ] {
        ensure!(
            told[key].as_str().is_some_and(|text| !text.is_empty()),
            "no {key}: {told}"
        );
    }
    ensure!(
        told["image.name"]
            .as_str()
            .is_some_and(|name| name.ends_with("test/described:1")),
        "{told}"
    );
    ensure!(told["containerimage.descriptor"]["mediaType"].is_string(), "{told}");
    let id = std::fs::read_to_string(id)?;
    ensure!(
        [&told["containerimage.digest"], &told["containerimage.config.digest"]]
            .iter()
            .any(|digest| **digest == id),
        "{id}: {told}"
    );
    let image = Image::from_oci(&bench.lab, &tar)?;
    ensure!(
        image.config()["config"]["Labels"]["color"] == "green",
        "{}",
        image.config()
    );
    ensure!(
        image.manifest()["annotations"]["note"] == "kept",
        "{}",
        image.manifest()
    );
    Ok(())
}

#[test]
fn steps_run_again_when_they_are_told_to() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let dockerfile = "FROM alpine AS one\nRUN echo 1 > /1\nFROM alpine AS two\nRUN echo 2 > /2\n\
                      FROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n";
    bench.build(dockerfile, &[])?;
    for (options, again) in [
        (&[][..], [false, false]),
        (&["--no-cache-filter", "two"], [false, true]),
        (&["--no-cache"], [true, true]),
    ] {
        let progress = bench.build(dockerfile, options)?;
        for (step, runs) in ["RUN echo 1", "RUN echo 2"].into_iter().zip(again) {
            ensure!(progress.vertex(step).cached != runs, "{options:?}: {step}");
        }
    }
    Ok(())
}

#[test]
fn cache_mounts_begin_anew_where_caches_are_ignored() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let dockerfile = |last| {
        format!(
            "FROM alpine\nRUN --mount=type=cache,target=/c echo >> /c/n; echo $(wc -l < /c/n) runs\n\
             RUN --mount=type=cache,target=/c echo >> /c/n; echo $(wc -l < /c/n) runs, {last}\n"
        )
    };
    for (options, last, runs) in [
        (&[][..], "built", "2 runs, built"),
        (&[], "changed", "3 runs, changed"),
        (&["--no-cache"], "changed", "2 runs, changed"),
        (&[], "again", "3 runs, again"),
    ] {
        let progress = bench.build(&dockerfile(last), options)?;
        expect_log(&progress, "3/3] RUN", &[runs]).with_context(|| format!("{options:?}, {last}"))?;
    }
    Ok(())
}

#[test]
fn secrets_come_from_files_and_variables_and_stay_out_of_the_image() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let file = bench.lab.files("secrets", &[("secret", "from-a-file")])?.join("secret");
    let tar = bench.lab.path("image.tar");
    let context = bench.context(
        "FROM alpine\nRUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B wc -c /run/secrets/a; echo ${#B} of b\n",
    )?;
    let build = bench
        .buildx
        .command(["build", "--progress", "rawjson"])?
        .env("SECRET_B", "from-env");
    let build = build.args([
        "--secret",
        &format!("id=a,src={}", file.display()),
        "--secret",
        "id=b,env=SECRET_B",
    ]);
    let build = build
        .args(["-o", &format!("type=oci,dest={}", tar.display())])
        .args([&context]);
    let finished = build.run()?.success()?;
    let progress = Progress::parse(finished.stderr.lines());
    expect_log(&progress, "RUN --mount=type=secret", &["11 /run/secrets/a", "8 of b"])?;
    let image = Image::from_oci(&bench.lab, &tar)?;
    image.expect_files(&["/bin/sh"], &["/run/secrets/a"])?;
    ensure!(!image.config().to_string().contains("from-"), "{}", image.config());
    Ok(())
}

#[test]
fn progress_is_shown_in_every_form() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let context = bench.context("FROM alpine\nRUN echo told here\n")?;
    for (form, out, err) in [
        ("plain", "", "told here"),
        ("auto", "", "told here"),
        ("rawjson", "", "\"vertexes\""),
        ("quiet", "", ""),
    ] {
        let build = bench.buildx.command(["build", "--no-cache", "--progress", form])?;
        let finished = build.args([&context]).run()?.success()?;
        ensure!(
            finished.stdout.contains(out) && finished.stderr.contains(err),
            "{form}: {finished:?}"
        );
        ensure!(
            form != "quiet" || !finished.stderr.contains("told here"),
            "{finished:?}"
        );
    }
    Ok(())
}

#[test]
fn bake_builds_groups_with_settings_from_outside() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let definition = "group \"default\" { targets = [\"a\", \"b\"] }\n\
         target \"a\" {\n  dockerfile-inline = \"FROM alpine\\nARG WHO\\nRUN echo for $WHO > /who\\n\"\n}\n\
         target \"b\" {\n  inherits = [\"a\"]\n  args = { WHO = \"b\" }\n}\n";
    let dir = bench.lab.files("baked", &[("docker-bake.hcl", definition)])?;
    let out = bench.lab.path("out");
    let metadata = bench.lab.path("metadata.json");
    let tar = |target: &str| format!("{target}.output=type=oci,dest={}/{target}.tar", out.display());
    std::fs::create_dir_all(&out)?;
    bench
        .buildx
        .command([
            "bake",
            "--progress",
            "plain",
            "--allow",
            "fs=*",
            "--set",
            "a.args.WHO=outside",
        ])?
        .args(["--set", &tar("a"), "--set", &tar("b"), "--metadata-file"])
        .args([&metadata])
        .dir(&dir)
        .run()?
        .success()?;
    let told: Value = serde_json::from_str(&std::fs::read_to_string(metadata)?)?;
    for (target, who) in [("a", "for outside\n"), ("b", "for b\n")] {
        let lab = Lab::new()?;
        let image = Image::from_oci(&lab, &out.join(format!("{target}.tar")))?;
        ensure!(std::fs::read_to_string(image.path("/who"))? == who, "{target}");
        ensure!(told[target]["containerimage.digest"].is_string(), "{told}");
    }
    Ok(())
}

#[test]
fn images_are_inspected_and_joined_by_imagetools() -> anyhow::Result<()> {
    let needs = [NEEDS, &[Need::Registry]].concat();
    let Some(lab) = Lab::open(&needs)? else {
        return Ok(());
    };
    let registry = Registry::start(&lab)?;
    let daemon = Daemon::start_with(&lab, &lab.path("root"), &registry.config())?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let context = lab.files("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")])?;
    let name = |tag: &str| format!("{}/joined:{tag}", registry.address());
    for arch in ["amd64", "arm64"] {
        let platform = format!("linux/{arch}");
        let build = buildx.command(["build", "--platform", &platform, "--push", "-t", &name(arch)])?;
        build.args([&context]).output()?;
    }
    let create = buildx.command([
        "imagetools",
        "create",
        "-t",
        &name("all"),
        &name("amd64"),
        &name("arm64"),
    ])?;
    create.output()?;
    let inspect = buildx.command(["imagetools", "inspect", "--raw", &name("all")])?;
    let index: Value = serde_json::from_str(&inspect.output()?)?;
    let manifests = index["manifests"].as_array().context("no index")?;
    let platforms: Vec<&Value> = manifests
        .iter()
        .map(|entry| &entry["platform"]["architecture"])
        .collect();
    ensure!(platforms == ["amd64", "arm64"], "{index}");
    Ok(())
}

#[test]
fn the_connection_is_passed_on_by_dial_stdio() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    // The preface of HTTP/2 and empty settings; the daemon answers with its own.
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let words = bench
        .buildx
        .command(["dial-stdio", "--progress", "quiet"])?
        .input(hello.as_slice());
    let finished = words.run()?;
    ensure!(finished.stdout.as_bytes().get(3) == Some(&4), "{finished:?}");
    ensure!(bench.daemon.is_running());
    Ok(())
}

#[test]
fn builders_are_listed() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(NEEDS, "")? else {
        return Ok(());
    };
    let listed = bench.buildx.command(["ls"])?.output()?;
    ensure!(listed.contains("remote") && listed.contains("running"), "{listed}");
    let inspected = bench.buildx.command(["inspect", "--bootstrap"])?.output()?;
    for text in [
        "Status:",
        "BuildKit version:",
        "Platforms:",
        "GC Policy",
        "org.mobyproject.buildkit.worker.executor",
    ] {
        ensure!(inspected.contains(text), "no {text:?} in:\n{inspected}");
    }
    Ok(())
}
