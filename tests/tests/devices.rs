//! Devices of the host for steps, as the Container Device Interface describes them.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use cairn_tests::{Buildx, Cairn, Daemon, Finished, Lab, Need, Progress};

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Sid];

/// A device file, a variable and a directory; another that everybody may have.
const SPEC: &str = r#"
cdiVersion: "0.6.0"
kind: example.com/null
containerEdits:
  env: [COMMON=yes]
devices:
- name: one
  annotations: {org.mobyproject.buildkit.device.class: small}
  containerEdits:
    env: [DEVICE=one]
    deviceNodes: [{path: /dev/cairn-null, type: c, major: 1, minor: 3, permissions: rw}]
    mounts: [{hostPath: @SHARED@, containerPath: /opt/shared, options: [ro, nosuid, nodev, bind]}]
- name: open
  annotations: {org.mobyproject.buildkit.device.autoallow: "true"}
  containerEdits: {env: [DEVICE=open]}
"#;

struct Bench {
    // The daemon goes before its lab.
    daemon: Daemon,
    buildx: Buildx,
    specs: PathBuf,
    lab: Lab,
}

impl Bench {
    fn open(config: &str, cdi: &str) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(NEEDS)? else {
            return Ok(None);
        };
        let shared = lab.files("shared", &[("library", "of the host\n")])?;
        let spec = SPEC.replace("@SHARED@", &shared.display().to_string());
        let specs = lab.files("cdi", &[("null.yaml", &spec)])?;
        let cdi = format!("[cdi]\nspecDirs = [\"{}\"]\n{cdi}", specs.display());
        let daemon = Daemon::start_configured(&lab, &format!("{config}\n{cdi}"))?;
        Ok(Some(Self {
            buildx: Buildx::remote(&lab, &daemon)?,
            daemon,
            specs,
            lab,
        }))
    }

    fn context(&self, run: &str) -> anyhow::Result<PathBuf> {
        let dockerfile = format!("# syntax=docker/dockerfile:1-labs\nFROM alpine\nRUN {run}\n");
        self.lab.files("context", &[("Dockerfile", &dockerfile)])
    }

    fn try_build(&self, run: &str, options: &[&str]) -> anyhow::Result<Finished> {
        let context = self.context(run)?;
        let build = self.buildx.command(["build", "--progress", "rawjson"])?;
        build.args(options).args([&context]).run()
    }

    /// What a step says.
    fn log(&self, run: &str, options: &[&str]) -> anyhow::Result<String> {
        let finished = self.try_build(run, options)?.success()?;
        Ok(Progress::parse(finished.stderr.lines()).vertex("RUN").log.clone())
    }

    fn refused(&self, run: &str, options: &[&str], with: &str) -> anyhow::Result<()> {
        let finished = self.try_build(run, options)?;
        ensure!(
            !finished.status.success() && finished.stderr.contains(with),
            "expected {with:?}: {}",
            finished.stderr
        );
        Ok(())
    }
}

const ALLOWED: &str = "insecure-entitlements = [\"device\"]";

#[test]
fn a_step_gets_the_device_that_it_was_granted() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(ALLOWED, "")? else {
        return Ok(());
    };
    let look = "stat -c '%F %t:%T' /dev/cairn-null && echo x > /dev/cairn-null && cat /opt/shared/library \
                && echo $COMMON $DEVICE";
    let found = "character special file 1:3\nof the host\nyes one\n";
    for (device, allow) in [
        ("example.com/null=one", "device"),
        ("example.com/null", "device=example.com/null=one"),
        ("example.com/null=small", "device=example.com/null=small"),
        ("mine", "device=example.com/null=one,alias=mine"),
    ] {
        // Asked for in different words, it is the same step.
        let log = bench.log(
            &format!("--device={device},required {look}"),
            &["--allow", allow, "--no-cache"],
        )?;
        ensure!(log == found, "{device}: {log}");
    }
    let all = bench.log("--device=example.com/null=* ls /dev/cairn-null", &["--allow", "device"])?;
    ensure!(all == "/dev/cairn-null\n", "{all}");

    // Nothing of it stays in the image.
    let out = bench.lab.path("out");
    let output = format!("type=local,dest={}", out.display());
    bench.log(
        "--device=example.com/null=one true",
        &["--allow", "device", "-o", &output],
    )?;
    ensure!(!out.join("opt/shared").exists() && !out.join("dev/cairn-null").exists());
    Ok(())
}

