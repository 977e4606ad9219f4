//! Git repositories as sources, and the ssh agents of clients in steps.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_client::{Client, ClientError, SecretSource, SolveOptions};
use cairn_tests::git::{Agent, GitHttp, Repository, Sshd};
use cairn_tests::llb::{Graph, digest, source};
use cairn_tests::{Buildx, Cairn, Daemon, Lab, Need, to_dir};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "canary-token-4711";

/// A client that takes the files of one source at a time.
struct Taker {
    client: Client,
    lab: Lab,
    secrets: BTreeMap<String, SecretSource>,
    agents: BTreeMap<String, PathBuf>,
    layouts: BTreeMap<String, PathBuf>,
    taken: usize,
}

impl Taker {
    async fn new(lab: Lab, daemon: &Daemon) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::connect(&daemon.address().parse()?).await?,
            lab,
            secrets: BTreeMap::new(),
            agents: BTreeMap::new(),
            layouts: BTreeMap::new(),
            taken: 0,
        })
    }

    /// What comes of a source: a directory, and everything that was told on the way.
    async fn take(&mut self, identifier: &str, attrs: &[(&str, &str)]) -> (Result<PathBuf, ClientError>, String) {
        self.taken += 1;
        let dir = self.lab.path(&format!("taken-{}", self.taken));
        let mut graph = Graph::default();
        let digest = graph.add(&source(identifier, attrs));
        let options = SolveOptions {
            definition: Some(graph.asking_for(&digest, 0)),
            outputs: vec![to_dir(&dir)],
            secrets: self.secrets.clone(),
            ssh_agents: self.agents.clone(),
            layouts: self.layouts.clone(),
            ..SolveOptions::default()
        };
        let (events, mut news) = mpsc::channel(16);
        let mut told = String::new();
        let listen = async {
            while let Some(event) = news.recv().await {
                let _written = write!(told, "{event:?}");
            }
        };
        let (solved, ()) = tokio::join!(self.client.solve(options, events, CancellationToken::new()), listen);
        (solved.map(|_| dir), told)
    }

    async fn files(&mut self, identifier: &str, attrs: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
        let (dir, told) = self.take(identifier, attrs).await;
        names(&dir.with_context(|| format!("{identifier} {attrs:?}\n{told}"))?)
    }

    async fn error(&mut self, identifier: &str, attrs: &[(&str, &str)]) -> anyhow::Result<String> {
        let (outcome, _) = self.take(identifier, attrs).await;
        let error = outcome.err().with_context(|| format!("{identifier} is taken"))?;
        Ok(format!("{:#}", anyhow::Error::from(error)))
    }
}

fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether any file of the daemon's holds a text.
fn is_on_disk(root: &Path, text: &str) -> bool {
    let files = walkdir::WalkDir::new(root).into_iter().flatten();
    let mut contents =
        files.filter_map(|entry| entry.file_type().is_file().then(|| std::fs::read(entry.path()).ok())?);
    contents.any(|content| content.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// Whether any socket that leads to an agent is there.
fn has_sockets(root: &Path) -> bool {
    let mut files = walkdir::WalkDir::new(root).into_iter().flatten();
    files.any(|entry| entry.file_name() == "agent.sock")
}

#[tokio::test]
async fn commits_come_by_http_by_every_name() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Ssh])? else {
        return Ok(());
    };
    let repository = Repository::new(&lab, "served/repo.git", &[("a", "1"), ("sub/b", "2")])?;
    repository.git(&["tag", "--annotate", "--message=tag", "v1"])?;
    let first = repository.git(&["rev-parse", "HEAD"])?;
    let second = repository.commit(&[("c", "3")])?;
    std::os::unix::fs::symlink("/etc", repository.dir().join("out"))?;
    repository.commit(&[])?;
    let server = GitHttp::start(&lab.path("served"), None)?;
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let mut taker = Taker::new(lab, &daemon).await?;
    let (plain, url) = (
        format!("git://{}/repo.git", server.address()),
        format!("http://{}/repo.git", server.address()),
    );
    let full = [("git.fullurl", url.as_str())];
    for (fragment, expected) in [
        ("", &["a", "c", "out", "sub"][..]),
        ("#main", &["a", "c", "out", "sub"]),
        ("#v1", &["a", "sub"]),
        ("#refs/tags/v1:sub", &["b"]),
        ("#v1:../sub/../sub", &["b"]),
        (&format!("#{first}"), &["a", "sub"]),
        (&format!("#{second}"), &["a", "c", "sub"]),
    ] {
        let files = taker.files(&format!("{plain}{fragment}"), &full).await?;
        ensure!(files == expected, "{fragment}: {files:?}");
    }
    let kept = taker.files(&plain, &[full[0], ("git.keepgitdir", "true")]).await?;
    ensure!(kept.contains(&".git".to_owned()), "{kept:?}");
    let short = &first[..12];
    let files = taker
        .files(&format!("{plain}#v1"), &[full[0], ("git.checksum", short)])
        .await?;
    ensure!(files == ["a", "sub"], "{files:?}");
    let by_commit = [full[0], ("git.checksum", first.as_str()), ("git.fetchbycommit", "true")];
    let files = taker.files(&format!("{plain}#main"), &by_commit).await?;
    ensure!(files == ["a", "sub"], "{files:?}");

    let wrong = [full[0], ("git.checksum", "abcdef")];
    for (identifier, attrs, text) in [
        (
            format!("{plain}#none"),
            &full[..],
            r#"repository does not contain ref none, output: """#.to_owned(),
        ),
        (
            format!("{plain}#v1"),
            &wrong,
            format!("expected checksum to match abcdef, got {first}"),
        ),
        (format!("{plain}#:none"), &full, "invalid subdir /none".to_owned()),
        (format!("{plain}#:out"), &full, "invalid subdir /out".to_owned()),
        (
            format!("{plain}#--upload-pack=id"),
            &full,
            "invalid git ref \"--upload-pack=id\"".to_owned(),
        ),
        (
            "git:///etc".to_owned(),
            &[("git.fullurl", "file:///etc")],
            "protocol \"file\" is not allowed".to_owned(),
        ),
        (
            "git://x/y".to_owned(),
            &[("git.fullurl", "ext::sh -c id")],
            "git.fullurl is not a URL of".to_owned(),
        ),
        (
            "git://x/y".to_owned(),
            &[("git.fullurl", "--upload-pack=id")],
            "git.fullurl is not a URL of".to_owned(),
        ),
    ] {
        let error = taker.error(&identifier, attrs).await?;
        ensure!(error.contains(&text), "{identifier}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn credentials_reach_their_host_and_nothing_else() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Ssh])? else {
        return Ok(());
    };
    Repository::new(&lab, "served/repo.git", &[("a", "1")])?;
    Repository::new(&lab, "served/other.git", &[("b", "2")])?;
    let basic = format!("basic {}", STANDARD.encode(format!("x-access-token:{TOKEN}")));
    let by_token = GitHttp::start(&lab.path("served"), Some(basic))?;
    let by_header = GitHttp::start(&lab.path("served"), Some(format!("Bearer {TOKEN}")))?;
    let elsewhere = GitHttp::start(&lab.path("served"), None)?;
    let redirecting = GitHttp::redirect(format!("http://{}", elsewhere.address()))?;
    let token = lab.files(
        "secrets",
        &[("token", &format!("{TOKEN}\n")), ("header", &format!("Bearer {TOKEN}"))],
    )?;
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let mut taker = Taker::new(lab, &daemon).await?;
    let url = |server: &GitHttp| format!("http://{}/repo.git", server.address());
    let (token_url, header_url, redirect_url) = (url(&by_token), url(&by_header), url(&redirecting));
    let by_secrets = [
        ("git.authtokensecret", "GIT_AUTH_TOKEN"),
        ("git.authheadersecret", "GIT_AUTH_HEADER"),
    ];
    let [token_attrs, header_attrs, redirect_attrs] = [&token_url, &header_url, &redirect_url]
        .map(|url| [("git.fullurl", url.as_str()), by_secrets[0], by_secrets[1]]);

    let name = |url: &str| url.replace("http://", "git://");
    let refused = taker.error(&name(&token_url), &token_attrs).await?;
    ensure!(refused.contains("the remote wants credentials"), "{refused}");

    taker.secrets = [
        (
            format!("GIT_AUTH_HEADER.{}", by_header.address()),
            SecretSource::File(token.join("header")),
        ),
        ("GIT_AUTH_TOKEN".to_owned(), SecretSource::File(token.join("token"))),
    ]
    .into();
    for (url, attrs) in [(&token_url, &token_attrs), (&header_url, &header_attrs)] {
        let mut attrs = attrs.to_vec();
        attrs.push(("git.keepgitdir", "true"));
        let (dir, told) = taker.take(&name(url), &attrs).await;
        let dir = dir?;
        ensure!(names(&dir)? == [".git", "a"], "{:?}", names(&dir)?);
        ensure!(!told.contains(TOKEN) && !is_on_disk(&dir, TOKEN), "the token is told");
    }
    let redirected = taker.error(&name(&redirect_url), &redirect_attrs).await?;
    ensure!(redirected.contains("credentials are not carried there"), "{redirected}");
    ensure!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
    ensure!(
        !is_on_disk(daemon.root(), TOKEN),
        "the token is in a file of the daemon"
    );
    ensure!(!daemon.log().contains(TOKEN), "the token is in the log");

    // Without credentials the way may be longer.
    taker.secrets.clear();
    let files = taker.files(&name(&redirect_url), &redirect_attrs).await?;
    ensure!(files == ["a"], "{files:?}");
    // In the URL, where they should not be.
    let other_url = token_url.replace("repo.git", "other.git");
    let in_url = other_url.replace("http://", &format!("http://x-access-token:{TOKEN}@"));
    let (dir, told) = taker
        .take(
            &name(&other_url),
            &[("git.fullurl", &in_url), ("git.keepgitdir", "true")],
        )
        .await;
    let dir = dir?;
    ensure!(!told.contains(TOKEN) && !is_on_disk(&dir, TOKEN), "the token is told");
    Ok(())
}

