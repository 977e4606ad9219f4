//! Layers as files to read.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::layer::{LayerError, LayerList, LayerStore, Mounted};
use crate::sys::Root;
use crate::tree::{Located, Node, NodeKind, View, Xattrs};

/// The files of a list of layers. Blocks.
pub(super) fn layers_view(layers: &LayerStore, list: &LayerList) -> Result<Arc<dyn View>, LayerError> {
    Ok(match list.ids() {
        [only] => Arc::new(LoneLayer {
            root: layers.layer_root(only)?,
            _held: list.clone(),
        }),
        _ => Arc::new(MountedView(layers.mount_readonly(list)?)),
    })
}

/// One layer with nothing below: its own directory, without a mount, which takes longer than reading a small file.
struct LoneLayer {
    root: Root,
    _held: LayerList,
}

/// Marks of deletion are all that an overlay would hide; its extended attributes are not portable, and so in no view.
fn is_file(node: &Node) -> bool {
    node.kind != NodeKind::CharDevice { major: 0, minor: 0 }
}

impl View for LoneLayer {
    fn root(&self) -> io::Result<Node> {
        View::root(&self.root)
    }

    fn child(&self, dir: &Located, name: &OsStr) -> io::Result<Option<Node>> {
        Ok(View::child(&self.root, dir, name)?.filter(is_file))
    }

    fn list(&self, dir: &Located) -> io::Result<Vec<(OsString, Node)>> {
        let mut entries = View::list(&self.root, dir)?;
        entries.retain(|(_, node)| is_file(node));
        Ok(entries)
    }

    fn xattrs(&self, at: &Located) -> io::Result<Xattrs> {
        View::xattrs(&self.root, at)
    }

    fn open(&self, at: &Located) -> io::Result<File> {
        View::open(&self.root, at)
    }

    fn bytes_hash(&self, at: &Located) -> io::Result<[u8; 32]> {
        View::bytes_hash(&self.root, at)
    }
}

/// A mounted result as a view; unmounted when dropped. Everything is the mounted root's.
struct MountedView(Mounted);

impl View for MountedView {
    fn root(&self) -> io::Result<Node> {
        View::root(self.0.root())
    }

    fn child(&self, dir: &Located, name: &OsStr) -> io::Result<Option<Node>> {
        View::child(self.0.root(), dir, name)
    }

    fn list(&self, dir: &Located) -> io::Result<Vec<(OsString, Node)>> {
        View::list(self.0.root(), dir)
    }

    fn xattrs(&self, at: &Located) -> io::Result<Xattrs> {
        View::xattrs(self.0.root(), at)
    }

    fn open(&self, at: &Located) -> io::Result<File> {
        View::open(self.0.root(), at)
    }

    fn bytes_hash(&self, at: &Located) -> io::Result<[u8; 32]> {
        View::bytes_hash(self.0.root(), at)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::layer::Describe;
    use crate::sys::is_root_or_skip;
    use crate::tree::view::{Links, children, find};

    #[test]
    fn a_layer_looks_the_same_alone_and_mounted() {
        if !is_root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path()).unwrap();
        let layer = store.prepare(&store.scratch()).unwrap();
        std::fs::create_dir(layer.path().join("dir")).unwrap();
        std::fs::write(layer.path().join("dir/file"), "text").unwrap();
        std::os::unix::fs::symlink("/dir", layer.path().join("link")).unwrap();
        let whiteout = rustix::fs::makedev(0, 0);
        for name in ["gone", "dir/gone"] {
            let path = layer.path().join(name);
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), whiteout).unwrap();
        }
        let describe = Describe {
            description: "test".to_owned(),
            record_type: "regular".to_owned(),
        };
        let list = layer.commit(&describe).unwrap();
        let alone = layers_view(&store, &list).unwrap();
        let mounted = MountedView(store.mount_readonly(&list).unwrap());
        let views: [&dyn View; 2] = [&*alone, &mounted];
        for view in views {
            let found = |path: &str| find(view, Path::new(path), Links::Follow).unwrap();
            assert!(found("gone").is_none());
            assert!(found("link/gone").is_none());
            let file = found("link/file").unwrap();
            assert_eq!(file.path, Path::new("dir/file"));
            assert_eq!(view.bytes_hash(&file).unwrap(), *blake3::hash(b"text").as_bytes());
            let names = |at: &Located| -> Vec<_> {
                let children = children(view, at).unwrap();
                children
                    .into_iter()
                    .map(|child| child.path.display().to_string())
                    .collect()
            };
            let top = Located {
                path: "".into(),
                node: view.root().unwrap(),
            };
            assert_eq!(names(&top), ["dir", "link"]);
            assert_eq!(names(&found("dir").unwrap()), ["dir/file"]);
        }
    }
}