#[test]
fn devices_are_refused_unless_client_and_daemon_agree() -> anyhow::Result<()> {
    let run = "--device=example.com/null=one true";
    let Some(bench) = Bench::open(ALLOWED, "")? else {
        return Ok(());
    };
    let one = "device example.com/null=one is requested by the build but not allowed";
    bench.refused(run, &[], one)?;
    bench.refused(run, &["--allow", "device=example.com/null=open"], one)?;
    bench.refused("--device=example.com/null=* true", &[], one)?;
    let log = bench.log("--device=example.com/null=open echo $DEVICE", &[])?;
    ensure!(log == "open\n", "{log}");

    let Some(strict) = Bench::open("", "autoAllowed = [\"example.com/null\"]")? else {
        return Ok(());
    };
    let said = "granting entitlement device is not allowed by build daemon configuration";
    strict.refused(run, &["--allow", "device"], said)?;
    let log = strict.log("--device=example.com/null=one echo $DEVICE", &[])?;
    ensure!(log == "one\n", "{log}");

    let Some(disabled) = Bench::open(ALLOWED, "disabled = true")? else {
        return Ok(());
    };
    let said = "but CDI device support is disabled";
    disabled.refused(
        "--device=example.com/null=one,required true",
        &["--allow", "device"],
        said,
    )?;
    disabled.log(run, &[])?;
    Ok(())
}

#[test]
fn a_missing_device_fails_the_steps_that_need_it() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(ALLOWED, "")? else {
        return Ok(());
    };
    let allow = &["--allow", "device"];
    bench.refused(
        "--device=example.com/null=two,required true",
        allow,
        "is not registered",
    )?;
    bench.refused("--device=two,required true", allow, "invalid device")?;
    let step = "--device=example.com/null=two echo $DEVICE.";
    ensure!(bench.log(step, allow)? == ".\n", "an optional device that is missing");
    bench.daemon.wait_for_log("an optional device is not registered")?;

    // A broken description is named and hides no other; one that comes later is seen.
    std::fs::write(bench.specs.join("broken.json"), "{")?;
    let added = SPEC
        .replace("name: one", "name: two")
        .replace("name: open", "name: three");
    let added = added.replace("[DEVICE=one]", "[DEVICE=two]");
    let shared = bench.lab.path("shared").display().to_string();
    std::fs::write(bench.specs.join("more.yaml"), added.replace("@SHARED@", &shared))?;
    ensure!(bench.log(step, allow)? == "two.\n", "not the result from before");
    let log = bench.daemon.wait_for_log_of(&["broken.json"])?;
    ensure!(log.contains("a description of devices is left out"), "{log}");
    Ok(())
}

#[test]
fn clients_are_told_of_devices() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(ALLOWED, "")? else {
        return Ok(());
    };
    let shown = bench.buildx.command(["inspect"])?.output()?;
    for line in ["example.com/null=one", "example.com/null=open"] {
        ensure!(shown.contains(line), "{shown}");
    }
    let cairn = Cairn::with(&bench.lab, &bench.daemon);
    let shown = cairn.run(["workers", "--verbose"])?.success()?.stdout;
    ensure!(shown.contains("  example.com/null=open (always allowed)\n"), "{shown}");

    let context = bench.context("--device=example.com/null=one echo $DEVICE")?;
    let context = context.to_str().context("no text")?;
    let built = cairn.build(["--allow", "device=example.com/null=one", context])?;
    ensure!(built.progress.vertex("RUN").log == "one\n", "{}", built.remarks);
    let refused = cairn.try_build([context])?;
    ensure!(
        refused.code != 0 && refused.remarks.contains("is requested by the build but not allowed"),
        "{}",
        refused.remarks
    );
    Ok(())
}
