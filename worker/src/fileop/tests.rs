//! File operations on real directories and overlays.
//!
//! Every row of the tables runs four ways: with the destination written to directly and through a mount, and with the
//! source as a mounted root and as a tree. All have to agree.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_solver::llb::{ActionInput, Chown, CopyAction, FileAction, FileActionKind, FileOp, UserSpec};

use super::*;
use crate::sys::mounts::MountGuard;
use crate::sys::overlay::{Overlay, Upper};
use crate::sys::{Root, is_root_or_skip};
use crate::tree::testing::{build, inode, listing, receive};
use crate::tree::{FileKey, Tree, TreeStore, View};

mod chains;
mod copies;
mod hostile;
mod made;
mod random;

/// A vertex with two inputs: 0 is copied to, 1 is copied from.
struct Bench {
    dir: tempfile::TempDir,
    /// Given instead of input 1, if set.
    tree: Option<Tree>,
    force_mount: bool,
    counter: usize,
    /// How many layers were begun and mounted.
    begun: usize,
    mounted: usize,
}

/// Layer directories, bottom first.
type Layers = Vec<PathBuf>;

struct BenchLayer {
    below: Layers,
    upper_path: PathBuf,
    upper: Root,
    lower: Option<Root>,
    mounts: Vec<MountGuard>,
    scratch: PathBuf,
}

impl Bench {
    fn new(dest: &str, source: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, spec) in [("in0", dest), ("in1", source)] {
            fs::create_dir(dir.path().join(name)).unwrap();
            build(&dir.path().join(name), spec);
        }
        Self {
            dir,
            tree: None,
            force_mount: false,
            counter: 0,
            begun: 0,
            mounted: 0,
        }
    }

    fn with_tree(mut self) -> Self {
        let store = TreeStore::open(&self.path("store")).unwrap();
        self.tree = Some(receive(&store, &self.path("in1"), "context").0);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn layers(&self, base: Base<'_, Layers>) -> Layers {
        match base {
            Base::Scratch => Vec::new(),
            Base::Input(index) => vec![self.path(&format!("in{index}"))],
            Base::Result(layers) => layers.clone(),
        }
    }

    fn fresh(&mut self, name: &str) -> PathBuf {
        self.counter += 1;
        let path = self.path(&format!("{name}{}", self.counter));
        fs::create_dir(&path).unwrap();
        path
    }

    /// What a result looks like to those who mount it.
    fn see(&mut self, layers: &Layers) -> String {
        if let [only] = layers.as_slice() {
            return listing(only);
        }
        let target = self.fresh("see");
        let guard = mount(layers, None, &target);
        let listed = listing(&target);
        guard.unmount().unwrap();
        listed
    }

    fn run(&mut self, actions: Vec<FileAction>) -> Result<Vec<Layers>, FileOpError> {
        apply(&FileOp { actions }, self, &FakeTar, &|| false)
    }

    /// Runs one action on input 0 and shows the result.
    fn one(&mut self, kind: FileActionKind) -> Result<String, String> {
        let copies = matches!(kind, FileActionKind::Copy(_));
        let mut actions = Vec::new();
        if self.force_mount {
            actions.push(FileAction {
                input: Some(ActionInput::Vertex(0)),
                secondary: None,
                output: None,
                kind: rm("/no"),
            });
        }
        actions.push(FileAction {
            input: Some(if self.force_mount {
                ActionInput::Action(0)
            } else {
                ActionInput::Vertex(0)
            }),
            secondary: copies.then_some(ActionInput::Vertex(1)),
            output: Some(0),
            kind,
        });
        let outputs = self.run(actions).map_err(|error| error.to_string())?;
        Ok(self.see(&outputs[0]))
    }
}

fn rm(path: &str) -> FileActionKind {
    FileActionKind::Rm {
        path: path.to_owned(),
        allow_not_found: true,
        allow_wildcard: false,
    }
}

fn mount(lowers: &Layers, upper: Option<(&Root, &Root)>, target: &Path) -> MountGuard {
    let lowers: Vec<Root> = lowers.iter().map(|path| Root::open(path).unwrap()).collect();
    let lowers: Vec<_> = lowers.iter().map(Root::as_fd).collect();
    let upper = upper.map(|(dir, work)| Upper {
        dir: dir.as_fd(),
        work: work.as_fd(),
    });
    Overlay { lowers: &lowers, upper }.mount(target).unwrap()
}

impl FileOpMounts for Bench {
    type Layer = BenchLayer;
    type Result = Layers;

    fn begin(&mut self, base: Base<'_, Layers>) -> Result<BenchLayer, MountError> {
        self.begun += 1;
        let below = self.layers(base);
        let upper_path = self.fresh("layer");
        let mut mounts = Vec::new();
        let lower = match below.as_slice() {
            [] => None,
            [only] => Some(Root::open(only)?),
            _ => {
                let target = self.fresh("lower");
                mounts.push(mount(&below, None, &target));
                Some(Root::open(&target)?)
            }
        };
        let scratch = self.fresh("scratch");
        Ok(BenchLayer {
            below,
            upper: Root::open(&upper_path)?,
            upper_path,
            lower,
            mounts,
            scratch,
        })
    }

