//! Directories described in text, and trees received from them, for tests.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_session::fsutil::{Decision, ReceiveSink, Tree as _};
use cairn_solver::llb::Differ;

use super::{ListingReceiver, SourceKey, Tree, TreeStore, ViewSender};
use crate::sys::{Root, Time, at};

/// Makes files in `root`, one per line:
///
/// `path/ [mode]` a directory, `path = content [mode]` a file, `path -> target` a symbolic link, `path == first` a hard
/// link, `path | ` a fifo, `path : uid gid` a change of owner. Modification times are an hour ago, in whole seconds.
pub(crate) fn build(root: &Path, spec: &str) {
    let lines = spec.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines.clone() {
        build_line(root, line);
    }
    let handle = Root::open(root).unwrap();
    let time = Some(Time {
        secs: 1_700_000_000,
        nanos: 0,
    });
    for line in lines.rev() {
        let path = line.split(' ').next().unwrap().trim_end_matches('/');
        handle.set_times(path, time, time).unwrap();
    }
    handle.set_times("", time, time).unwrap();
}

fn build_line(root: &Path, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let path = root.join(words[0]);
    let chmod = |mode: &str| {
        let mode = u32::from_str_radix(mode, 8).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    match words.as_slice() {
        [_, "=", content, rest @ ..] => {
            fs::write(&path, content).unwrap();
            chmod(rest.first().unwrap_or(&"644"));
        }
        [_, "->", target] => symlink(target, &path).unwrap(),
        [_, "==", first] => fs::hard_link(root.join(first), &path).unwrap(),
        [_, "|"] => Root::open(root)
            .unwrap()
            .mknod(words[0], libc::S_IFIFO | 0o644, (0, 0))
            .unwrap(),
        [_, ":", uid, gid] => std::os::unix::fs::lchown(&path, uid.parse().ok(), gid.parse().ok()).unwrap(),
        [name, rest @ ..] if name.ends_with('/') => {
            fs::create_dir_all(&path).unwrap();
            chmod(rest.first().unwrap_or(&"755"));
        }
        other => panic!("unknown line {other:?}"),
    }
}

/// What is in a directory, one line each: the notation of [`build`] with all modes, and owners that are not root's.
pub(crate) fn listing(root: &Path) -> String {
    let mut lines = Vec::new();
    let handle = Root::open(root).unwrap();
    list(&handle, Path::new(""), &mut lines);
    lines.join("\n")
}

fn list(root: &Root, dir: &Path, lines: &mut Vec<String>) {
    let fd = root.open_dir_fd(dir).unwrap();
    let mut names: Vec<_> = at::read_dir(&fd).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    for name in names {
        let path = dir.join(&name);
        let metadata = root.lstat(&path).unwrap();
        let mode = metadata.permissions();
        let shown = path.display();
        let owner = match (metadata.uid, metadata.gid) {
            (0, 0) => String::new(),
            (uid, gid) => format!(" : {uid} {gid}"),
        };
        if metadata.is_dir() {
            lines.push(format!("{shown}/ {mode:o}{owner}"));
            list(root, &path, lines);
        } else if metadata.is_symlink() {
            lines.push(format!(
                "{shown} -> {}{owner}",
                root.read_link(&path).unwrap().display()
            ));
        } else if metadata.is_file() {
            let content = root.read_file_limited(&path, 1 << 20).unwrap();
            lines.push(format!(
                "{shown} = {} {mode:o}{owner}",
                String::from_utf8_lossy(&content)
            ));
        } else {
            lines.push(format!("{shown} | {mode:o}{owner}"));
        }
    }
}

/// Sends the directory at `path` into the store; returns the tree and the paths whose content was asked for.
pub(crate) fn receive(store: &TreeStore, path: &Path, name: &str) -> (Tree, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let receiver = store
        .receive(SourceKey::new(name, "", ""), Differ::Metadata, None)
        .unwrap();
    let mut receiver = receiver;
    let fetched = runtime.block_on(send(&mut receiver, path)).unwrap();
    (receiver.into_tree().expect("complete"), fetched)
}

/// The same with only a list of the files, but for those that match `wanted`.
pub(crate) fn receive_list(store: &TreeStore, path: &Path, wanted: &[&str]) -> (Tree, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let key = SourceKey::new("list", "", "").of_list();
    let receiver = store.receive(key, Differ::Metadata, None).unwrap();
    let wanted: Vec<String> = wanted.iter().map(|&pattern| pattern.to_owned()).collect();
    let mut receiver = ListingReceiver::new(receiver, &wanted).unwrap();
    let fetched = runtime.block_on(send(&mut receiver, path)).unwrap();
    (receiver.into_tree().expect("complete"), fetched)
}

async fn send(receiver: &mut impl ReceiveSink, path: &Path) -> Result<Vec<String>, cairn_session::fsutil::BoxError> {
    let sender = ViewSender::new(Arc::new(Root::open(path)?));
    let mut stats = Vec::new();
    sender.walk(&mut |stat| {
        stats.push(stat);
        true
    })?;
    let mut wanted = Vec::new();
    for (index, stat) in stats.into_iter().enumerate() {
        let path = stat.path().to_owned();
        if receiver.entry(index as u32, stat).await? == Decision::Fetch {
            wanted.push((index as u32, path));
        }
    }
    receiver.end_of_list().await?;
    for (index, path) in &wanted {
        let mut content = Vec::new();
        if let Some(mut file) = sender.open(path)? {
            std::io::Read::read_to_end(&mut file, &mut content)?;
        }
        for chunk in content.chunks(32 << 10) {
            receiver.data(*index, Bytes::copy_from_slice(chunk)).await?;
        }
        receiver.end_of_file(*index).await?;
    }
    receiver.complete().await?;
    Ok(wanted.into_iter().map(|(_, path)| path.display().to_string()).collect())
}

/// Inode and number of names of a file.
pub(crate) fn inode(path: &Path) -> (u64, u64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.ino(), metadata.nlink())
}
