//! Which files Dockerfiles make, for many Dockerfiles: what the reference implementation made of them stands in
//! `data/dockerfile`, whose numbered rows continue those of the frontend's own tests.
//!
//! With `CAIRN_BLESS` set, the files are written anew from what comes out.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use cairn_tests::{Cairn, Daemon, Lab, Need, Program};

/// A Dockerfile, what it is built in, and what has to come out.
#[derive(Default)]
struct Row {
    name: String,
    /// The lines that make its context.
    context: Vec<String>,
    ignore: Vec<String>,
    dockerfile: String,
    /// Part of what is said when it fails.
    error: Option<String>,
    /// The files, one per line.
    files: Vec<String>,
    /// All lines but what comes out.
    given: Vec<String>,
}

#[test]
fn copies_and_additions() -> anyhow::Result<()> {
    check("copy.txt", &[Need::Containers, Need::Bases])
}

#[test]
fn heredocs() -> anyhow::Result<()> {
    check("heredoc.txt", &[Need::Containers])
}

#[test]
fn ignore_files() -> anyhow::Result<()> {
    check("ignore.txt", &[Need::Containers])
}

fn check(data: &str, needs: &[Need]) -> anyhow::Result<()> {
    let Some(lab) = Lab::open(needs)? else {
        return Ok(());
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/dockerfile").join(data);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (head, rows) = rows(&text)?;
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let (mut blessed, mut failures) = (head, String::new());
    for (index, row) in rows.iter().enumerate() {
        let (files, error) = build(&lab, &cairn, row, index).with_context(|| row.name.clone())?;
        let matches = match (&row.error, &error) {
            (Some(want), Some(error)) => error.contains(want.as_str()),
            (None, None) => files == row.files,
            _ => false,
        };
        if !matches {
            writeln!(
                failures,
                "## {}\n{}\n{error:?}\n{files:#?}\n",
                row.name,
                row.given.join("\n")
            )?;
        }
        writeln!(blessed, "## {}\n{}", row.name, row.given.join("\n"))?;
        match (&row.error, error) {
            (Some(want), Some(_)) if matches => writeln!(blessed, "error {want}")?,
            (_, Some(error)) => writeln!(blessed, "error {}", error.lines().last().unwrap_or_default())?,
            (_, None) => files.iter().try_for_each(|file| writeln!(blessed, "= {file}"))?,
        }
        blessed.push('\n');
    }
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, blessed)?;
        return Ok(());
    }
    ensure!(failures.is_empty(), "{data}:\n{failures}");
    Ok(())
}

/// The text above the first row with the contexts it describes, and the rows.
fn rows(text: &str) -> anyhow::Result<(String, Vec<Row>)> {
    let start = text.find("\n## ").context("there are no rows")? + 1;
    let (head, body) = text.split_at(start);
    let mut rows: Vec<Row> = Vec::new();
    for line in body.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            rows.push(Row {
                name: name.to_owned(),
                ..Row::default()
            });
            continue;
        }
        let row = rows.last_mut().context("a row begins with its name")?;
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "" => continue,
            "=" => row.files.push(rest.to_owned()),
            "error" => row.error = Some(rest.to_owned()),
            _ => row.given.push(line.to_owned()),
        }
        match key {
            "in" => row.context = context(head, rest)?,
            "ignore" => row.ignore.push(rest.to_owned()),
            "|" => {
                row.dockerfile.push_str(&rest.replace("\\t", "\t").replace("\\r", "\r"));
                row.dockerfile.push('\n');
            }
            "=" | "error" => {}
            _ => bail!("{}: what is {line:?}?", row.name),
        }
    }
    Ok((head.to_owned(), rows))
}

fn context(head: &str, name: &str) -> anyhow::Result<Vec<String>> {
    let lines = head
        .lines()
        .skip_while(|line| *line != format!("context {name}"))
        .skip(1);
    let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).map(str::to_owned).collect();
    ensure!(!lines.is_empty(), "there is no context {name}");
    Ok(lines)
}

/// Builds a row. Returns the files, or what was said when it failed.
fn build(lab: &Lab, cairn: &Cairn, row: &Row, index: usize) -> anyhow::Result<(Vec<String>, Option<String>)> {
    let dir = lab.files(&format!("context{index}"), &[("Dockerfile", &row.dockerfile)])?;
    row.context.iter().try_for_each(|line| make(&dir, line))?;
    if !row.ignore.is_empty() {
        std::fs::write(dir.join(".dockerignore"), row.ignore.join("\n"))?;
    }
    let tar = lab.path(&format!("out{index}.tar"));
    let output = format!("type=tar,dest={}", tar.display());
    let outcome = cairn.try_build(["-o", output.as_str(), &dir.display().to_string()])?;
    if outcome.code != 0 {
        return Ok((Vec::new(), Some(outcome.remarks)));
    }
    Ok((listing(&tar)?, None))
}

/// Makes one file of a context.
fn make(dir: &Path, line: &str) -> anyhow::Result<()> {
    let mut words = line.splitn(3, ' ');
    let (kind, name, rest) = (
        words.next(),
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path = dir.join(name.replace('_', " "));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match kind {
        Some("file") => std::fs::write(&path, rest)?,
        Some("link") => symlink(rest, &path)?,
        Some("tar") => std::fs::write(&path, archive()?)?,
        Some("gzip") => {
            let plain = if rest.is_empty() {
                archive()?
            } else {
                rest.as_bytes().to_vec()
            };
            std::fs::write(&path, plain)?;
            Program::new("gzip")
                .args(["-f", "-S", ".z"])
                .args([&path])
                .run()?
                .success()?;
            std::fs::rename(dir.join(format!("{name}.z")), &path)?;
        }
        _ => bail!("what is {line:?}?"),
    }
    Ok(())
}

/// An archive with the one file `q`.
fn archive() -> anyhow::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o640);
    header.set_uid(1000);
    header.set_gid(1000);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, "q", &b"Q"[..])?;
    Ok(builder.into_inner()?)
}

/// What an archive holds: path, mode, owner if it is not root, and content or target.
fn listing(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in tar::Archive::new(std::fs::File::open(path)?).entries()? {
        let mut entry = entry?;
        let header = entry.header();
        let mut line = entry.path()?.display().to_string();
        let owner = (header.uid()?, header.gid()?);
        let mode = header.mode()? & 0o7777;
        match entry.link_name()? {
            Some(target) => write!(line, " -> {}", target.display())?,
            None => write!(line, " {mode:o}")?,
        }
        if owner != (0, 0) {
            write!(line, " {}:{}", owner.0, owner.1)?;
        }
        if header.entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            match String::from_utf8(bytes) {
                Ok(text) if !text.contains('\0') => write!(line, " {text:?}")?,
                _ => write!(line, " binary")?,
            }
        }
        lines.push(line);
    }
    lines.sort();
    Ok(lines)
}
