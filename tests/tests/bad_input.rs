//! Mistakes in what users write: each ends its build with the place and the cause, and nothing else.

use anyhow::{Context as _, ensure};
use cairn_tests::{Cairn, Daemon, Lab, Need, Outcome};

struct Bench {
    cairn: Cairn,
    daemon: Daemon,
    lab: Lab,
}

impl Bench {
    fn open(needs: &[Need]) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(needs)? else {
            return Ok(None);
        };
        let daemon = Daemon::start(&lab)?;
        Ok(Some(Self {
            cairn: Cairn::with(&lab, &daemon),
            daemon,
            lab,
        }))
    }

    /// A build of these files, which has to fail, and leave the daemon in a state to do better.
    fn fail(&mut self, files: &[(&str, &str)], args: &[&str]) -> anyhow::Result<Outcome> {
        let context = self.lab.files("wrong", files)?.display().to_string();
        let outcome = self.cairn.try_build(args.iter().copied().chain([context.as_str()]))?;
        ensure!(outcome.code == 1, "exit code {}:\n{}", outcome.code, outcome.remarks);
        ensure!(self.daemon.is_running(), "the daemon is gone:\n{}", self.daemon.log());
        let right = [("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "text")];
        let right = self.lab.files("right", &right)?;
        self.cairn.build([right]).context("a good build after the bad one")?;
        std::fs::remove_dir_all(self.lab.path("wrong"))?;
        Ok(outcome)
    }
}

fn expect_remarks(outcome: &Outcome, expected: &[&str]) -> anyhow::Result<()> {
    for text in expected {
        ensure!(outcome.remarks.contains(text), "no {text:?} in:\n{}", outcome.remarks);
    }
    Ok(())
}

#[test]
fn a_missing_file_is_named_with_its_line() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    let outcome = bench.fail(
        &[("Dockerfile", "FROM scratch\nCOPY nowhere.txt /\n"), ("other.txt", "")],
        &[],
    )?;
    expect_remarks(
        &outcome,
        &["Dockerfile:2", "2 | >>> COPY nowhere.txt /", "nowhere.txt", "not found"],
    )
}

#[test]
fn an_unknown_stage_is_named() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    let outcome = bench.fail(&[("Dockerfile", "FROM scratch AS one\n")], &["--target", "two"])?;
    expect_remarks(&outcome, &["two", "could not be found"])?;
    let outcome = bench.fail(&[("Dockerfile", "FROM scratch\nCOPY --from=7 /x /\n")], &[])?;
    expect_remarks(&outcome, &["Dockerfile:2", "2 | >>> COPY --from=7 /x /"])
}

#[test]
fn a_failing_command_is_shown_with_its_last_words() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let dockerfile = "FROM alpine\nRUN true\nRUN echo 'last words' && exit 42\nRUN true\n";
    let outcome = bench.fail(&[("Dockerfile", dockerfile)], &[])?;
    expect_remarks(
        &outcome,
        &[
            "last words",
            "Dockerfile:3",
            "3 | >>> RUN echo 'last words' && exit 42",
            "did not complete successfully: exit code: 42",
        ],
    )?;
    let vertex = outcome.progress.vertex("last words");
    ensure!(
        vertex.error.contains("exit code: 42") && vertex.log == "last words\n",
        "{vertex:?}"
    );
    // What went well before is known.
    let outcome = bench.fail(&[("Dockerfile", dockerfile)], &[])?;
    ensure!(
        outcome.progress.vertex("[2/4] RUN true").cached,
        "{:?}",
        outcome.progress.vertices()
    );
    let outcome = bench.fail(&[("Dockerfile", "FROM alpine\nRUN [\"/no/such/program\"]\n")], &[])?;
    expect_remarks(&outcome, &["2 | >>> RUN", "/no/such/program"])
}

#[test]
fn a_malformed_dockerfile_is_shown_at_its_line() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    for (text, expected) in [
        (
            "FROM scratch\nCOOPY a b\n",
            ["2 | >>> COOPY a b", "unknown instruction: COOPY"],
        ),
        ("COPY a b\n", ["1 | >>> COPY a b", "no build stage in current context"]),
        ("FROM\n", ["1 | >>> FROM", "FROM"]),
        (
            "FROM scratch\nRUN --bogus=1 true\n",
            ["2 | >>> RUN --bogus=1 true", "bogus"],
        ),
        ("FROM scratch\nENV a=${b\n", ["2 | >>> ENV a=${b", "b"]),
        (
            "FROM scratch\nCOPY <<EOF /x\nnever ends\n",
            ["unterminated heredoc", "EOF"],
        ),
    ] {
        let outcome = bench.fail(&[("Dockerfile", text)], &[])?;
        expect_remarks(&outcome, &expected)?;
    }
    for (empty, expected) in [
        ("", "cannot be empty"),
        ("# only a remark\n", "file with no instructions"),
    ] {
        let outcome = bench.fail(&[("Dockerfile", empty)], &[])?;
        expect_remarks(&outcome, &[expected])?;
    }
    Ok(())
}

#[test]
fn a_missing_dockerfile_is_named() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    let context = bench.lab.files("empty", &[("file", "")])?;
    let outcome = bench.cairn.try_build([context])?;
    ensure!(
        matches!(outcome.code, 1 | 2),
        "exit code {}:\n{}",
        outcome.code,
        outcome.remarks
    );
    expect_remarks(&outcome, &["Dockerfile"])
}

#[test]
fn long_files_are_no_trouble() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    // Both travel in headers of calls: one with the details of the error, the other as patterns.
    let dockerfile = format!(
        "{}FROM scratch\nCOPY nowhere.txt /\n",
        "# a long remark\n".repeat(20_000)
    );
    let ignored: String = (0..5000).map(|n| format!("some/long/name/{n}\n")).collect();
    let files = [
        ("Dockerfile", dockerfile.as_str()),
        (".dockerignore", &ignored),
        ("other.txt", ""),
    ];
    let outcome = bench.fail(&files, &[])?;
    expect_remarks(
        &outcome,
        &["Dockerfile:20002", "20002 | >>> COPY nowhere.txt /", "not found"],
    )
}

#[test]
fn a_malformed_ignore_file_is_named() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("file", ""),
        (".dockerignore", "ok\n[a-\n"),
    ];
    let outcome = bench.fail(&files, &[])?;
    expect_remarks(&outcome, &[".dockerignore", "[a-"])
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_is_built() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    let context = bench
        .lab
        .files("context", &[("Dockerfile", "FROM scratch\n")])?
        .display()
        .to_string();
    for args in [
        ["-o", "type=nonsense"],
        ["--platform", "///"],
        ["--secret", "src"],
        ["-t", "UPPER CASE"],
    ] {
        let outcome = bench.cairn.try_build(args.into_iter().chain([context.as_str()]))?;
        ensure!(outcome.code != 0, "{args:?} was taken:\n{}", outcome.remarks);
        ensure!(!outcome.remarks.is_empty(), "{args:?} was refused without a word");
    }
    let finished = bench.cairn.run(["build", "--no-such-flag", &context])?;
    ensure!(finished.status.code() == Some(2), "{finished:?}");
    Ok(())
}

#[test]
fn nobody_at_the_address_is_an_error_of_its_own() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[])? else {
        return Ok(());
    };
    let Bench { cairn, mut daemon, lab } = bench;
    daemon.stop()?;
    let finished = cairn.run(["du"])?;
    ensure!(finished.status.code() == Some(3), "{finished:?}");
    ensure!(finished.stderr.contains("cairnd.sock"), "{finished:?}");
    drop(lab);
    Ok(())
}
