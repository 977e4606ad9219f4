//! Files behind URLs, and files that clients upload.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use cairn_client::{SecretSource, SolveOptions};
use cairn_proto::gateway::{ChecksumRequest, ResolveSourceHttpRequest, ResolveSourceMetaRequest};
use cairn_proto::pb;
use cairn_tests::driven::Driven;
use cairn_tests::llb::{digest, source};
use cairn_tests::{Buildx, Cairn, Daemon, Lab, Need, WebReply, WebServer, fetch};
use sha2::{Digest as _, Sha384, Sha512};

async fn refused(daemon: &Daemon, identifier: &str, attrs: &[(&str, &str)], dir: &Path) -> anyhow::Result<String> {
    let failed = fetch(daemon, &source(identifier, attrs), dir, SolveOptions::default()).await;
    Ok(failed.err().context("it was built")?.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_fetched_once_for_as_long_as_they_stay_the_same() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let version = Arc::new(AtomicUsize::new(1));
    let current = version.clone();
    let server = WebServer::start(move |request| {
        let version = current.load(Ordering::SeqCst);
        let tag = format!("\"v{version}\"");
        if request.headers.get("if-none-match") == Some(&tag) {
            return WebReply::status("304 Not Modified");
        }
        WebReply::file(format!("version {version}"))
            .header("etag", tag)
            .header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            .header("content-disposition", "attachment; filename=\"../../etc/named.txt\"")
    })?;
    let mut daemon = Daemon::start(&lab)?;
    let bodies = |server: &WebServer| {
        let requests = server.requests();
        requests
            .iter()
            .filter(|request| !request.headers.contains_key("if-none-match"))
            .count()
    };
    let url = server.url("/x/y?z=1");
    for (round, want_bodies, want) in [
        (0, 1, "version 1"),
        (1, 1, "version 1"),
        (2, 1, "version 1"),
        (3, 1, "version 2"),
    ] {
        if round == 2 {
            daemon.kill()?;
            daemon.start_again()?;
        }
        if round == 3 {
            version.store(2, Ordering::SeqCst);
        }
        let dir = lab.path(&format!("out{round}"));
        fetch(&daemon, &source(&url, &[]), &dir, SolveOptions::default()).await?;
        let metadata = dir.join("named.txt").metadata()?;
        ensure!(std::fs::read_to_string(dir.join("named.txt"))? == want, "round {round}");
        ensure!(
            metadata.mode() & 0o7777 == 0o600 && metadata.mtime() == 1_445_412_480,
            "round {round}"
        );
        ensure!(bodies(&server) == want_bodies, "round {round}: {:?}", server.requests());
    }
    ensure!(server.requests().len() == 4);
    daemon.stop()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_words_that_clients_know() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let server = WebServer::start(|request| match request.path.as_str() {
        "/secret"
            if request
                .headers
                .get("authorization")
                .is_none_or(|value| value != "Bearer t0ken") =>
        {
            WebReply::status("401 Unauthorized")
        }
        "/nope" => WebReply::status("404 Not Found"),
        _ => WebReply::file("text"),
    })?;
    let mut daemon = Daemon::start(&lab)?;
    let dir = lab.path("out");
    let missing = refused(&daemon, &server.url("/nope"), &[], &dir).await?;
    ensure!(
        missing.contains("failed to load cache key: invalid response status 404"),
        "{missing}"
    );
    let (zeros, text) = (format!("sha256:{}", "0".repeat(64)), cairn_tests::llb::digest(b"text"));
    let mismatch = refused(&daemon, &server.url("/f"), &[("http.checksum", &zeros)], &dir).await?;
    ensure!(
        mismatch.contains(&format!("digest mismatch {text}: {zeros}")),
        "{mismatch}"
    );
    let denied = refused(&daemon, &server.url("/secret"), &[], &dir).await?;
    ensure!(denied.contains("invalid response status 401"), "{denied}");
    let unknown = refused(&daemon, &server.url("/f"), &[("http.authheadersecret", "mine")], &dir).await?;
    ensure!(unknown.contains("secret mine: not found"), "{unknown}");

    std::fs::write(lab.path("token"), "t0ken")?;
    let secrets = [(
        "HTTP_AUTH_TOKEN_127.0.0.1".to_owned(),
        SecretSource::File(lab.path("token")),
    )];
    let options = SolveOptions {
        secrets: secrets.into(),
        ..SolveOptions::default()
    };
    let attrs = [
        ("http.filename", "got"),
        ("http.perm", "0644"),
        ("http.checksum", text.as_str()),
    ];
    fetch(&daemon, &source(&server.url("/secret"), &attrs), &dir, options).await?;
    ensure!(std::fs::read_to_string(dir.join("got"))? == "text");
    ensure!(dir.join("got").metadata()?.mode() & 0o7777 == 0o644);
    ensure!(!daemon.log().contains("t0ken"));
    daemon.stop()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_upload_is_a_file_too() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let dir = lab.path("out");
    let big = "0123456789".repeat(100_000);
    let stream: cairn_client::UploadSource = Box::new(std::io::Cursor::new(big.clone()));
    let options = SolveOptions {
        uploads: HashMap::from([("it".to_owned(), stream)]),
        ..SolveOptions::default()
    };
    let attrs = [("http.filename", "context")];
    fetch(&daemon, &source("http://buildkit-session/it", &attrs), &dir, options).await?;
    ensure!(std::fs::read_to_string(dir.join("context"))? == big);
    let gone = refused(&daemon, "http://buildkit-session/it", &attrs, &dir).await?;
    ensure!(gone.contains("failed to receive an upload"), "{gone}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn contexts_come_from_standard_input() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Sid])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let (cairn, buildx) = (Cairn::with(&lab, &daemon), Buildx::remote(&lab, &daemon)?);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [
        ("Dockerfile", "FROM scratch\nCOPY d /\n"),
        ("other", "FROM scratch\nCOPY d/f /g\n"),
        ("d/f", "hello"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes())?;
    }
    let tar = tar.into_inner()?;
    for (name, input, args, file) in [
        ("tar", tar.clone(), &[][..], "f"),
        ("named", tar, &["-f", "other"], "g"),
        (
            "dockerfile",
            b"FROM scratch\nCOPY <<x /h\nhello\nx\n".to_vec(),
            &[],
            "h",
        ),
    ] {
        for client in ["cairn", "buildx"] {
            let dir = lab.path(&format!("{name}-{client}"));
            let output = format!("type=local,dest={}", dir.display());
            let program = match client {
                "cairn" => cairn.command(["build", "-o", &output])?,
                _ => buildx.command(["build", "-o", &output])?,
            };
            program.args(args).args(["-"]).input(input.clone()).run()?.success()?;
            ensure!(
                std::fs::read_to_string(dir.join(file))?.trim() == "hello",
                "{name} by {client}"
            );
        }
    }
    daemon.stop()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_hashed_in_other_ways_and_with_what_signatures_add() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[])? else {
        return Ok(());
    };
    // Another file every time: what is hashed is the one that was described.
    let count = AtomicUsize::new(0);
    let server = WebServer::start(move |_| WebReply::file(format!("{}", count.fetch_add(1, Ordering::SeqCst))))?;
    let daemon = Daemon::start(&lab)?;
    let mut build = Driven::start(&daemon, "hashing").await?;
    let mut ask = async |algo: i32, suffix: Vec<u8>| {
        let request = build.request(ResolveSourceMetaRequest {
            source: Some(pb::SourceOp {
                identifier: server.url("/file"),
                ..pb::SourceOp::default()
            }),
            http: Some(ResolveSourceHttpRequest {
                checksum_request: Some(ChecksumRequest {
                    algo,
                    suffix: suffix.into(),
                }),
            }),
            ..ResolveSourceMetaRequest::default()
        });
        let answer = build.bridge.resolve_source_meta(request).await;
        answer.map(|answer| answer.into_inner().http.unwrap_or_default())
    };
    let plain = ask(0, Vec::new()).await?;
    ensure!(plain.checksum == digest(b"0"), "{plain:?}");
    for (algo, suffix, want) in [
        (0, "", digest(b"0")),
        (0, "end", digest(b"0end")),
        (1, "end", format!("sha384:{}", hex::encode(Sha384::digest("0end")))),
        (2, "end", format!("sha512:{}", hex::encode(Sha512::digest("0end")))),
    ] {
        let http = ask(algo, suffix.into()).await?;
        let hashed = http.checksum_response.unwrap_or_default();
        ensure!(hashed.digest == want && hashed.suffix == suffix, "{algo}: {hashed:?}");
        ensure!(http.checksum == digest(b"0"));
    }
    for (algo, suffix) in [(3, Vec::new()), (0, vec![0; (64 << 10) + 1])] {
        let refused = ask(algo, suffix).await.err().context("it was hashed")?;
        ensure!(refused.code() == tonic::Code::InvalidArgument, "{refused}");
    }
    ensure!(server.requests().len() == 1);
    Ok(())
}
