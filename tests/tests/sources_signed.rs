//! Commits, tags and files that somebody has to have signed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use cairn_client::SolveOptions;
use cairn_proto::gateway::{ResolveSourceGitRequest, ResolveSourceMetaRequest};
use cairn_proto::pb;
use cairn_tests::driven::Driven;
use cairn_tests::git::{GitHttp, Repository};
use cairn_tests::llb::{digest, source};
use cairn_tests::{Buildx, Daemon, Lab, Need, Program, WebReply, WebServer, fetch};
use serde_json::json;

type Attrs<'a> = &'a [(&'a str, &'a str)];

/// Takes the files of one source; the error in one line if they are refused.
async fn take(
    daemon: &Daemon,
    lab: &Lab,
    identifier: &str,
    attrs: Attrs<'_>,
) -> anyhow::Result<Result<PathBuf, String>> {
    let taken = lab.path("taken");
    if taken.exists() {
        std::fs::remove_dir_all(&taken)?;
    }
    let fetched = fetch(daemon, &source(identifier, attrs), &taken, SolveOptions::default()).await;
    Ok(fetched.map(|_| taken).map_err(|error| format!("{error:#}")))
}

/// Makes an ssh key; its path, and its public part.
fn ssh_key(lab: &Lab, name: &str) -> anyhow::Result<(String, String)> {
    let path = lab.path(name);
    let text = path.display().to_string();
    let make = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &text]);
    make.output()?;
    Ok((text, std::fs::read_to_string(path.with_extension("pub"))?))
}

