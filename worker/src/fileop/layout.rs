//! A tree as a directory.

use std::path::Path;

use super::copy::{CopyRules, copy};
use super::dest::{Dest, StoreLinks};
use super::error::FileOpError;
use super::place::Look;
use crate::sys::{Root, Time, at};
use crate::tree::view::{Links, View, find};
use crate::tree::{FileKey, Node, Tree};

pub(super) fn lay_out(
    tree: &Tree,
    path: &Path,
    root: &Root,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<Vec<FileKey>, FileOpError> {
    let top = find(tree, path, Links::Follow).map_err(FileOpError::path("lstat", path))?;
    let not_found = || FileOpError::path("lstat", path)(rustix::io::Errno::NOENT.into());
    let top = top.filter(|top| top.node.is_dir()).ok_or_else(not_found)?;
    let mut links = StoreLinks::default();
    let mut dest = Dest {
        upper: root,
        lower: None,
        links: Some(&mut links),
    };
    let rules = CopyRules {
        look: Look::default(),
        parent_mode: 0o755,
        dir_contents: true,
        always_replace: false,
        filter: None,
        required: &[],
        is_cancelled,
    };
    copy(&mut dest, tree, (path, &top), (Path::new(""), true), &rules)?;
    // The copy is of the contents; here the directory itself is laid out too.
    let xattrs = tree.xattrs(&top).map_err(FileOpError::path("listxattr", path))?;
    dress_root(root, &top.node, &xattrs).map_err(FileOpError::path("chmod", Path::new("")))?;
    Ok(links.files())
}

fn dress_root(root: &Root, node: &Node, xattrs: &crate::tree::Xattrs) -> std::io::Result<()> {
    at::chown_fd(root, node.uid, node.gid)?;
    at::chmod_fd(root, node.mode)?;
    for (name, value) in xattrs {
        at::set_xattr_fd(root, name.as_ref(), value)?;
    }
    let time = Some(Time::from_nanos(node.mtime_ns));
    at::set_times_fd(root, time, time)
}
