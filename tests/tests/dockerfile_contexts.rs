//! Contexts and sources that are not the client's directory: repositories, web servers, archives, OCI layouts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use cairn_tests::git::{GitHttp, Repository};
use cairn_tests::{Buildx, Cairn, Daemon, Lab, Need, WebReply, WebServer};

/// When commits of test repositories are made.
const COMMITTED: i64 = 1_700_000_000;

struct Bench {
    web: WebServer,
    repositories: GitHttp,
    /// The commit of `repo.git`.
    commit: String,
    cairn: Cairn,
    daemon: Daemon,
    lab: Lab,
}

impl Bench {
    fn open(needs: &[Need]) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(needs)? else {
            return Ok(None);
        };
        let served = lab.files("served", &[("file.txt", "text\n"), ("index", "nameless\n")])?;
        let dockerfile = "FROM scratch\nCOPY . /from\nCOPY in.txt /picked/\n";
        let repository = [
            ("top.txt", "top\n"),
            ("Dockerfile", "FROM scratch\nCOPY top.txt /\n"),
            ("sub/in.txt", "in\n"),
            ("sub/Dockerfile", dockerfile),
            ("sub/.dockerignore", "in.txt\n"),
        ];
        let repository = Repository::new(&lab, "served/repo.git", &repository)?;
        repository.git(&["tag", "v1"])?;
        let commit = repository.git(&["rev-parse", "HEAD"])?;
        let repository = repository.dir();
        tar(&served.join("context.tar.gz"), &repository.join("sub"), "-czf")?;
        tar(&served.join("context.tar"), &repository.join("sub"), "-cf")?;
        std::fs::write(served.join("df"), "FROM scratch\nCOPY context /self\n")?;
        let daemon = Daemon::start(&lab)?;
        let repositories = GitHttp::start(&served, None)?;
        let web = WebServer::start(move |request| {
            let name = request.path.trim_start_matches('/');
            let file = std::fs::read(served.join(if name.is_empty() { "index" } else { name }));
            file.map_or_else(|_| WebReply::status("404 Not Found"), WebReply::file)
        })?;
        Ok(Some(Self {
            web,
            repositories,
            commit,
            cairn: Cairn::with(&lab, &daemon),
            daemon,
            lab,
        }))
    }

    /// The URL of a repository, or of a file.
    fn url(&self, name: &str) -> String {
        if name.contains(".git") {
            format!("http://{}/{name}", self.repositories.address())
        } else {
            self.web.url(&format!("/{name}"))
        }
    }

    fn out(&self) -> (PathBuf, String) {
        let out = self.lab.path("out");
        let output = format!("type=local,dest={}", out.display());
        (out, output)
    }

    /// The files of a build, by path and content.
    fn files(&self, args: &[&str]) -> anyhow::Result<Vec<(String, String)>> {
        let (out, output) = self.out();
        self.cairn
            .build(["-o", &output].into_iter().chain(args.iter().copied()))?;
        files_of(&out)
    }

    /// The files that instructions on top of nothing make.
    fn made_by(&self, instructions: &str) -> anyhow::Result<Vec<(String, String)>> {
        let context = self.context(instructions)?;
        self.files(&[&context])
    }

    /// What a build of these instructions says when it fails.
    fn complaint(&self, instructions: &str) -> anyhow::Result<String> {
        let context = self.context(instructions)?;
        let outcome = self.cairn.try_build([&context])?;
        ensure!(outcome.code == 1, "exit code {}:\n{}", outcome.code, outcome.remarks);
        Ok(outcome.remarks)
    }

    fn context(&self, instructions: &str) -> anyhow::Result<String> {
        let instructions = instructions
            .replace("http://host/repo.git", &self.url("repo.git"))
            .replace("http://host/", &self.url(""));
        let dockerfile = format!("FROM scratch\n{instructions}\n");
        let context = self
            .lab
            .files("context", &[("Dockerfile", &dockerfile), ("a", "A\n")])?;
        Ok(context.display().to_string())
    }
}

/// The files below a directory, which is removed then.
fn files_of(out: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(out).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            let path = entry.path().strip_prefix(out)?.display().to_string();
            let content = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
            files.push((path, content));
        }
    }
    std::fs::remove_dir_all(out)?;
    Ok(files)
}

fn expect(files: &[(String, String)], wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    ensure!(files == wanted, "{files:#?}\nbut wanted {wanted:#?}");
    Ok(())
}