    fn source(&mut self, of: Base<'_, Layers>) -> Result<Arc<dyn View>, MountError> {
        match (&self.tree, of) {
            (Some(tree), Base::Input(1)) => Ok(Arc::new(tree.clone())),
            (_, of) => Ok(Arc::new(Root::open(self.layers(of).last().unwrap())?)),
        }
    }

    fn accounts(&mut self, of: Base<'_, Layers>) -> Result<Arc<Root>, MountError> {
        Ok(Arc::new(Root::open(self.layers(of).last().unwrap())?))
    }

    fn commit(&mut self, layer: BenchLayer) -> Result<Layers, MountError> {
        self.mounted += usize::from(layer.scratch.join("merged").exists());
        for mount in layer.mounts {
            mount.unmount()?;
        }
        let mut layers = layer.below;
        layers.push(layer.upper_path);
        Ok(layers)
    }

    fn links_below(&mut self, base: Base<'_, Layers>) -> Result<HashSet<FileKey>, MountError> {
        let layers = self.layers(base);
        let names = layers.iter().map(|path| path.to_str().unwrap());
        Ok(self
            .store()
            .map(|store| store.links_of(names))
            .transpose()?
            .unwrap_or_default())
    }

    fn remember_links(&mut self, result: &Layers, files: &[FileKey]) -> Result<(), MountError> {
        let store = self.store().ok_or("links without a store")?;
        Ok(store.record_links(result.last().unwrap().to_str().unwrap(), files)?)
    }
}

impl Bench {
    fn store(&self) -> Option<&TreeStore> {
        self.tree.as_ref().map(Tree::store)
    }
}

impl LayerMount for BenchLayer {
    fn upper(&self) -> &Root {
        &self.upper
    }

    fn lower(&self) -> Option<&Root> {
        self.lower.as_ref()
    }

    fn mount(&mut self) -> Result<Root, MountError> {
        let (work, target) = (self.scratch.join("work"), self.scratch.join("merged"));
        fs::create_dir(&work)?;
        fs::create_dir(&target)?;
        self.mounts
            .push(mount(&self.below, Some((&self.upper, &Root::open(&work)?)), &target));
        Ok(Root::open(&target)?)
    }
}

/// Takes files that begin with `TAR ` for archives, and "extracts" them as directory descriptions.
struct FakeTar;

impl Unpack for FakeTar {
    fn is_archive(&self, file: &mut fs::File) -> std::io::Result<bool> {
        let mut start = [0; 4];
        Ok(std::io::Read::read_exact(file, &mut start).is_ok() && &start == b"TAR:")
    }

    fn extract(&self, file: fs::File, into: &Root, owner: Option<(u32, u32)>) -> std::io::Result<()> {
        let name = std::io::read_to_string(file)?.split_off(4);
        // As bad as an extractor may be: writes to what is there.
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::TRUNC;
        let mut made = into.open_file(&name, flags, 0o644)?;
        std::io::Write::write_all(&mut made, b"extracted")?;
        if let Some((uid, gid)) = owner {
            into.chown(&name, uid, gid)?;
        }
        Ok(())
    }
}

/// Runs one action in all ways and compares what comes out.
fn check(what: &str, dest: &str, source: &str, kind: &FileActionKind, want: Result<&str, &str>) {
    let want = want.map(|lines| {
        lines
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    });
    // The destination is only ever a lower layer, so that all can use the same.
    let mut bench = Bench::new(dest, source).with_tree();
    let tree = bench.tree.take();
    for (way, force_mount, as_tree) in [
        ("direct, from a root", false, false),
        ("mounted, from a root", true, false),
        ("direct, from a tree", false, true),
        ("mounted, from a tree", true, true),
    ] {
        if as_tree && !matches!(kind, FileActionKind::Copy(_)) {
            continue;
        }
        bench.force_mount = force_mount;
        bench.tree = tree.clone().filter(|_| as_tree);
        let got = bench.one(kind.clone());
        assert_eq!(
            got.as_deref().map_err(String::as_str),
            want.as_deref().map_err(|text| *text),
            "{what}, {way}"
        );
    }
}

/// A copy as `COPY src dest` makes it.
fn dockerfile_copy(src: &str, dest: &str) -> CopyAction {
    CopyAction {
        src: src.to_owned(),
        dest: dest.to_owned(),
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..CopyAction::default()
    }
}

/// A copy with everything off.
fn plain_copy(src: &str, dest: &str) -> CopyAction {
    CopyAction {
        src: src.to_owned(),
        dest: dest.to_owned(),
        ..CopyAction::default()
    }
}

fn ids(user: u32, group: u32) -> Option<Chown> {
    Some(Chown {
        user: Some(UserSpec::Id(user)),
        group: Some(UserSpec::Id(group)),
    })
}

fn names(user: Option<&str>, group: Option<&str>) -> Option<Chown> {
    let name = |name: &str| UserSpec::Name {
        name: name.to_owned(),
        input: Some(ActionInput::Vertex(0)),
    };
    Some(Chown {
        user: user.map(name),
        group: group.map(name),
    })
}
