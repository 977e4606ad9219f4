//! Builds whose daemon is killed at any moment, and what is there afterwards.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cairn_tests::{Cairn, Daemon, Lab, Leftovers, Need, Outcome};

/// Steps of each build.
const STEPS: usize = 4;

/// Directories for what is under way. Nothing is in them when nothing is.
const UNDER_WAY: &[&str] = &[
    "spool",
    "worker/content/ingest",
    "worker/layers/staging",
    "worker/layers/mounts",
    "worker/runs",
];

/// Numbers that look random and are the same for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let share = u32::try_from(self.0 >> 33).unwrap_or_default();
        limit.mul_f64(f64::from(share) / f64::from(1_u32 << 31))
    }
}

struct Soak {
    lab: Lab,
    daemon: Daemon,
    cairn: Cairn,
    idle: Leftovers,
    /// Finished steps that ran again: at most the last, in the moment before it was written down.
    again: usize,
    /// Finished steps in all.
    finished: usize,
}

/// A context whose steps nobody has run, and what they make.
fn round_context(lab: &Lab, round: usize) -> anyhow::Result<(String, Vec<(String, String)>)> {
    let mut dockerfile = "FROM alpine AS build\nCOPY input /0\n".to_owned();
    let mut want = Vec::new();
    for step in 1..=STEPS {
        let before = step - 1;
        dockerfile += &format!("RUN echo \"$(cat /{before}) {round}.{step}\" > /{step}\n");
    }
    dockerfile += "FROM scratch\n";
    let mut text = format!("input {round}");
    for step in 1..=STEPS {
        text += &format!(" {round}.{step}");
        dockerfile += &format!("COPY --from=build /{step} /\n");
        want.push((step.to_string(), format!("{text}\n")));
    }
    let input = format!("input {round}\n");
    let files = [("Dockerfile", dockerfile.as_str()), ("input", input.as_str())];
    let context = lab.files(&format!("round-{round}"), &files)?;
    Ok((context.display().to_string(), want))
}

/// The steps that a build has finished.
fn finished_steps(outcome: &Outcome) -> BTreeSet<String> {
    let vertices = outcome.progress.vertices().iter();
    let steps = vertices.filter(|vertex| vertex.name.contains("] RUN "));
    let finished = steps.filter(|vertex| vertex.completed.is_some() && vertex.error.is_empty());
    finished.map(|vertex| vertex.name.clone()).collect()
}

impl Soak {
    fn round(&mut self, round: usize, delay: Duration) -> anyhow::Result<()> {
        let (context, want) = round_context(&self.lab, round)?;
        let out = self.lab.path(&format!("out-{round}"));
        let output = format!("type=local,dest={}", out.display());
        let args = ["-o", output.as_str(), context.as_str()];
        let build = self.cairn.start_build(args)?;
        // When to kill is what is random here; nothing is waited for.
        std::thread::sleep(delay);
        self.daemon.kill()?;
        let finished = finished_steps(&build.finish()?);
        self.daemon.start_again()?;
        ensure!(self.daemon.leftovers() == self.idle, "{:?}", self.daemon.leftovers());

        let outcome = self.cairn.build(args).context("the build after a crash")?;
        for (name, text) in &want {
            let made = std::fs::read_to_string(out.join(name))?;
            ensure!(made == *text, "/{name} holds {made:?}, not {text:?}");
        }
        let again: Vec<&String> = finished
            .iter()
            .filter(|step| !outcome.progress.vertex(step).cached)
            .collect();
        // Steps are in order: only the last can be missing from what was written down.
        ensure!(
            again.is_empty() || (again.len() == 1 && Some(again[0]) == finished.last()),
            "finished steps ran again: {again:?} of {finished:?}"
        );
        self.again += again.len();
        self.finished += finished.len();
        self.nothing_is_left()
    }

    fn nothing_is_left(&self) -> anyhow::Result<()> {
        ensure!(self.daemon.leftovers() == self.idle, "{:?}", self.daemon.leftovers());
        for dir in UNDER_WAY {
            let path = self.daemon.root().join(dir);
            let left = entries(&path).with_context(|| format!("{} is not there", path.display()))?;
            ensure!(left.is_empty(), "{dir} holds {left:?}");
        }
        ensure!(
            !self.daemon.root().join("cache.damaged").exists(),
            "the index was damaged"
        );
        ensure!(!self.daemon.log().contains("panicked"), "{}", self.daemon.log());
        Ok(())
    }
}

fn entries(dir: &Path) -> std::io::Result<Vec<String>> {
    std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn soak(rounds: usize) -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let idle = daemon.leftovers();
    let (context, _) = round_context(&lab, 0)?;
    cairn.build([&context])?;
    let (context, _) = round_context(&lab, rounds + 1)?;
    let begun = Instant::now();
    cairn.build([&context])?;
    let whole = begun.elapsed();

    let seed = u64::from(std::process::id());
    say(&format!("seed {seed}, a build takes {whole:?}"));
    let mut random = Random(seed);
    let mut soak = Soak {
        lab,
        daemon,
        cairn,
        idle,
        again: 0,
        finished: 0,
    };
    for round in 1..=rounds {
        let delay = random.below(whole.mul_f64(1.2));
        soak.round(round, delay)
            .with_context(|| format!("round {round}, killed after {delay:?}"))?;
    }
    say(&format!(
        "{rounds} kills: {} finished steps, {} of which ran again",
        soak.finished, soak.again
    ));
    Ok(())
}

#[test]
fn a_daemon_killed_at_any_moment_loses_nothing_that_was_finished() -> anyhow::Result<()> {
    soak(5)
}

#[test]
#[ignore = "takes minutes: make soak"]
fn a_hundred_kills() -> anyhow::Result<()> {
    soak(100)
}

/// Says what was measured, to whoever runs the test with its output shown.
fn say(text: &str) {
    use std::io::Write as _;
    let _lost = writeln!(std::io::stdout(), "{text}");
}