fn tar(archive: &Path, dir: &Path, how: &str) -> anyhow::Result<()> {
    let status = Command::new("tar")
        .arg(how)
        .arg(archive)
        .arg("-C")
        .arg(dir)
        .arg(".")
        .status()?;
    ensure!(status.success(), "tar failed");
    Ok(())
}

#[test]
fn add_fetches_files_and_repositories() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    let zeros = "0".repeat(64);
    expect(
        &bench.made_by("ADD http://host/file.txt /x/")?,
        &[("x/file.txt", "text\n")],
    )?;
    expect(
        &bench.made_by("ADD http://host/ /x/")?,
        &[("x/__unnamed__", "nameless\n")],
    )?;
    expect(
        &bench.made_by("ADD http://host/file.txt a /x/")?,
        &[("x/a", "A\n"), ("x/file.txt", "text\n")],
    )?;
    let unpacked = bench.made_by("ADD --unpack http://host/context.tar.gz /x/")?;
    ensure!(
        unpacked.contains(&("x/in.txt".to_owned(), "in\n".to_owned())),
        "{unpacked:?}"
    );
    let whole = bench.made_by("ADD http://host/context.tar.gz /x/")?;
    ensure!(whole.len() == 1 && whole[0].0 == "x/context.tar.gz", "{whole:?}");
    for reference in [
        "#v1:sub",
        "?tag=v1&subdir=sub",
        "?branch=main&subdir=sub",
        &format!("#{}:sub", bench.commit),
    ] {
        let files = bench.made_by(&format!("ADD http://host/repo.git{reference} /g"))?;
        let names: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        ensure!(
            names == ["g/.dockerignore", "g/Dockerfile", "g/in.txt"],
            "{reference}: {names:?}"
        );
    }
    let kept = bench.made_by("ADD --keep-git-dir http://host/repo.git /g")?;
    ensure!(kept.iter().any(|(path, _)| path == "g/.git/HEAD"), "{kept:?}");
    let linked = bench.made_by("ADD --link http://host/repo.git?subdir=sub /g")?;
    ensure!(linked.len() == 3, "{linked:?}");
    for (add, wanted) in [
        (
            "ADD http://host/nope /x",
            "failed to load cache key: invalid response status 404",
        ),
        (
            &format!("ADD --checksum=sha256:{zeros} http://host/file.txt /x"),
            "digest mismatch sha256:",
        ),
        (
            "ADD --checksum=abcdef http://host/repo.git#v1 /g",
            &format!(
                "failed to load cache key: expected checksum to match abcdef, got {}",
                bench.commit
            ),
        ),
        (
            "ADD http://host/repo.git#nope /g",
            "repository does not contain ref nope, output: ",
        ),
        ("ADD http://host/repo.git#v1:nope /g", "invalid subdir"),
    ] {
        let said = bench.complaint(add)?;
        ensure!(said.contains(wanted), "{add}: no {wanted:?} in\n{said}");
        ensure!(said.contains("Dockerfile:2"), "{add}: no line in\n{said}");
    }
    Ok(())
}

#[test]
fn contexts_are_repositories_archives_and_files() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    let sub = [
        ("from/.dockerignore", "in.txt\n"),
        ("from/Dockerfile", "FROM scratch\nCOPY . /from\nCOPY in.txt /picked/\n"),
        ("from/in.txt", "in\n"),
        ("picked/in.txt", "in\n"),
    ];
    expect(&bench.files(&[&bench.url("repo.git")])?, &[("top.txt", "top\n")])?;
    expect(&bench.files(&[&bench.url("repo.git#v1:sub")])?, &sub)?;
    expect(&bench.files(&[&bench.url("repo.git?ref=main&subdir=sub")])?, &sub)?;
    expect(&bench.files(&[&bench.url("context.tar.gz")])?, &sub)?;
    expect(&bench.files(&[&bench.url("context.tar")])?, &sub)?;
    let file = bench.files(&[&bench.url("df")])?;
    ensure!(file.len() == 1 && file[0].0 == "self", "{file:?}");
    let missing = bench.cairn.try_build(["-f", "nope", &bench.url("repo.git")])?;
    ensure!(
        missing
            .remarks
            .contains("failed to read dockerfile: open nope: no such file or directory"),
        "{}",
        missing.remarks
    );
    Ok(())
}

