//! Names of files that are no text: in Linux they are bytes, and arrive as they are wherever files do.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use cairn_proto::gateway::{ReadDirRequest, ReadFileRequest, SolveRequest, StatFileRequest, result};
use cairn_proto::names;
use cairn_tests::driven::Driven;
use cairn_tests::git::{GitHttp, Repository};
use cairn_tests::llb::{Graph, source};
use cairn_tests::{Buildx, Cairn, Daemon, Image, Lab, Need, lab};
use walkdir::WalkDir;

/// Files and links by path, with what they hold.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

const DOCKERFILE: &str = "FROM docker.io/library/alpine:latest AS made
COPY . /all/
COPY caf* /wild/
COPY caf?.txt /one/
COPY --exclude=caf?.txt --exclude=*.tar . /rest/
COPY link/ /followed/
ADD packed.tar /unpacked/
RUN rm /all/packed.tar && mv /all/d*/in* /renamed && mv \"$(printf /all/twin'\\351')\" /made && echo new > \"/$(printf 'n\\344me')\"
FROM scratch
COPY --from=made /all /all
COPY --from=made /wild /wild
COPY --from=made /one /one
COPY --from=made /rest /rest
COPY --from=made /followed /followed
COPY --from=made /unpacked /unpacked
COPY --from=made /renamed /made /n*me /
";

const IGNORE: &str = "ign*\nDockerfile\n";

fn at(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(names::path(name))
}

/// Names that look alike where they are taken for text, a directory, links, an archive, and what is ignored.
fn context(lab: &Lab) -> anyhow::Result<PathBuf> {
    let texts = [("Dockerfile", DOCKERFILE), (".dockerignore", IGNORE)];
    let dir = lab.files("context", &texts)?;
    fs::create_dir(at(&dir, b"d\xff"))?;
    for (name, content) in [
        (&b"caf\xe9.txt"[..], "latin"),
        (b"caf\xe8.txt", "other"),
        ("café.txt".as_bytes(), "utf-8"),
        (b"d\xff/in\xfe", "inner"),
        (b"ign\xfe", "ignored"),
    ] {
        fs::write(at(&dir, name), content)?;
    }
    symlink(names::path(b"d\xff"), at(&dir, b"link"))?;
    symlink(names::path(b"\xe9"), at(&dir, b"dangling\xc3"))?;
    fs::hard_link(at(&dir, b"caf\xe9.txt"), at(&dir, b"twin\xe9"))?;
    let mut archive = tar::Builder::new(File::create(dir.join("packed.tar"))?);
    let mut header = tar::Header::new_ustar();
    header.set_size(6);
    header.set_mode(0o644);
    archive.append_data(&mut header, names::path(b"p\xe4cked"), &b"packed"[..])?;
    archive.finish()?;
    Ok(dir)
}

/// What comes out.
fn expected() -> Files {
    let rows: &[(&[u8], &[u8])] = &[
        (b"all/.dockerignore", IGNORE.as_bytes()),
        ("all/café.txt".as_bytes(), b"utf-8"),
        (b"all/caf\xe8.txt", b"other"),
        (b"all/caf\xe9.txt", b"latin"),
        (b"all/dangling\xc3", b"\xe9"),
        (b"all/link", b"d\xff"),
        ("wild/café.txt".as_bytes(), b"utf-8"),
        (b"wild/caf\xe8.txt", b"other"),
        (b"wild/caf\xe9.txt", b"latin"),
        ("one/café.txt".as_bytes(), b"utf-8"),
        (b"one/caf\xe8.txt", b"other"),
        (b"one/caf\xe9.txt", b"latin"),
        (b"rest/.dockerignore", IGNORE.as_bytes()),
        (b"rest/d\xff/in\xfe", b"inner"),
        (b"rest/dangling\xc3", b"\xe9"),
        (b"rest/link", b"d\xff"),
        (b"rest/twin\xe9", b"latin"),
        (b"followed/in\xfe", b"inner"),
        (b"unpacked/p\xe4cked", b"packed"),
        (b"renamed", b"inner"),
        (b"made", b"latin"),
        (b"n\xe4me", b"new\n"),
    ];
    rows.iter()
        .map(|(path, content)| (path.to_vec(), content.to_vec()))
        .collect()
}

fn in_directory(dir: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for entry in WalkDir::new(dir) {
        let entry = entry?;
        let kind = entry.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(entry.path())?.into_os_string().into_vec()
        } else if kind.is_file() {
            fs::read(entry.path())?
        } else {
            continue;
        };
        let path = entry.path().strip_prefix(dir)?;
        files.insert(path.as_os_str().as_bytes().to_vec(), content);
    }
    Ok(files)
}

fn in_archive(path: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for entry in tar::Archive::new(File::open(path)?).entries()? {
        let mut entry = entry?;
        let name = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        let kind = entry.header().entry_type();
        let content = match link {
            Some(first) if kind.is_hard_link() => files.get(&first).context("a link to nothing")?.clone(),
            Some(target) => target,
            None if kind.is_file() => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                content
            }
            None => continue,
        };
        files.insert(name, content);
    }
    Ok(files)
}

fn expect(what: &str, found: &Files, expected: &Files) -> anyhow::Result<()> {
    if found == expected {
        return Ok(());
    }
    let shown = |files: &Files| -> Vec<String> {
        let lines = files
            .iter()
            .map(|(path, content)| format!("{}: {}", path.escape_ascii(), content.escape_ascii()));
        lines.collect()
    };
    bail!("{what}: {:#?}\ninstead of {:#?}", shown(found), shown(expected))
}