#[tokio::test]
async fn repositories_come_by_ssh_with_the_clients_keys() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Ssh])? else {
        return Ok(());
    };
    let repository = Repository::new(&lab, "repo", &[("a", "1")])?;
    let agent = Agent::start(&lab)?;
    let server = Sshd::start(&lab, &agent)?;
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let url = format!("ssh://root@{}{}", server.address(), repository.dir().display());
    let identifier = format!("git://{}{}", server.address(), repository.dir().display());
    let mut taker = Taker::new(lab, &daemon).await?;
    let known = server.known_host();
    let attrs = [
        ("git.fullurl", url.as_str()),
        ("git.mountsshsock", "default"),
        ("git.knownsshhosts", known.as_str()),
    ];
    let missing = taker.error(&identifier, &attrs).await?;
    ensure!(
        missing.contains(r#"no SSH key "default" forwarded from the client"#),
        "{missing}"
    );

    taker.agents = [("default".to_owned(), agent.socket().to_owned())].into();
    let files = taker.files(&identifier, &attrs).await?;
    ensure!(files == ["a"], "{files:?}");
    // The key of the client is no key of this host.
    let host = known.split(' ').next().unwrap_or_default();
    let wrong = format!("{host} ssh-ed25519 {}", agent.key());
    let impostor = taker
        .error(&identifier, &[attrs[0], attrs[1], ("git.knownsshhosts", &wrong)])
        .await?;
    ensure!(impostor.contains("Host key verification failed"), "{impostor}");
    let without = taker.error(&identifier, &[attrs[0], attrs[2]]).await?;
    ensure!(
        without.contains("Permission denied"),
        "the daemon's own keys are used: {without}"
    );
    ensure!(!has_sockets(daemon.root()), "sockets of agents are left");
    Ok(())
}

/// Asks the agent for its keys, as `ssh-add -L` does.
const LIST_KEYS: &str = r#"
FROM debian
RUN --mount=type=ssh perl -MIO::Socket::UNIX -e ' \
  my $agent = IO::Socket::UNIX->new($ENV{SSH_AUTH_SOCK}) or die "no agent: $!"; \
  print $agent pack("NC", 1, 11); $agent->flush; \
  read $agent, my $head, 13; read $agent, my $key, unpack("N", substr $head, 9); \
  print "key " . unpack("H*", $key) . "\n"'
RUN --mount=type=ssh,id=none ! test -e /run/buildkit/ssh_agent.0 && ! test -e /run/buildkit
"#;

