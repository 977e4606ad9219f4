//! Names of files are bytes, which need not be text.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_session::fsutil::{LocalTree, Selection};
use proptest::prelude::*;

use super::*;
use crate::sys::at;

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Everything below a directory, with what files and links hold.
fn found(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_dir() {
                pending.push(path.clone());
                Vec::new()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), content);
        }
    }
    found
}

#[test]
fn a_tree_keeps_names_that_are_no_text() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new("");
    let client = fixture.path("client");
    let at = |name: &[u8]| client.join(path(name));
    fs::create_dir(at(b"d\xff")).unwrap();
    fs::write(at(b"caf\xe9"), "latin").unwrap();
    fs::write(at("café".as_bytes()), "utf-8").unwrap();
    fs::write(at(b"d\xff/in\xfe"), "inner").unwrap();
    fs::hard_link(at(b"d\xff/in\xfe"), at(b"twin\xe9")).unwrap();
    symlink(path(b"\xe9"), at(b"link\xc3")).unwrap();
    let attribute = OsStr::from_bytes(b"user.\xe9");
    let has_attributes =
        rustix::fs::setxattr(at(b"caf\xe9"), attribute, b"\xff", rustix::fs::XattrFlags::empty()).is_ok();

    let (tree, fetched) = fixture.receive();
    assert_eq!(fetched.len(), 3);
    let out = fixture.lay_out(&tree, "out");
    assert_eq!(found(&out), found(&client));
    let twins = [&b"twin\xe9"[..], b"d\xff/in\xfe"].map(|name| inode(&out.join(path(name))).0);
    assert_eq!(twins[0], twins[1]);
    if has_attributes {
        let dir = Root::open(&out).unwrap().open_dir_fd("").unwrap();
        let all = at::xattrs(&dir, OsStr::from_bytes(b"caf\xe9")).unwrap();
        assert_eq!(all.get(attribute).map(Vec::as_slice), Some(&b"\xff"[..]));
    }
    // Only what has changed comes again, under whatever name.
    let (again, fetched) = fixture.receive();
    assert_eq!((again.digest(), fetched.as_slice()), (tree.digest(), &[][..]));
    fs::write(at(b"caf\xe9"), "changed").unwrap();
    let (changed, fetched) = fixture.receive();
    assert_eq!(fetched, ["caf\u{fffd}"]);
    fs::rename(at(b"caf\xe9"), at(b"caf\xea")).unwrap();
    let (renamed, fetched) = fixture.receive();
    assert_eq!(fetched, ["caf\u{fffd}"]);
    assert_ne!(renamed.content().unwrap(), changed.content().unwrap());
    let out = fixture.lay_out(&renamed, "renamed");
    assert_eq!(found(&out), found(&client));
}

/// A name that a file may have.
fn file_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), Just(0xe9), Just(b'a'), Just(b'.')];
    let name = proptest::collection::vec(byte, 1..12);
    name.prop_filter("a name", |name| {
        !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b".."
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// From a client's directory over the protocol into the store, and from there into another directory.
    #[test]
    fn any_names_arrive(
        files in proptest::collection::btree_map(proptest::collection::vec(file_name(), 1..4), file_name(), 0..12),
    ) {
        if !is_root_or_skip() {
            return Ok(());
        }
        let fixture = Fixture::new("");
        let client = fixture.path("client");
        for (index, (names, content)) in files.iter().enumerate() {
            let file: PathBuf = names.iter().map(|name| path(name)).collect();
            let file = client.join(file);
            // A name that is a file already cannot be a directory too.
            if fs::create_dir_all(file.parent().unwrap()).is_ok() && fs::symlink_metadata(&file).is_err() {
                if index % 4 == 3 {
                    symlink(path(content), &file).unwrap();
                } else {
                    fs::write(&file, content).unwrap();
                }
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let local = LocalTree::new(&client, &Selection::default(), false).unwrap();
        let (tree, _) = runtime.block_on(transfer(&fixture.store, Arc::new(local)));
        let out = fixture.lay_out(&tree, "out");
        prop_assert_eq!(found(&out), found(&client));
    }
}
