//! Single blobs of registries and of the client's layouts, as files.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use cairn_client::SolveOptions;
use cairn_tests::llb::{digest, source};
use cairn_tests::{Daemon, Lab, Need, Registry, fetch};

/// Options of a client with these layouts.
fn offering(layouts: BTreeMap<String, PathBuf>) -> SolveOptions {
    SolveOptions {
        layouts,
        ..SolveOptions::default()
    }
}

#[tokio::test]
async fn blobs_of_registries_are_files() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Registry])? else {
        return Ok(());
    };
    let registry = Registry::start(&lab)?;
    registry.copy_base("library/alpine:latest")?;
    let layers = registry.inspect("library/alpine:latest")?;
    let layer = layers["Layers"][0].as_str().context("no layer")?.to_owned();
    let stored = registry.blob_file(&layer)?;
    let want = std::fs::read(&stored)?;
    let daemon = Daemon::start_with(&lab, &lab.path("state"), &registry.config())?;
    let name = |digest: &str| format!("docker-image+blob://{}/library/alpine@{digest}", registry.address());
    let out = lab.path("out");
    fetch(&daemon, &source(&name(&layer), &[]), &out, SolveOptions::default()).await?;
    let plain = out.join(layer.trim_start_matches("sha256:"));
    ensure!(std::fs::read(&plain)? == want);
    let metadata = plain.metadata()?;
    ensure!(metadata.mode() & 0o7777 == 0o600 && metadata.mtime() == 0);

    // The registry is not needed any more for what is here.
    std::fs::write(&stored, b"")?;
    let attrs = [
        ("http.filename", "layer.tgz"),
        ("http.perm", "0644"),
        ("http.uid", "12"),
    ];
    let again = fetch(&daemon, &source(&name(&layer), &[]), &out, SolveOptions::default()).await;
    ensure!(again.is_ok(), "{again:?}");
    let zeros = format!("sha256:{}", "0".repeat(64));
    let missing = fetch(&daemon, &source(&name(&zeros), &attrs), &out, SolveOptions::default()).await;
    let missing = format!("{:#}", missing.err().context("it was built")?);
    ensure!(missing.contains("not found"), "{missing}");

    std::fs::write(&stored, &want)?;
    fetch(&daemon, &source(&name(&layer), &attrs), &out, SolveOptions::default()).await?;
    let named = out.join("layer.tgz");
    ensure!(std::fs::read(&named)? == want && named.metadata()?.mode() & 0o7777 == 0o644);
    Ok(())
}

#[tokio::test]
async fn blobs_of_layouts_are_files_and_verified() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let digest = digest(b"a blob");
    let hex = digest.trim_start_matches("sha256:").to_owned();
    let layout = lab.files(
        "layout",
        &[
            ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", r#"{"schemaVersion":2,"manifests":[]}"#),
            (&format!("blobs/sha256/{hex}"), "a lie!"),
        ],
    )?;
    let daemon = Daemon::start(&lab)?;
    let out = lab.path("out");
    let name = format!("oci-layout+blob://any/name@{digest}");
    let layouts = || BTreeMap::from([("s".to_owned(), layout.clone())]);
    let attrs = [("oci.store", "s"), ("http.filename", "it")];
    let damaged = fetch(&daemon, &source(&name, &attrs), &out, offering(layouts())).await;
    ensure!(damaged.is_err() && !out.join("it").exists());
    std::fs::write(layout.join("blobs/sha256").join(&hex), "a blob")?;
    fetch(&daemon, &source(&name, &attrs), &out, offering(layouts())).await?;
    ensure!(std::fs::read_to_string(out.join("it"))? == "a blob");
    Ok(())
}