/// Runs git so that it signs with an ssh key.
fn signing(repository: &Repository, key: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let key = format!("user.signingkey={key}");
    let mut all = vec!["-c", "gpg.format=ssh", "-c", &key];
    all.extend(arguments);
    repository.git(&all)
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_tags_have_to_be_signed_by_one_of_the_keys() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Ssh])? else {
        return Ok(());
    };
    let (our_path, ours) = ssh_key(&lab, "ours")?;
    let (their_path, theirs) = ssh_key(&lab, "theirs")?;
    let repository = Repository::new(&lab, "served/repo.git", &[("file", "unsigned")])?;
    let sign = |key: &str, arguments: &[&str]| signing(&repository, key, arguments);
    sign(&our_path, &["tag", "--sign", "--message=tag", "tagged"])?;
    repository.git(&["tag", "--annotate", "--message=tag", "plain"])?;
    repository.git(&["branch", "unsigned"])?;
    std::fs::write(repository.dir().join("file"), "signed")?;
    sign(&our_path, &["commit", "--quiet", "--all", "-S", "--message=change"])?;
    let signed = repository.git(&["rev-parse", "HEAD"])?;
    sign(&their_path, &["tag", "--sign", "--message=tag", "others"])?;
    let server = GitHttp::start(&lab.path("served"), None)?;
    let mut daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let (plain, url) = (
        format!("git://{}/repo.git", server.address()),
        format!("http://{}/repo.git", server.address()),
    );

    // Everything is here before anybody asks who signed it.
    for reference in ["tagged", "unsigned", "main"] {
        let taken = take(&daemon, &lab, &format!("{plain}#{reference}"), &[("git.fullurl", &url)]).await?;
        ensure!(taken.is_ok(), "{reference}: {taken:?}");
    }
    let none = "there is no signature";
    let no_tag = "there is no signed tag";
    let others = "none of the keys made the signature";
    let tag = ("git.sig.requiresignedtag", "true");
    let no = ("git.sig.ignoresignedtag", "true");
    let both = format!("{theirs}{ours}");
    let cases: [(&str, &str, Attrs<'_>, Result<&str, &str>); 16] = [
        ("unsigned", &ours, &[], Err(none)),
        ("plain", &ours, &[], Err(none)),
        ("tagged", &ours, &[], Ok("unsigned")),
        ("tagged", &ours, &[tag], Ok("unsigned")),
        ("tagged", &ours, &[no], Err(none)),
        ("tagged", &theirs, &[], Err(others)),
        ("tagged", &both, &[("git.keepgitdir", "true")], Ok("unsigned")),
        ("main", &ours, &[], Ok("signed")),
        ("main", &theirs, &[], Err(others)),
        ("main", &ours, &[tag], Err(no_tag)),
        (&signed, &ours, &[("git.checksum", &signed)], Ok("signed")),
        (&signed, &theirs, &[("git.checksum", &signed)], Err(others)),
        // A tag that somebody else signed leaves it to the commit, unless it has to be the tag.
        ("others", &ours, &[], Ok("signed")),
        ("others", &ours, &[tag], Err(others)),
        ("others", &theirs, &[tag], Ok("signed")),
        ("main", "no key", &[], Err(others)),
    ];
    for round in 0..2 {
        for (reference, keys, more, want) in &cases {
            let mut attrs = vec![("git.fullurl", url.as_str()), ("git.sig.pubkey", *keys)];
            attrs.extend(*more);
            let identifier = format!("{plain}#{reference}");
            let taken = take(&daemon, &lab, &identifier, &attrs).await?;
            match (&taken, want) {
                (Ok(dir), Ok(text)) => {
                    ensure!(
                        std::fs::read_to_string(dir.join("file"))? == *text,
                        "{identifier} {more:?}"
                    );
                }
                (Err(error), Err(text)) => ensure!(
                    error.contains("failed to verify the signature of") && error.contains(text),
                    "{identifier} {more:?}: {error}"
                ),
                _ => anyhow::bail!("round {round}, {identifier} {more:?}: {taken:?}, want {want:?}"),
            }
        }
        // All over again with nothing in memory.
        if round == 0 {
            daemon.stop()?;
            daemon.start_again()?;
        }
    }

    // What a frontend asks about is verified, too.
    let mut driven = Driven::start(&daemon, "asking").await?;
    let ask = |keys: &str| ResolveSourceMetaRequest {
        source: Some(pb::SourceOp {
            identifier: format!("{plain}#main"),
            attrs: [("git.fullurl", url.as_str()), ("git.sig.pubkey", keys)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }),
        git: Some(ResolveSourceGitRequest { return_object: true }),
        ..ResolveSourceMetaRequest::default()
    };
    let request = driven.request(ask(&ours));
    let told = driven.bridge.resolve_source_meta(request).await?.into_inner();
    ensure!(told.git.context("no answer")?.checksum == signed);
    let request = driven.request(ask(&theirs));
    let refused = driven.bridge.resolve_source_meta(request).await;
    let refused = refused.err().context("it is told")?;
    ensure!(refused.message().contains(others), "{refused}");
    drop(driven);
    daemon.stop()?;
    Ok(())
}

/// A home of gpg; its agent ends with it.
struct Gpg(PathBuf);

impl Gpg {
    fn new(lab: &Lab) -> anyhow::Result<Self> {
        // The path of the agent's socket has to be short.
        Ok(Self(lab.files("gpg", &[])?))
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let home = self.0.display().to_string();
        let fixed = [
            "--homedir",
            &home,
            "--quiet",
            "--batch",
            "--yes",
            "--pinentry-mode",
            "loopback",
        ];
        let program = Program::new("gpg")
            .args(fixed)
            .args(["--passphrase", ""])
            .args(arguments);
        program.output()
    }

    fn key(&self, name: &str) -> anyhow::Result<String> {
        self.run(&["--quick-generate-key", name, "ed25519", "sign", "never"])?;
        self.run(&["--armor", "--export", name])
    }

    fn sign(&self, name: &str, file: &Path) -> anyhow::Result<String> {
        let file = file.display().to_string();
        self.run(&["--armor", "--local-user", name, "--output", "-", "--detach-sign", &file])
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let home = self.0.display().to_string();
        let _ended = Program::new("gpgconf")
            .args(["--homedir", &home, "--kill", "all"])
            .output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_to_be_signed_by_one_of_the_keys() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Gpg])? else {
        return Ok(());
    };
    let gpg = Gpg::new(&lab)?;
    let (ours, theirs) = (gpg.key("ours")?, gpg.key("theirs")?);
    let file = lab.path("file");
    std::fs::write(&file, "contents")?;
    let signature = gpg.sign("ours", &file)?;
    let is_changed = Arc::new(AtomicBool::new(false));
    let changed = is_changed.clone();
    let server = WebServer::start(move |request| match request.path.as_str() {
        "/file" if changed.load(Ordering::SeqCst) => WebReply::file("CONTENTS"),
        "/file" => WebReply::file("contents"),
        _ => WebReply::status("404 Not Found"),
    })?;
    let mut daemon = Daemon::start(&lab)?;
    let url = server.url("/file");
    let checksum = digest(b"contents");
    let signed = ("http.sig.signature", signature.as_str());
    let (our_key, their_key) = (("http.sig.pubkey", ours.as_str()), ("http.sig.pubkey", theirs.as_str()));
    let pinned = ("http.checksum", checksum.as_str());
    let others = "failed to verify the signature of file: none of the keys made the signature";
    let alone = "http.sig.pubkey and http.sig.signature do not go without each other";
    let junk = "failed to verify the signature of file: failed to read an OpenPGP signature: there is none";
    let cases: [(Attrs<'_>, Option<&str>); 8] = [
        (&[pinned], None),
        (&[pinned, signed, their_key], Some(others)),
        (&[signed, their_key], Some(others)),
        (&[pinned, signed, our_key], None),
        (&[signed, our_key], None),
        (&[our_key], Some(alone)),
        (&[signed], Some(alone)),
        (&[our_key, ("http.sig.signature", "none")], Some(junk)),
    ];
    for round in 0..2 {
        for (attrs, want) in cases {
            let taken = take(&daemon, &lab, &url, attrs).await?;
            match (&taken, want) {
                (Ok(dir), None) => ensure!(std::fs::read_to_string(dir.join("file"))? == "contents"),
                (Err(error), Some(text)) => ensure!(error.contains(text), "{error}"),
                _ => anyhow::bail!("round {round}: {taken:?}, want {want:?} for {:?}", attrs.len()),
            }
        }
        if round == 0 {
            daemon.stop()?;
            daemon.start_again()?;
        }
    }
    is_changed.store(true, Ordering::SeqCst);
    let taken = take(&daemon, &lab, &url, &[signed, our_key]).await?;
    ensure!(taken.as_ref().is_err_and(|error| error.contains(others)), "{taken:?}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn rules_of_clients_demand_signatures() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Gpg, Need::Sid])? else {
        return Ok(());
    };
    let gpg = Gpg::new(&lab)?;
    let (ours, theirs) = (gpg.key("ours")?, gpg.key("theirs")?);
    let file = lab.path("file");
    std::fs::write(&file, "contents")?;
    let signature = gpg.sign("ours", &file)?;
    let server = WebServer::start(|_| WebReply::file("contents"))?;
    let mut daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let url = server.url("/file");
    let context = lab.files("context", &[("Dockerfile", &format!("FROM scratch\nADD {url} /\n"))])?;
    let policy = lab.path("policy.json");
    for (keys, is_built) in [(ours, true), (theirs, false)] {
        let rule = json!({
            "action": "CONVERT",
            "selector": { "identifier": url, "match_type": "EXACT" },
            "updates": {
                "identifier": url,
                "attrs": { "http.sig.pubkey": keys, "http.sig.signature": signature },
            },
        });
        std::fs::write(&policy, json!({ "rules": [rule] }).to_string())?;
        let output = format!("type=local,dest={}", lab.path("out").display());
        let program = buildx.command(["build", "--progress", "plain", "-o", &output])?;
        let program = program.env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", &policy);
        let finished = program.args([&context]).run()?;
        ensure!(finished.status.success() == is_built, "{}", finished.stderr);
        if !is_built {
            ensure!(
                finished.stderr.contains("none of the keys made the signature"),
                "{}",
                finished.stderr
            );
        }
    }
    daemon.stop()?;
    Ok(())
}
