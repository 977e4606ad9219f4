//! What is kept is removed within limits, by either client; an index of it that is damaged is begun anew.

use anyhow::ensure;
use cairn_client::Client;
use cairn_tests::{Buildx, Cairn, Daemon, Lab, Need};

/// Steps of the build, each of which keeps so much.
const STEPS: usize = 4;
const STEP_BYTES: u64 = 3 << 20;

/// Builds steps that do not rest on each other.
fn fill(lab: &Lab, cairn: &Cairn) -> anyhow::Result<()> {
    let mut dockerfile = "FROM scratch AS all\n".to_owned();
    for step in 0..STEPS {
        dockerfile = format!(
            "FROM alpine AS s{step}\nRUN dd if=/dev/urandom of=/out{step} bs=1M count=3\n{dockerfile}COPY --from=s{step} /out{step} /\n"
        );
    }
    let context = lab.files("context", &[("Dockerfile", &dockerfile)])?;
    cairn.build([&context])?;
    Ok(())
}

/// How many of the steps are kept.
fn kept(cairn: &Cairn) -> anyhow::Result<usize> {
    let used = cairn.run(["du"])?.success()?.stdout;
    Ok(used.matches("dd if=/dev/urandom").count())
}

#[test]
fn every_limit_of_pruning_is_heeded() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    fill(&lab, &cairn)?;
    ensure!(kept(&cairn)? == STEPS);
    for spares_all in [
        &["--keep-duration", "1h"][..],
        &["--reserved-space", "1TB"],
        &["--keep-storage", "1TB"],
        &["--max-used-space", "1TB"],
        &["--min-free-space", "1B"],
        &["--max-used-space", "1B", "--reserved-space", "1TB"],
        &["--filter", "description~=nothing-of-that-kind"],
    ] {
        let said = cairn.run([&["prune", "--all"], spares_all].concat())?.success()?.stdout;
        ensure!(said.starts_with("Removed 0 records"), "{spares_all:?}: {said}");
    }
    cairn.run(["prune", "--filter", "description~=of=/out0"])?.success()?;
    ensure!(kept(&cairn)? == STEPS - 1);
    // Room for about two steps and what they rest on; those that are left are within it.
    let rest = total(&daemon)? - (STEPS as u64 - 1) * STEP_BYTES;
    let limit = (rest + 2 * STEP_BYTES + STEP_BYTES / 2).to_string();
    let said = cairn
        .run(["prune", "--all", "--verbose", "--max-used-space", &limit])?
        .success()?
        .stdout;
    ensure!(said.contains("Usage count:"), "{said}");
    ensure!(total(&daemon)? <= limit.parse()?, "{said}");
    ensure!(kept(&cairn)? > 0, "{said}");
    // More free than there can be: everything goes.
    cairn.run(["prune", "--all", "--min-free-space", "1000TB"])?.success()?;
    ensure!(kept(&cairn)? == 0);
    Ok(())
}

/// Bytes of all records.
fn total(daemon: &Daemon) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::connect(&daemon.address().parse()?).await?;
        let records = client.disk_usage(Vec::new()).await?;
        Ok(records
            .iter()
            .filter_map(|record| u64::try_from(record.size).ok())
            .sum())
    })
}

#[test]
fn every_limit_of_docker_is_heeded() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let (cairn, buildx) = (Cairn::with(&lab, &daemon), Buildx::remote(&lab, &daemon)?);
    fill(&lab, &cairn)?;
    for spares_all in [
        &["--filter", "until=1h"][..],
        &["--reserved-space", "1tb"],
        &["--keep-storage", "1tb"],
        &["--max-used-space", "1tb"],
        &["--min-free-space", "1b"],
        &["--filter", "type=source.git.checkout"],
    ] {
        let all = [&["prune", "--force", "--all"], spares_all].concat();
        let said = buildx.command(all)?.output()?;
        ensure!(kept(&cairn)? == STEPS, "{spares_all:?}: {said}");
    }
    let said = buildx
        .command(["prune", "--force", "--verbose", "--filter", "description~=of=/out0"])?
        .output()?;
    ensure!(said.contains("Usage count:") && kept(&cairn)? == STEPS - 1, "{said}");
    let said = buildx
        .command(["prune", "--force", "--all", "--max-used-space", "1b"])?
        .output()?;
    ensure!(said.contains("Total:") && kept(&cairn)? == 0, "{said}");
    Ok(())
}

#[test]
fn an_index_that_cannot_be_used_is_begun_anew() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let context = lab.files("context", &[("Dockerfile", "FROM alpine\nRUN echo well > /then\n")])?;
    let index = daemon.root().join("cache.redb");
    cairn.build([&context])?;
    daemon.stop()?;
    let whole = std::fs::read(&index)?;
    for (what, bytes) in [
        ("garbage", vec![7; 100_000]),
        ("half", whole[..whole.len() / 2].to_vec()),
    ] {
        std::fs::write(&index, &bytes)?;
        daemon.start_again()?;
        daemon.wait_for_log("the cache index is damaged; it is put aside, and a new one begun")?;
        ensure!(
            std::fs::read(index.with_extension("damaged"))?.len() >= bytes.len(),
            "{what}"
        );
        let outcome = cairn.build([&context])?;
        ensure!(
            outcome.progress.executed().len() == 1,
            "{what}: {:?}",
            outcome.progress.executed()
        );
        daemon.stop()?;
    }
    Ok(())
}
