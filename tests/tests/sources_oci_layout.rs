//! Images in OCI layouts of the client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_client::SolveOptions;
use cairn_tests::llb::source;
use cairn_tests::{Buildx, Cairn, Daemon, Lab, Need};
use serde_json::Value;

/// Makes a layout with one image, that has two layers and says where it is at home.
fn layout(lab: &Lab, cairn: &Cairn, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let dockerfile = "FROM scratch\nCOPY a /a\nCOPY b /d/b\nENV FROM_BASE=yes\n";
    let context = lab.files(
        &format!("{name}-context"),
        &[("Dockerfile", dockerfile), ("a", text), ("b", "b")],
    )?;
    let (tar, dir) = (lab.path(&format!("{name}.tar")), lab.path(name));
    let output = format!("type=oci,dest={}", tar.display());
    cairn.build(["-t", "base:v1", "-o", &output, &context.display().to_string()])?;
    tar::Archive::new(std::fs::File::open(&tar)?).unpack(&dir)?;
    Ok(dir)
}

fn json(path: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn root_digest(layout: &Path) -> anyhow::Result<String> {
    let index = json(&layout.join("index.json"))?;
    Ok(index["manifests"][0]["digest"]
        .as_str()
        .context("no digest")?
        .to_owned())
}

fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

/// Asks for the image of a layout, with its files in `dir`.
async fn fetch(
    daemon: &Daemon,
    reference: &str,
    attrs: &[(&str, &str)],
    layouts: BTreeMap<String, PathBuf>,
    dir: &Path,
) -> anyhow::Result<()> {
    let options = SolveOptions {
        layouts,
        ..SolveOptions::default()
    };
    let source = source(&format!("oci-layout://{reference}"), attrs);
    cairn_tests::fetch(daemon, &source, dir, options).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_layouts_are_fetched_and_verified() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let base = layout(&lab, &Cairn::with(&lab, &Daemon::start(&lab)?), "base", "one")?;
    let root = root_digest(&base)?;
    // A daemon that has nothing of it.
    let mut daemon = Daemon::start_with(&lab, &lab.path("fresh"), "")?;
    let reference = format!("any/name@{root}");
    let store = |path: &Path| BTreeMap::from([("s".to_owned(), path.to_owned())]);
    let attrs = [("oci.store", "s")];
    let error = async |reference: &str, attrs: &[(&str, &str)], layouts| -> anyhow::Result<String> {
        let failed = fetch(&daemon, reference, attrs, layouts, &lab.path("failed")).await;
        Ok(format!("{:#}", failed.err().context("it was built")?))
    };

    let none = error(&reference, &attrs, BTreeMap::new()).await?;
    ensure!(none.contains("not supported by the client"), "{none}");
    let other = error(&reference, &[("oci.store", "t")], store(&base)).await?;
    ensure!(other.contains("not found in OCI layout \"t\""), "{other}");
    let gone = error(
        &reference,
        &[("oci.store", "s"), ("oci.session", "nobody")],
        store(&base),
    )
    .await?;
    ensure!(gone.contains("no active session for nobody"), "{gone}");
    let zeros = format!("sha256:{}", "0".repeat(64));
    let missing = error(&format!("any/name@{zeros}"), &attrs, store(&base)).await?;
    let words = format!("content {zeros}: not found in OCI layout \"s\"");
    ensure!(missing.contains(&words), "{missing}");
    let checksum = error(
        &reference,
        &[("oci.store", "s"), ("image.checksum", &zeros)],
        store(&base),
    )
    .await?;
    ensure!(checksum.contains("does not match expected checksum"), "{checksum}");

    // A layer that is not what it says, or not as long.
    let manifest = json(&blob(&base, &root))?;
    let layer = blob(&base, manifest["layers"][0]["digest"].as_str().context("no layer")?);
    let good = std::fs::read(&layer)?;
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    for bad in [
        damaged,
        good[..good.len() - 1].to_vec(),
        [good.as_slice(), b"more"].concat(),
    ] {
        std::fs::write(&layer, bad)?;
        let refused = error(&reference, &attrs, store(&base)).await?;
        ensure!(refused.contains("from OCI layout \"s\""), "{refused}");
    }
    std::fs::write(&layer, &good)?;

    let dir = lab.path("out");
    fetch(&daemon, &reference, &attrs, store(&base), &dir).await?;
    ensure!(std::fs::read_to_string(dir.join("a"))? == "one" && dir.join("d/b").is_file());
    let lowest = lab.path("lowest");
    fetch(
        &daemon,
        &reference,
        &[("oci.store", "s"), ("oci.layerlimit", "1")],
        store(&base),
        &lowest,
    )
    .await?;
    ensure!(lowest.join("a").is_file() && !lowest.join("d").exists());
    let too_many = [("oci.store", "s"), ("oci.layerlimit", "9")];
    let refused = error(&reference, &too_many, store(&base)).await?;
    let want = "layer limit 9 is greater than the number of layers in the image 2";
    ensure!(refused.contains(want), "{refused}");
    // What is here is not asked for again, whatever the layout is called today.
    let again = lab.path("again");
    fetch(
        &daemon,
        &format!("other@{root}"),
        &[("oci.store", "x")],
        BTreeMap::new(),
        &again,
    )
    .await?;
    ensure!(again.join("d/b").is_file());
    daemon.stop()?;
    Ok(())
}

#[test]
fn layouts_are_named_contexts() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Sid])? else {
        return Ok(());
    };
    let base = layout(&lab, &Cairn::with(&lab, &Daemon::start(&lab)?), "base", "one")?;
    let mut daemon = Daemon::start_with(&lab, &lab.path("fresh"), "")?;
    let (cairn, buildx) = (Cairn::with(&lab, &daemon), Buildx::remote(&lab, &daemon)?);
    let dockerfile = "FROM base AS made\nCOPY <<x /env\n$FROM_BASE\nx\nFROM made\nCOPY --from=base /d /e\n";
    let context = lab.files("context", &[("Dockerfile", dockerfile)])?;
    let root = root_digest(&base)?;
    for (number, reference) in ["", ":v1", &format!("@{root}"), &format!(":any@{root}")]
        .into_iter()
        .enumerate()
    {
        let named = format!("base=oci-layout://{}{reference}", base.display());
        for client in ["buildx", "cairn"] {
            let dir = lab.path(&format!("out-{number}-{client}"));
            let args = [
                "build",
                "--build-context",
                &named,
                "-o",
                &format!("type=local,dest={}", dir.display()),
            ];
            let program = if client == "cairn" {
                cairn.command(args)?
            } else {
                buildx.command(args)?
            };
            program.args([&context]).run()?.success()?;
            ensure!(
                std::fs::read_to_string(dir.join("a"))? == "one",
                "{reference} by {client}"
            );
            ensure!(
                std::fs::read_to_string(dir.join("env"))? == "yes\n",
                "{reference} by {client}"
            );
            ensure!(dir.join("e/b").is_file(), "{reference} by {client}");
        }
    }
    daemon.stop()?;
    Ok(())
}