#[test]
fn steps_use_the_clients_agent_while_they_run() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid, Need::Ssh])? else {
        return Ok(());
    };
    let agent = Agent::start(&lab)?;
    let daemon = Daemon::start(&lab)?;
    let context = lab.files("context", &[("Dockerfile", LIST_KEYS)])?;
    let lent = format!("default={}", agent.socket().display());
    let listed = format!("key {}", hex::encode(STANDARD.decode(agent.key())?));

    let cairn = Cairn::with(&lab, &daemon);
    let built = cairn.build(["--ssh", &lent, &context.display().to_string()])?;
    let said = &built.progress.vertex("IO::Socket").log;
    ensure!(said.contains(&listed), "{said}");

    let buildx = Buildx::remote(&lab, &daemon)?;
    let built = buildx
        .build()?
        .args(["--no-cache", "--progress=plain", "--ssh", &lent])
        .args([&context])
        .run()?;
    let said = built.success()?.stderr;
    ensure!(said.contains(&listed), "{said}");

    let required = "FROM debian\nRUN --mount=type=ssh,required true\n";
    let context = lab.files("required", &[("Dockerfile", required)])?;
    let failed = cairn.try_build([&context])?;
    let expected = r#"no SSH key "" forwarded from the client"#;
    ensure!(
        failed.code != 0 && failed.remarks.contains(expected),
        "{}",
        failed.remarks
    );
    let refused = buildx.build()?.args(["--progress=plain"]).args([&context]).run()?;
    let expected = format!("{expected}: unset ssh forward key default");
    ensure!(refused.stderr.contains(&expected), "{}", refused.stderr);
    ensure!(!has_sockets(daemon.root()), "sockets of agents are left");
    Ok(())
}

#[test]
fn hosts_are_asked_for_their_keys_where_a_dockerfile_names_them() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Sid, Need::Ssh])? else {
        return Ok(());
    };
    let repository = Repository::new(&lab, "repo", &[("a", "1")])?;
    let agent = Agent::start(&lab)?;
    let server = Sshd::start(&lab, &agent)?;
    let daemon = Daemon::start(&lab)?;
    let url = format!("ssh://root@{}{}", server.address(), repository.dir().display());
    let dockerfile = format!("FROM scratch\nADD {url} /\n");
    let context = lab.files("context", &[("Dockerfile", &dockerfile)])?;

    let buildx = Buildx::remote(&lab, &daemon)?;
    let asked = buildx.command(["build", "--call", "convertllb,format=json"])?;
    let graph = asked.args([&context]).output()?;
    let known = server.known_host();
    let known: Vec<&str> = known.split_whitespace().take(3).collect();
    let known = format!("\"git.knownsshhosts\": \"{}\"", known.join(" "));
    ensure!(graph.contains(&known), "no {known} in {graph}");

    let out = lab.path("out");
    let (lent, dest) = (
        format!("default={}", agent.socket().display()),
        out.display().to_string(),
    );
    let built = buildx
        .command(["build", "--ssh", &lent, "-o", &dest])?
        .args([&context])
        .run()?;
    built.success()?;
    ensure!(std::fs::read_to_string(out.join("a"))? == "1");

    // Nobody answers there: it is the step that says so.
    let dockerfile = "FROM scratch\nADD ssh://root@127.0.0.1:1/repo /\n";
    let context = lab.files("nobody", &[("Dockerfile", dockerfile)])?;
    let failed = buildx.command(["build", "--ssh", &lent])?.args([&context]).run()?;
    ensure!(
        !failed.status.success() && failed.stderr.contains("Connection refused"),
        "{}",
        failed.stderr
    );
    Ok(())
}

