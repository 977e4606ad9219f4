//! A directory of very many files, to the daemon and back: a small message or two for each of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use cairn_tests::{Buildx, Daemon, Lab, Need};
use walkdir::WalkDir;

const DIRS: usize = 50;
const FILES: usize = 1000;

/// A context whose files are all in the result. They are empty: no file system minds making and removing those.
fn context(lab: &Lab) -> anyhow::Result<PathBuf> {
    let context = lab.files("context", &[("Dockerfile", "FROM scratch\nCOPY files /files\n")])?;
    for dir in 0..DIRS {
        let dir = context.join(format!("files/{dir}"));
        fs::create_dir_all(&dir)?;
        for file in 0..FILES {
            File::create(dir.join(file.to_string()))?;
        }
    }
    Ok(context)
}

fn expect_all(dir: &Path) -> anyhow::Result<()> {
    let mut files = 0;
    for entry in WalkDir::new(dir) {
        files += usize::from(entry?.file_type().is_file());
    }
    ensure!(files == DIRS * FILES, "{files} files in {}", dir.display());
    Ok(())
}

fn expect_all_in_archive(path: &Path) -> anyhow::Result<()> {
    let mut files = 0;
    for entry in tar::Archive::new(File::open(path)?).entries()? {
        files += usize::from(entry?.header().entry_type().is_file());
    }
    ensure!(files == DIRS * FILES, "{files} files in {}", path.display());
    Ok(())
}

#[test]
fn they_are_sent_and_received() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Sid])? else {
        return Ok(());
    };
    let context = context(&lab)?;
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let (dir, tar) = (lab.path("out"), lab.path("out.tar"));
    let output = |kind: &str, dest: &Path| format!("--output=type={kind},dest={}", dest.display());
    let build = buildx.build()?.args([output("local", &dir), output("tar", &tar)]);
    build.args([&context]).output()?;
    expect_all(&dir)?;
    expect_all_in_archive(&tar)
}
