//! Registries that are not there, refuse, or deliver something else.

use anyhow::{Context as _, ensure};
use cairn_tests::{Cairn, Daemon, FixedAnswer, Lab, Need, Outcome, Registry};

/// Builds from `image`, which has to fail and to show the line, and something good after it.
fn fail(lab: &Lab, daemon: &mut Daemon, image: &str) -> anyhow::Result<Outcome> {
    let cairn = Cairn::with(lab, daemon);
    let dockerfile = format!("FROM {image}\nCOPY file /\n");
    let context = lab.files("wrong", &[("Dockerfile", &dockerfile), ("file", "text")])?;
    let outcome = cairn.try_build([context])?;
    ensure!(outcome.code == 1, "exit code {}:\n{}", outcome.code, outcome.remarks);
    let excerpt = format!("1 | >>> FROM {image}");
    ensure!(
        outcome.remarks.contains(&excerpt),
        "no excerpt in:\n{}",
        outcome.remarks
    );
    ensure!(daemon.is_running(), "the daemon is gone:\n{}", daemon.log());
    let right = lab.files(
        "right",
        &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "text")],
    )?;
    cairn.build([right]).context("a good build after the bad one")?;
    Ok(outcome)
}

fn http(addresses: &[&str]) -> String {
    addresses
        .iter()
        .map(|address| format!("[registry.\"{address}\"]\nhttp = true\n"))
        .collect()
}

#[test]
fn nobody_listens() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    // A port that was free a moment ago: nothing listens at it.
    let address = FixedAnswer::start("200 OK", "")?.address();
    let mut daemon = Daemon::start_with(&lab, &lab.path("root"), &http(&[&address]))?;
    let outcome = fail(&lab, &mut daemon, &format!("{address}/some/image:tag"))?;
    ensure!(outcome.remarks.contains(&address), "{}", outcome.remarks);
    ensure!(
        outcome.remarks.to_lowercase().contains("connection refused"),
        "{}",
        outcome.remarks
    );
    Ok(())
}

#[test]
fn refusals_are_passed_on() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let body = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let cases = [
        (
            "401 Unauthorized",
            body,
            "unexpected status from head request to http://",
        ),
        ("403 Forbidden", body, "403 forbidden"),
        (
            "404 Not Found",
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#,
            "not found",
        ),
        ("418 I'm a teapot", "short and stout", "418 i'm a teapot"),
        ("500 Internal Server Error", "", "500 internal server error"),
        ("200 OK", "this is no manifest", "manifest"),
    ];
    let servers = cases.map(|(status, body, _)| FixedAnswer::start(status, body));
    let servers = servers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let addresses: Vec<String> = servers.iter().map(FixedAnswer::address).collect();
    let config = http(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let mut daemon = Daemon::start_with(&lab, &lab.path("root"), &config)?;
    for ((status, _, expected), address) in cases.iter().zip(&addresses) {
        let outcome = fail(&lab, &mut daemon, &format!("{address}/some/image:tag"))?;
        ensure!(
            outcome.remarks.to_lowercase().contains(expected),
            "{status}: no {expected:?} in:\n{}",
            outcome.remarks
        );
    }
    Ok(())
}

#[test]
fn a_digest_that_nothing_has_is_not_found() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let image = format!("alpine@sha256:{}", "0".repeat(64));
    let outcome = fail(&lab, &mut daemon, &image)?;
    ensure!(outcome.remarks.contains("not found"), "{}", outcome.remarks);
    Ok(())
}

#[test]
fn a_damaged_layer_is_refused_and_the_mended_one_taken() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Registry])? else {
        return Ok(());
    };
    let registry = Registry::start(&lab)?;
    registry.copy_base("library/alpine:latest")?;
    let layer = registry.inspect("library/alpine:latest")?["Layers"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let file = registry.blob_file(&layer)?;
    let good = std::fs::read(&file)?;
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0x40;
    std::fs::write(&file, bad)?;

    let mut daemon = Daemon::start_with(&lab, &lab.path("root"), &registry.config())?;
    let cairn = Cairn::with(&lab, &daemon);
    let image = format!("{}/library/alpine:latest", registry.address());
    let dockerfile = format!("FROM {image}\nRUN echo well > /then\n");
    let context = lab.files("context", &[("Dockerfile", &dockerfile)])?;
    let outcome = cairn.try_build([&context])?;
    ensure!(outcome.code == 1, "a damaged layer was taken:\n{}", outcome.remarks);
    ensure!(
        outcome.remarks.contains(&layer),
        "the layer is not named in:\n{}",
        outcome.remarks
    );
    ensure!(daemon.is_running(), "the daemon is gone:\n{}", daemon.log());

    std::fs::write(&file, good)?;
    cairn.build([&context])?;
    Ok(())
}

#[test]
fn pushing_to_a_registry_that_refuses_fails_and_keeps_the_image() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let server = FixedAnswer::start(
        "403 Forbidden",
        r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#,
    )?;
    let daemon = Daemon::start_with(&lab, &lab.path("root"), &http(&[&server.address()]))?;
    let cairn = Cairn::with(&lab, &daemon);
    let context = lab.files(
        "context",
        &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "text")],
    )?;
    let context = context.display().to_string();
    let name = format!("{}/mine:latest", server.address());
    let outcome = cairn.try_build(["-t", &name, "--push", &context])?;
    ensure!(
        outcome.code == 1 && outcome.remarks.contains("403"),
        "exit code {}:\n{}",
        outcome.code,
        outcome.remarks
    );
    let again = cairn.build(["-t", &name, &context])?;
    ensure!(again.progress.executed().is_empty(), "{:?}", again.progress.executed());
    Ok(())
}