#[test]
fn they_come_and_go_as_they_are() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let (context, daemon) = (context(&lab)?, Daemon::start(&lab)?);
    let buildx = Buildx::remote(&lab, &daemon)?;
    let output = |kind: &str, dest: &Path| format!("--output=type={kind},dest={}", dest.display());
    let (dir, tar, oci) = (lab.path("out"), lab.path("out.tar"), lab.path("oci.tar"));
    let outputs = [output("local", &dir), output("tar", &tar), output("oci", &oci)];
    buildx.build()?.args(&outputs).args([&context]).output()?;
    let mut want = expected();
    expect("the directory", &in_directory(&dir)?, &want)?;
    expect("the archive", &in_archive(&tar)?, &want)?;
    let image = Image::from_oci(&lab, &oci)?;
    expect("the image", &in_directory(&image.path(""))?, &want)?;

    // What has changed is sent again, and nothing else is taken for it.
    fs::write(at(&context, b"caf\xe9.txt"), "changed")?;
    fs::rename(at(&context, b"caf\xe8.txt"), at(&context, b"caf\xea.txt"))?;
    let second = lab.path("second");
    buildx
        .build()?
        .args([output("local", &second)])
        .args([&context])
        .output()?;
    for (path, content) in std::mem::take(&mut want) {
        let renamed = path
            .iter()
            .map(|&byte| if byte == 0xe8 { 0xea } else { byte })
            .collect();
        let is_changed = content == b"latin";
        want.insert(renamed, if is_changed { b"changed".to_vec() } else { content });
    }
    expect("the second directory", &in_directory(&second)?, &want)?;

    // The same with the client of this project, and the daemon inside it. What is gone from the result goes from the
    // first directory.
    let renamed = at(lab.dir(), b"c\xf6ntext");
    fs::rename(&context, &renamed)?;
    let config = lab.path("alone.toml");
    fs::write(&config, lab::mirror_config(&lab::base_registry()?))?;
    let cairns = [
        ("cairn", Cairn::with(&lab, &daemon)),
        ("cairn alone", Cairn::alone(&lab, &lab.path("alone"), &config)),
    ];
    for (name, cairn) in cairns {
        let mirrored = format!("{},mode=delete", output("local", &dir));
        cairn.build([OsStr::new(&mirrored), renamed.as_os_str()])?;
        expect(name, &in_directory(&dir)?, &want)?;
    }
    Ok(())
}

#[tokio::test]
async fn they_come_out_of_repositories_and_are_read_one_by_one() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Ssh])? else {
        return Ok(());
    };
    let dir = lab.files("served/repo.git", &[])?;
    fs::write(at(&dir, b"caf\xe9.txt"), "latin")?;
    symlink(names::path(b"caf\xe9.txt"), at(&dir, b"l\xefnk"))?;
    Repository::new(&lab, "served/repo.git", &[("plain", "text")])?;
    let server = GitHttp::start(&lab.path("served"), None)?;
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let mut build = Driven::start(&daemon, "names").await?;
    let mut graph = Graph::default();
    let url = format!("http://{}/repo.git", server.address());
    let identifier = url.replace("http://", "git://");
    let files = graph.add(&source(&identifier, &[("git.fullurl", url.as_str())]));
    let request = build.request(SolveRequest {
        definition: Some(graph.asking_for(&files, 0)),
        allow_result_return: true,
        ..SolveRequest::default()
    });
    let solved = build.bridge.solve(request).await?.into_inner().result;
    let Some(result::Result::Ref(made)) = solved.and_then(|result| result.result) else {
        bail!("another result")
    };
    let id = made.id;

    for (pattern, want) in [
        (&b""[..], &[&b"caf\xe9.txt"[..], b"l\xefnk", b"plain"][..]),
        (b"caf?.*", &[b"caf\xe9.txt"]),
        (b"l[^i]nk", &[b"l\xefnk"]),
        (b"*\xe9.*", &[b"caf\xe9.txt"]),
        (b"caf\xe8.txt", &[]),
        ("caf\u{fffd}.txt".as_bytes(), &[]),
    ] {
        let request = build.request(ReadDirRequest {
            r#ref: id.clone(),
            dir_path: "/".into(),
            include_pattern: pattern.into(),
            ..ReadDirRequest::default()
        });
        let entries = build.bridge.read_dir(request).await?.into_inner().entries;
        let found: Vec<&[u8]> = entries.iter().map(|stat| stat.path.as_slice()).collect();
        ensure!(found == want, "{}: {entries:?}", pattern.escape_ascii());
    }
    let request = build.request(StatFileRequest {
        r#ref: id.clone(),
        path: b"/l\xefnk"[..].into(),
        ..StatFileRequest::default()
    });
    let stat = build
        .bridge
        .stat_file(request)
        .await?
        .into_inner()
        .stat
        .context("no stat")?;
    ensure!(
        (&stat.path[..], &stat.linkname[..]) == (b"l\xefnk", b"caf\xe9.txt"),
        "{stat:?}"
    );
    let read = |path: &'static [u8]| ReadFileRequest {
        r#ref: id.clone(),
        file_path: path.into(),
        ..ReadFileRequest::default()
    };
    let request = build.request(read(b"/l\xefnk"));
    let data = build.bridge.read_file(request).await?.into_inner().data;
    ensure!(data == "latin", "{data:?}");
    let request = build.request(read(b"/caf\xe8.txt"));
    let refused = build.bridge.read_file(request).await.err().context("it was read")?;
    ensure!(refused.message().contains("no such file or directory"), "{refused:?}");
    Ok(())
}