#[test]
fn times_come_from_commits() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers])? else {
        return Ok(());
    };
    let (out, output) = bench.out();
    let context = bench.url("repo.git");
    bench
        .cairn
        .build(["-o", &output, "--build-arg", "SOURCE_DATE_EPOCH=context", &context])?;
    let modified = std::fs::metadata(out.join("top.txt"))?.modified()?;
    let seconds = modified.duration_since(std::time::UNIX_EPOCH)?.as_secs();
    ensure!(i64::try_from(seconds)? == COMMITTED, "{seconds}");
    Ok(())
}

#[test]
fn buildx_builds_from_everywhere() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let buildx = Buildx::remote(&bench.lab, &bench.daemon)?;
    let (out, output) = bench.out();
    let build = |args: &[&str], input: Option<Vec<u8>>| {
        let program = buildx
            .command(["build", "--progress", "plain", "-o", &output])?
            .args(args);
        let program = match input {
            Some(input) => program.input(input),
            None => program,
        };
        program.run()?.success()?;
        files_of(&out)
    };
    expect(&build(&[&bench.url("repo.git")], None)?, &[("top.txt", "top\n")])?;
    let archive = std::fs::read(bench.lab.path("served").join("context.tar"))?;
    let from_tar = build(&["-"], Some(archive)).context("a tar from standard input")?;
    ensure!(from_tar.iter().any(|(path, _)| path == "picked/in.txt"), "{from_tar:?}");
    let dockerfile = build(&["-"], Some(b"FROM scratch\nCOPY <<EOF /f\nhi\nEOF\n".to_vec()))?;
    expect(&dockerfile, &[("f", "hi\n")])?;

    // Named contexts: a file, a repository, a directory, an image, an image in an OCI layout.
    let layout = bench.lab.path("layout");
    let base = bench.context("COPY a /base")?;
    let tar = bench.lab.path("base.tar");
    let archived = format!("type=oci,dest={}", tar.display());
    buildx.command(["build", "-o", &archived, &base])?.run()?.success()?;
    std::fs::create_dir(&layout)?;
    let status = Command::new("tar")
        .arg("-xf")
        .arg(&tar)
        .arg("-C")
        .arg(&layout)
        .status()?;
    ensure!(status.success(), "tar failed");
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .context("the layout has an image")?;
    let dockerfile = "FROM base\nCOPY --from=web context /web\nCOPY --from=repo sub/in.txt /repo\nCOPY --from=dir a /dir\n\
                      COPY --from=other /bin/sh /release\n";
    let context = bench.lab.files("named", &[("Dockerfile", dockerfile)])?;
    let base = format!("base=oci-layout://{}@{digest}", layout.display());
    let web = format!("web={}", bench.url("file.txt"));
    let repository = format!("repo={}", bench.url("repo.git"));
    let directory = format!("dir={}", bench.lab.path("context").display());
    let mut args = Vec::new();
    for named in [&base, &web, &repository, &directory, "other=docker-image://alpine"] {
        args.extend(["--build-context", named]);
    }
    let context = context.display().to_string();
    args.push(&context);
    let files = build(&args, None)?;
    let names: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    ensure!(names == ["base", "dir", "release", "repo", "web"], "{files:?}");
    ensure!(
        files[4].1 == "text\n" && files[3].1 == "in\n" && files[0].1 == "A\n",
        "{files:?}"
    );
    Ok(())
}

#[test]
fn bake_hands_results_of_targets_on() -> anyhow::Result<()> {
    let Some(bench) = Bench::open(&[Need::Containers, Need::Sid])? else {
        return Ok(());
    };
    let buildx = Buildx::remote(&bench.lab, &bench.daemon)?;
    let (out, _) = bench.out();
    let definition = format!(
        "target \"base\" {{\n  dockerfile-inline = \"FROM scratch\\nCOPY a /base\\nENV A=b\\n\"\n}}\n\
         target \"default\" {{\n  contexts = {{ base = \"target:base\" }}\n  dockerfile-inline = \"FROM base\\nCOPY a /$A\\n\"\n  \
         output = [\"type=local,dest={}\"]\n}}\n",
        out.display()
    );
    let dir = bench
        .lab
        .files("baked", &[("docker-bake.hcl", &definition), ("a", "A\n")])?;
    buildx
        .command(["bake", "--progress", "plain", "--allow", "fs=*"])?
        .dir(&dir)
        .run()?
        .success()?;
    expect(&files_of(&out)?, &[("b", "A\n"), ("base", "A\n")])
}