/// An OCI layout with one blob in it; its digest.
fn layout_of(lab: &Lab, bytes: &[u8]) -> anyhow::Result<(PathBuf, String)> {
    let name = digest(bytes);
    let dir = lab.files("layout", &[("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)])?;
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    std::fs::write(blobs.join(name.trim_start_matches("sha256:")), bytes)?;
    std::fs::write(dir.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#)?;
    Ok((dir, name))
}

#[tokio::test]
async fn bundles_are_made_and_take_the_place_of_the_remote() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Ssh])? else {
        return Ok(());
    };
    let repository = Repository::new(&lab, "served/repo.git", &[("a", "1"), ("sub/b", "2")])?;
    let first = repository.git(&["rev-parse", "HEAD"])?;
    repository.git(&["tag", "--annotate", "--message=tag", "v1"])?;
    let second = repository.commit(&[("a", "2")])?;
    let server = GitHttp::start(&lab.path("served"), None)?;
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let mut taker = Taker::new(lab, &daemon).await?;
    let (plain, url) = (
        format!("git://{}/repo.git", server.address()),
        format!("http://{}/repo.git", server.address()),
    );
    let full = ("git.fullurl", url.as_str());
    let as_bundle = ("git.checkoutbundle", "true");
    let (made, told) = taker.take(&plain, &[full, as_bundle]).await;
    let made = made.with_context(|| told)?;
    ensure!(names(&made)? == ["bundle"]);
    let bundle = made.join("bundle");
    let cloned = taker.lab.path("cloned");
    let (from, into) = (bundle.display().to_string(), cloned.display().to_string());
    repository.git(&["clone", "--quiet", "--branch=main", &from, &into])?;
    ensure!(std::fs::read_to_string(cloned.join("a"))? == "2");
    ensure!(repository.git(&["-C", &into, "rev-list", "--count", "HEAD"])? == "2");
    // Its name is part of it.
    let (tagged, _) = taker.take(&format!("{plain}#v1"), &[full, as_bundle]).await;
    let heads = repository.git(&["bundle", "list-heads", &tagged?.join("bundle").display().to_string()])?;
    ensure!(heads.ends_with(" refs/tags/v1"), "{heads}");

    // From now on without the remote.
    drop(server);
    let (layout, name) = layout_of(&taker.lab, &std::fs::read(&bundle)?)?;
    taker.layouts.insert("store".to_owned(), layout);
    let locator = format!("oci-layout+blob://any/name@{name}");
    let from_bundle = ("git.bundle", locator.as_str());
    let store = ("oci.store", "store");
    let mut cases = vec![
        (plain.clone(), vec![("git.checksum", second.as_str())], "2"),
        (format!("{plain}#main"), vec![("git.checksum", &second[..10])], "2"),
        (format!("{plain}#{first}"), vec![("git.checksum", &first)], "1"),
    ];
    for (identifier, attrs, text) in &mut cases {
        attrs.extend([full, from_bundle, store]);
        let (taken, told) = taker.take(identifier, attrs).await;
        let taken = taken.with_context(|| format!("{identifier}: {told}"))?;
        ensure!(std::fs::read_to_string(taken.join("a"))? == *text, "{identifier}");
    }
    let kept = [
        full,
        from_bundle,
        store,
        ("git.checksum", &second),
        ("git.keepgitdir", "true"),
    ];
    let (taken, _) = taker.take(&format!("{plain}#main"), &kept).await;
    let taken = taken?.display().to_string();
    let origin = repository.git(&["-C", &taken, "config", "remote.origin.url"])?;
    ensure!(origin == url, "{origin}");

    let other = format!("oci-layout+blob://any/name@{}", digest(b"no bundle"));
    let web = format!("https://example.com/bundle@{name}");
    let refused: [(&[(&str, &str)], &str); 6] = [
        (&[full, from_bundle, store], "requires git.checksum to be set"),
        (
            &[full, ("git.bundle", &web), ("git.checksum", &first)],
            "git.bundle locator scheme \"https\" is not supported",
        ),
        (
            &[
                full,
                ("git.bundle", &other),
                store,
                ("git.checksum", &first),
                ("git.mtime", "commit"),
            ],
            "not found",
        ),
        (
            &[full, from_bundle, store, ("git.checksum", &"1".repeat(40))],
            "does not contain commit 1111",
        ),
        (
            &[full, as_bundle, ("git.keepgitdir", "true")],
            "git.checkoutbundle is incompatible with git.keepgitdir",
        ),
        (
            &[full, store],
            "oci.session and oci.store are for a git.bundle in an OCI layout",
        ),
    ];
    for (attrs, want) in refused {
        let error = taker.error(&plain, attrs).await?;
        ensure!(error.contains(want), "{error}\nwant {want}");
    }
    let error = taker.error(&format!("{plain}#main:sub"), &[full, as_bundle]).await?;
    ensure!(
        error.contains("git.checkoutbundle is incompatible with git.subdir"),
        "{error}"
    );
    Ok(())
}
