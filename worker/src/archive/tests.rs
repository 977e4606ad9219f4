mod apply;
mod format;
mod pack;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::sys::Root;

/// An archive of entries with contents.
fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, data) in entries {
        let entry = Entry {
            size: data.len() as u64,
            ..entry.clone()
        };
        writer.append(&entry, *data).unwrap();
    }
    writer.finish().unwrap()
}

fn file(path: &str) -> Entry {
    Entry::new(path, EntryKind::File, 0o644)
}

fn directory(path: &str) -> Entry {
    Entry::new(path, EntryKind::Directory, 0o755)
}

fn symlink(path: &str, target: &str) -> Entry {
    Entry::new(path, EntryKind::Symlink(target.into()), 0o777)
}

fn hardlink(path: &str, target: &str) -> Entry {
    Entry::new(path, EntryKind::Hardlink(target.into()), 0o644)
}

/// All entries with their (packed) data.
fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
    let mut reader = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).map_err(ArchiveError::Read)?;
        entries.push((entry, data));
    }
    Ok(entries)
}

fn gnu_tar(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .arg("-C")
        .arg(dir)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

fn temp_root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

/// Whether this process may make devices and set trusted attributes.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        tracing::warn!("skipped: needs root");
    }
    is_root
}
