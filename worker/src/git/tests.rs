//! Against a real git, over its own protocol on the loopback address.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::error::{GitError, Stop};
use super::*;
use crate::executor::{OutputSink, OutputStream};
use crate::sys::Root;

/// Serves the repositories of a directory by `git daemon`, a process per connection; stopped when dropped.
struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let (is_stopped, base) = (stopped.clone(), format!("--base-path={}", dir.display()));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (input, output) = (OwnedFd::from(stream.try_clone().unwrap()), OwnedFd::from(stream));
                let mut served = git(Path::new("/"));
                served.args(["daemon", "--inetd", "--export-all", &base]);
                served.stdin(input).stdout(output).stderr(Stdio::null());
                drop(served.status());
            }
        });
        Self {
            address,
            stopped,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    for name in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{name}_NAME"), "Somebody");
        command.env(format!("GIT_{name}_EMAIL"), "somebody@example.com");
        command.env(format!("GIT_{name}_DATE"), "1700000000 +0100");
    }
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent");
    command.args(["-c", "safe.directory=*", "-c", "protocol.file.allow=always"]);
    command
}

fn run(dir: &Path, arguments: &[&str]) -> String {
    let output = git(dir).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct Quiet;

impl OutputSink for Quiet {
    fn output(&self, _: OutputStream, _: Bytes) {}
}

/// A store, and a server with the repository `repo` in a directory of its own.
struct Fixture {
    dir: tempfile::TempDir,
    store: GitStore,
    server: Server,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("served/repo");
        std::fs::create_dir_all(repo.join("sub/deep")).unwrap();
        run(&repo, &["init", "-q", "-b", "main"]);
        for (name, text) in [("a", "one"), ("sub/b", "two"), ("sub/deep/c", "three"), ("x.sh", "#!")] {
            std::fs::write(repo.join(name), text).unwrap();
        }
        std::fs::set_permissions(repo.join("x.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
        for (target, name) in [("/etc", "out"), ("sub", "in"), ("../../../../etc", "up")] {
            std::os::unix::fs::symlink(target, repo.join(name)).unwrap();
        }
        run(&repo, &["add", "."]);
        run(&repo, &["commit", "-q", "-m", "first"]);
        run(&repo, &["tag", "-a", "v1", "-m", "a tag"]);
        Self {
            store: GitStore::open(&dir.path().join("store")).unwrap(),
            server: Server::start(&dir.path().join("served")),
            dir,
        }
    }

    fn repo(&self) -> std::path::PathBuf {
        self.dir.path().join("served/repo")
    }

    fn access(&self, name: &str) -> Arc<Access> {
        let remote = Remote::parse(&format!("git://{}/{name}", self.server.address)).unwrap();
        Arc::new(Access {
            settings: Settings::new(&remote, None, SshAccess::default()).unwrap(),
            remote,
            bundle: None,
            log: Arc::new(Quiet),
        })
    }

    async fn fetch(&self, reference: &str) -> Result<Fetched, GitError> {
        let wanted = Wanted {
            reference: reference.to_owned(),
            ..Wanted::default()
        };
        let (access, cancel) = (self.access("repo"), CancellationToken::new());
        let found = self.store.resolve(&access, &wanted, &cancel).await?;
        self.store.fetch(access, found, &cancel).await
    }

    async fn check_out(&self, fetched: &Fetched, how: &CheckOut) -> Result<tempfile::TempDir, GitError> {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let cancel = CancellationToken::new();
        fetched
            .check_out(&self.access("repo"), root, dir.path(), how, &cancel)
            .await?;
        Ok(dir)
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn files_come_out_with_the_modes_and_times_that_are_meant() {
    let f = Fixture::new();
    let fetched = f.fetch("v1").await.unwrap();
    let how = CheckOut {
        mtime: Some(1_700_000_000),
        ..CheckOut::default()
    };
    let dir = f.check_out(&fetched, &how).await.unwrap();
    assert_eq!(names(dir.path()), ["a", "in", "out", "sub", "up", "x.sh"]);
    for (name, mode) in [("a", 0o644), ("x.sh", 0o755), ("sub", 0o755), ("sub/deep/c", 0o644)] {
        let metadata = std::fs::symlink_metadata(dir.path().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
        let age = metadata
            .modified()
            .unwrap()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert_eq!(age.as_secs(), 1_700_000_000, "{name}");
    }
    assert_eq!(std::fs::read_link(dir.path().join("out")).unwrap(), Path::new("/etc"));
    let meta = fetched
        .meta(&f.access("repo"), &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(
        (meta.reference.as_str(), meta.committed_at),
        ("refs/tags/v1", Some(1_700_000_000))
    );
    assert_eq!(meta.checksum, run(&f.repo(), &["rev-parse", "v1"]));
    assert_eq!(meta.commit_checksum, run(&f.repo(), &["rev-parse", "v1^{commit}"]));
    assert!(meta.tag_object.starts_with(b"object ") && meta.commit_object.starts_with(b"tree "));
}

#[tokio::test]
async fn every_way_to_name_a_commit_leads_to_it_and_known_ones_need_no_remote() {
    let mut f = Fixture::new();
    let first = run(&f.repo(), &["rev-parse", "HEAD"]);
    std::fs::write(f.repo().join("a"), "changed").unwrap();
    run(&f.repo(), &["commit", "-q", "-a", "-m", "second"]);
    run(&f.repo(), &["update-ref", "refs/pull/1/head", "HEAD"]);
    for (reference, text) in [
        ("", "changed"),
        ("HEAD", "changed"),
        ("main", "changed"),
        ("refs/heads/main", "changed"),
        ("refs/pull/1/head", "changed"),
        ("v1", "one"),
        (first.as_str(), "one"),
    ] {
        let fetched = f.fetch(reference).await.unwrap();
        let dir = f.check_out(&fetched, &CheckOut::default()).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join("a")).unwrap(),
            text,
            "{reference}"
        );
    }
    let missing = f.fetch("nosuch").await.err().unwrap();
    assert_eq!(
        missing.to_string(),
        r#"repository does not contain ref nosuch, output: """#
    );
    run(f.dir.path(), &["init", "-q", "--bare", "served/empty"]);
    for (name, words) in [
        ("empty", "could not find default branch for repository: git://"),
        ("gone", "error fetching default branch for repository git://"),
    ] {
        let (access, cancel) = (f.access(name), CancellationToken::new());
        let resolved = f.store.resolve(&access, &Wanted::default(), &cancel).await;
        let missing = resolved.err().unwrap();
        assert!(missing.to_string().contains(words), "{missing}");
    }
    let missing = f.fetch(&"1".repeat(40)).await.err().unwrap();
    assert!(matches!(missing, GitError::NoCommit { .. }), "{missing}");
    let option = f.fetch("--upload-pack=touch /tmp/x").await.err().unwrap();
    assert!(matches!(option, GitError::Reference { .. }), "{option}");
    let usage = f.store.usage().unwrap();
    assert_eq!(usage.len(), 1);
    assert!(
        usage[0].description.starts_with("shared git repo for git://127.0.0.1"),
        "{usage:?}"
    );

    // Without the remote what is known is still there.
    let access = f.access("repo");
    f.server = Server::start(Path::new("/nonexistent"));
    let known = Resolved {
        object: first.clone(),
        commit: first,
        name: None,
    };
    let kept = f.store.fetch(access, known, &CancellationToken::new()).await.unwrap();
    assert!(!f.store.remove(&usage[0].id).unwrap(), "it is in use");
    drop(kept);
    assert!(f.store.remove(&usage[0].id).unwrap());
    assert!(f.store.usage().unwrap().is_empty());
}

#[tokio::test]
async fn cve_2026_33748_parts_of_a_repository_stay_in_it() {
    let f = Fixture::new();
    let fetched = f.fetch("").await.unwrap();
    for subdir in ["sub", "in", "/sub/"] {
        let how = CheckOut {
            subdir: subdir.to_owned(),
            keep_git_dir: true,
            ..CheckOut::default()
        };
        let dir = f.check_out(&fetched, &how).await.unwrap();
        assert_eq!(names(dir.path()), ["b", "deep"], "{subdir}");
    }
    for (subdir, text) in [
        ("out", "invalid subdir /out"),
        ("up", "invalid subdir /up"),
        ("a", "invalid subdir /a"),
        ("none", "invalid subdir /none"),
    ] {
        let how = CheckOut {
            subdir: subdir.to_owned(),
            ..CheckOut::default()
        };
        let error = f.check_out(&fetched, &how).await.err().unwrap();
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test]
async fn repositories_without_commits_are_told_of_in_known_words() {
    let f = Fixture::new();
    let empty = f.dir.path().join("served/empty");
    std::fs::create_dir(&empty).unwrap();
    run(&empty, &["init", "-q", "-b", "main"]);
    let ask = async |name: &str, wanted: Wanted| {
        let cancel = CancellationToken::new();
        let found = f.store.resolve(&f.access(name), &wanted, &cancel).await;
        found.err().unwrap().to_string()
    };
    let url = |name: &str| format!("git://{}/{name}", f.server.address);
    let told = ask("empty", Wanted::default()).await;
    let want = format!("could not find default branch for repository: {}", url("empty"));
    assert_eq!(told, want);
    let told = ask("nowhere", Wanted::default()).await;
    let want = format!("error fetching default branch for repository {}", url("nowhere"));
    assert_eq!(told, want);
    let named = Wanted {
        reference: "v1".to_owned(),
        ..Wanted::default()
    };
    let told = ask("nowhere", named).await;
    let want = format!("failed to fetch remote {}: git stderr:", url("nowhere"));
    assert!(told.starts_with(&want), "{told}");
    let checked = Wanted {
        checksum: "xyz".to_owned(),
        ..Wanted::default()
    };
    let told = ask("repo", checked).await;
    assert_eq!(told, "invalid checksum xyz for Git URL, expected hex commit hash");
}

#[tokio::test]
async fn a_kept_repository_knows_its_origin_and_its_commit() {
    let f = Fixture::new();
    let fetched = f.fetch("main").await.unwrap();
    let how = CheckOut {
        keep_git_dir: true,
        submodules: true,
        ..CheckOut::default()
    };
    let dir = f.check_out(&fetched, &how).await.unwrap();
    assert_eq!(run(dir.path(), &["status", "--porcelain"]), "");
    assert_eq!(
        run(dir.path(), &["rev-parse", "HEAD"]),
        run(&f.repo(), &["rev-parse", "main"])
    );
    let origin = run(dir.path(), &["config", "remote.origin.url"]);
    assert_eq!(origin, format!("git://{}/repo", f.server.address));
    assert!(!dir.path().join(".git/hooks").exists());
}

#[tokio::test]
async fn submodules_come_along_but_not_from_this_machine() {
    let f = Fixture::new();
    let served = f.dir.path().join("served");
    let (repo, inner) = (f.repo(), served.join("inner"));
    std::fs::create_dir(&inner).unwrap();
    run(&inner, &["init", "-q", "-b", "main"]);
    std::fs::write(inner.join("i"), "inner").unwrap();
    run(&inner, &["add", "."]);
    run(&inner, &["commit", "-q", "-m", "inner"]);
    let url = format!("git://{}/inner", f.server.address);
    run(&repo, &["submodule", "--quiet", "add", &url, "module"]);
    run(&repo, &["commit", "-q", "-m", "with a module"]);
    let fetched = f.fetch("main").await.unwrap();
    for (submodules, expected) in [(true, vec!["i"]), (false, vec![])] {
        let how = CheckOut {
            submodules,
            ..CheckOut::default()
        };
        let dir = f.check_out(&fetched, &how).await.unwrap();
        assert_eq!(names(&dir.path().join("module")), expected);
        assert!(!dir.path().join(".git").exists());
    }
    drop(fetched);
    let hostile = [
        inner.display().to_string(),
        format!("file://{}", inner.display()),
        "ext::sh -c true".to_owned(),
    ];
    for url in hostile {
        let section = format!("[submodule \"module\"]\n\tpath = module\n\turl = {url}\n");
        std::fs::write(repo.join(".gitmodules"), section).unwrap();
        run(&repo, &["commit", "-q", "-a", "-m", "hostile"]);
        let fetched = f.fetch("main").await.unwrap();
        let how = CheckOut {
            submodules: true,
            ..CheckOut::default()
        };
        let error = f.check_out(&fetched, &how).await.err().unwrap().to_string();
        assert!(error.contains("not allowed"), "{url}: {error}");
        drop(fetched);
    }
}

#[tokio::test]
async fn a_repository_left_half_done_is_not_used_again() {
    let f = Fixture::new();
    drop(f.fetch("main").await.unwrap());
    let repositories = f.dir.path().join("store/repositories");
    let bare = repositories.join(&names(&repositories)[0]);
    for spoil in ["shallow.lock", "objects/pack/tmp_pack_x"] {
        std::fs::write(bare.join(spoil), "").unwrap();
        std::fs::write(bare.join("cairn-busy"), "").unwrap();
        std::fs::write(f.repo().join("a"), spoil).unwrap();
        run(&f.repo(), &["commit", "-q", "-a", "-m", "next"]);
        let fetched = f.fetch("main").await.unwrap();
        let dir = f.check_out(&fetched, &CheckOut::default()).await.unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), spoil);
        assert!(!bare.join(spoil).exists() && !bare.join("cairn-busy").exists());
    }
}

#[tokio::test]
async fn a_remote_that_never_answers_can_be_left() {
    let f = Fixture::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = Remote::parse(&format!("git://{}/repo", silent.local_addr().unwrap())).unwrap();
    let access = Access {
        settings: Settings::new(&remote, None, SshAccess::default()).unwrap(),
        remote,
        bundle: None,
        log: Arc::new(Quiet),
    };
    let cancel = CancellationToken::new();
    let waiting = async {
        let (listener, cancel) = (silent.try_clone().unwrap(), cancel.clone());
        tokio::task::spawn_blocking(move || {
            let connection = listener.accept().unwrap();
            cancel.cancel();
            connection
        })
        .await
        .unwrap()
    };
    let wanted = Wanted::default();
    let (outcome, _connection) = tokio::join!(f.store.resolve(&access, &wanted, &cancel), waiting);
    let error = outcome.unwrap_err();
    assert!(
        matches!(
            error,
            GitError::Stopped {
                why: Stop::Cancelled,
                clean: true
            }
        ),
        "{error}"
    );
}

/// A bundle in a file, and how often it was opened.
#[derive(Default)]
struct FileBundle {
    path: std::path::PathBuf,
    opened: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl OpenBundle for FileBundle {
    async fn open(&self) -> Result<std::fs::File, cairn_solver::WorkerError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        std::fs::File::open(&self.path).map_err(|error| cairn_solver::WorkerError::NotFound(error.to_string()))
    }
}

impl Fixture {
    /// The remote `name` as a bundle has it.
    fn bundled(&self, name: &str, path: &Path) -> (Arc<Access>, Arc<FileBundle>) {
        let blob = Arc::new(FileBundle {
            path: path.to_owned(),
            ..FileBundle::default()
        });
        let bytes = std::fs::read(path).unwrap_or_default();
        let mut access = self.access(name);
        Arc::get_mut(&mut access).unwrap().bundle = Some(Bundle {
            digest: cairn_solver::Digest::sha256(&bytes),
            blob: blob.clone(),
        });
        (access, blob)
    }

    async fn fetch_bundled(&self, access: &Arc<Access>, reference: &str, sum: &str) -> Result<Fetched, GitError> {
        let wanted = Wanted {
            reference: reference.to_owned(),
            checksum: sum.to_owned(),
            ..Wanted::default()
        };
        let cancel = CancellationToken::new();
        let found = self.store.resolve(access, &wanted, &cancel).await?;
        self.store.fetch(access.clone(), found, &cancel).await
    }

    /// Makes a bundle of what was fetched.
    async fn make_bundle(&self, access: &Access, fetched: &Fetched) -> Result<tempfile::TempDir, GitError> {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let cancel = CancellationToken::new();
        let time = Some(1_700_000_000);
        fetched.bundle(access, root, dir.path(), time, &cancel).await?;
        Ok(dir)
    }
}

#[tokio::test]
async fn bundles_hold_all_that_led_to_a_commit_under_its_name() {
    let f = Fixture::new();
    let first = run(&f.repo(), &["rev-parse", "HEAD"]);
    for text in ["2", "3"] {
        std::fs::write(f.repo().join("a"), text).unwrap();
        run(&f.repo(), &["commit", "-q", "-a", "-m", text]);
    }
    run(&f.repo(), &["tag", "-a", "v3", "-m", "a tag"]);
    run(&f.repo(), &["update-ref", "refs/pull/1/head", "HEAD"]);
    let last = run(&f.repo(), &["rev-parse", "HEAD"]);
    let access = f.access("repo");
    for (reference, name, count) in [
        ("", "refs/heads/main", "3"),
        ("main", "refs/heads/main", "3"),
        ("v3", "refs/tags/v3", "3"),
        ("v1", "refs/tags/v1", "1"),
        ("pull/1/head", "refs/pull/1/head", "3"),
        (&first, "refs/heads/main", "1"),
    ] {
        let fetched = f.fetch(reference).await.unwrap();
        let dir = f.make_bundle(&access, &fetched).await.unwrap();
        assert_eq!(names(dir.path()), ["bundle"], "{reference}");
        let file = dir.path().join("bundle");
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
        let age = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH);
        assert_eq!(age.unwrap().as_secs(), 1_700_000_000);
        let bundle = file.display().to_string();
        assert_eq!(
            run(&f.repo(), &["bundle", "list-heads", &bundle]).split(' ').nth(1),
            Some(name),
            "{reference}"
        );
        let into = tempfile::tempdir_in(f.dir.path()).unwrap();
        run(into.path(), &["init", "-q", "--bare"]);
        run(into.path(), &["fetch", "-q", &bundle, "+refs/*:refs/*"]);
        assert_eq!(run(into.path(), &["rev-list", "--count", name]), count, "{reference}");
        run(into.path(), &["fsck", "--strict"]);

        // And back again, as if it were the remote.
        let sum = run(into.path(), &["rev-parse", &format!("{name}^{{commit}}")]);
        let (bundled, blob) = f.bundled("nowhere", &file);
        for reference in ["", name, &sum] {
            let fetched = f.fetch_bundled(&bundled, reference, &sum).await.unwrap();
            let dir = f.check_out(&fetched, &CheckOut::default()).await.unwrap();
            let text = std::fs::read_to_string(dir.path().join("a")).unwrap();
            assert_eq!(text, if sum == last { "3" } else { "one" }, "{reference}");
        }
        // It is needed once, and not even then if it was taken over by an earlier build.
        assert!(blob.opened.load(Ordering::SeqCst) <= 1, "{reference}");
        let again = f.fetch_bundled(&bundled, name, &sum).await.unwrap();
        f.make_bundle(&bundled, &again).await.unwrap();
    }
}

#[tokio::test]
async fn bundles_of_others_give_what_was_asked_for_or_nothing() {
    let f = Fixture::new();
    let first = run(&f.repo(), &["rev-parse", "HEAD"]);
    std::fs::write(f.repo().join("a"), "2").unwrap();
    run(&f.repo(), &["commit", "-q", "-a", "-m", "second"]);
    let second = run(&f.repo(), &["rev-parse", "HEAD"]);
    let file = f.dir.path().join("made");
    let bundle = file.display().to_string();
    // References that look like those that we make ourselves.
    run(&f.repo(), &["update-ref", &format!("refs/cairn/at/{first}"), &second]);
    run(
        &f.repo(),
        &[
            "bundle",
            "create",
            "-q",
            &bundle,
            "main",
            &format!("refs/cairn/at/{first}"),
        ],
    );
    let (access, _) = f.bundled("repo", &file);
    let fetched = f.fetch_bundled(&access, "", &first).await.unwrap();
    let dir = f.check_out(&fetched, &CheckOut::default()).await.unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "one");
    // Whoever has one commit keeps others from being taken over.
    drop(fetched);
    let part = f.fetch_bundled(&access, "", &first[..12]).await.unwrap();
    assert_eq!(part.resolved.commit, first);
    drop(part);

    let wrong = f.fetch_bundled(&access, "main", &first).await.err().unwrap();
    assert!(matches!(wrong, GitError::Checksum { .. }), "{wrong}");
    for (reference, sum) in [("", &"1".repeat(40)), ("", &"1".repeat(12)), ("", &"1".repeat(64))] {
        let missing = f.fetch_bundled(&access, reference, sum).await.err().unwrap();
        assert!(matches!(missing, GitError::NoCommit { .. }), "{missing}");
    }
    let missing = f.fetch_bundled(&access, "v1", &first).await.err().unwrap();
    assert!(matches!(missing, GitError::NoReference { .. }), "{missing}");

    // Only the change, without what it changes.
    run(
        &f.repo(),
        &["bundle", "create", "-q", &bundle, "main", &format!("^{first}")],
    );
    let (access, _) = f.bundled("repo", &file);
    let incomplete = f.fetch_bundled(&access, "main", &second).await.err().unwrap();
    assert!(matches!(incomplete, GitError::Failed { .. }), "{incomplete}");

    std::fs::write(&file, "# v4 git bundle\n\n").unwrap();
    let (access, _) = f.bundled("repo", &file);
    let other = f.fetch_bundled(&access, "main", &second).await.err().unwrap();
    assert!(matches!(other, GitError::NotABundle(_)), "{other}");
    let (access, _) = f.bundled("repo", &f.dir.path().join("missing"));
    let gone = f.fetch_bundled(&access, "main", &second).await.err().unwrap();
    assert!(matches!(gone, GitError::NoBundle { .. }), "{gone}");
    // One for each bundle and length of hashes, and none for the remote itself.
    assert_eq!(f.store.usage().unwrap().len(), 3);
}

#[tokio::test]
async fn bundles_with_long_hashes_are_bundles_too() {
    let f = Fixture::new();
    let repo = f.dir.path().join("served/long");
    std::fs::create_dir(&repo).unwrap();
    run(&repo, &["init", "-q", "-b", "main", "--object-format=sha256"]);
    std::fs::write(repo.join("a"), "long").unwrap();
    run(&repo, &["add", "."]);
    run(&repo, &["commit", "-q", "-m", "first"]);
    let commit = run(&repo, &["rev-parse", "HEAD"]);
    let file = f.dir.path().join("made");
    run(&repo, &["bundle", "create", "-q", &file.display().to_string(), "main"]);
    let (access, _) = f.bundled("long", &file);
    for reference in ["", "main"] {
        let fetched = f.fetch_bundled(&access, reference, &commit).await.unwrap();
        let dir = f.check_out(&fetched, &CheckOut::default()).await.unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "long");
        let made = f.make_bundle(&access, &fetched).await.unwrap();
        let heads = run(
            &repo,
            &[
                "bundle",
                "list-heads",
                &made.path().join("bundle").display().to_string(),
            ],
        );
        assert_eq!(heads, format!("{commit} refs/heads/main"));
    }
}
