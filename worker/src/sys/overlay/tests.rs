use std::path::PathBuf;

use super::super::Root;
use super::*;

struct Layers {
    dir: tempfile::TempDir,
    roots: Vec<Root>,
}

/// `count` layers, each with a file of its own and one they all have.
fn layers(count: usize) -> Layers {
    let dir = tempfile::tempdir().unwrap();
    let roots = (0..count)
        .map(|i| {
            let path = dir.path().join(format!("layer{i}"));
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join(format!("file{i}")), "").unwrap();
            std::fs::write(path.join("common"), i.to_string()).unwrap();
            Root::open(path).unwrap()
        })
        .collect();
    for name in ["target", "upper", "work"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    Layers { dir, roots }
}

impl Layers {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.roots.iter().map(AsFd::as_fd).collect()
    }
}

#[test]
fn every_method_lays_the_last_on_top() {
    if !crate::sys::is_root_or_skip() {
        return;
    }
    let layers = layers(40);
    for method in [Method::Descriptors, Method::Strings, Method::OnePage] {
        let overlay = Overlay {
            lowers: &layers.fds(),
            upper: None,
        };
        let guard = match overlay.mount_by(method, &layers.path("target")) {
            Ok(guard) => guard,
            // Older kernels have fewer methods; the last is in all.
            Err(_) if method != Method::OnePage => continue,
            Err(error) => panic!("{method:?}: {error}"),
        };
        assert_eq!(
            std::fs::read_to_string(layers.path("target/common")).unwrap(),
            "39",
            "{method:?}"
        );
        assert!(layers.path("target/file0").exists());
        assert!(std::fs::write(layers.path("target/new"), "").is_err());
        guard.unmount().unwrap();
        assert!(!layers.path("target/common").exists());
    }
}

#[test]
fn changes_go_to_the_upper_directory() {
    if !crate::sys::is_root_or_skip() {
        return;
    }
    for method in [Method::Descriptors, Method::Strings, Method::OnePage] {
        let layers = layers(1);
        let upper = Root::open(layers.path("upper")).unwrap();
        let work = Root::open(layers.path("work")).unwrap();
        let overlay = Overlay {
            lowers: &layers.fds(),
            upper: Some(Upper {
                dir: upper.as_fd(),
                work: work.as_fd(),
            }),
        };
        let guard = match overlay.mount_by(method, &layers.path("target")) {
            Ok(guard) => guard,
            Err(_) if method != Method::OnePage => continue,
            Err(error) => panic!("{method:?}: {error}"),
        };
        std::fs::write(layers.path("target/new"), "n").unwrap();
        std::fs::remove_file(layers.path("target/file0")).unwrap();
        guard.unmount().unwrap();
        assert_eq!(std::fs::read_to_string(layers.path("upper/new")).unwrap(), "n");
        assert!(upper.lstat("file0").unwrap().is_whiteout());
        assert!(layers.path("layer0/file0").exists());
    }
}

#[test]
fn five_hundred_layers_are_the_most() {
    if !crate::sys::is_root_or_skip() {
        return;
    }
    let layers = layers(501);
    let fds = layers.fds();
    let overlay = Overlay {
        lowers: &fds[..500],
        upper: None,
    };
    if let Ok(guard) = overlay.mount_by(Method::Descriptors, &layers.path("target")) {
        assert_eq!(std::fs::read_to_string(layers.path("target/common")).unwrap(), "499");
        guard.unmount().unwrap();
    }
    let error = Overlay {
        lowers: &fds,
        upper: None,
    }
    .mount(&layers.path("target"))
    .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let error = Overlay {
        lowers: &fds[..1],
        upper: None,
    }
    .mount(&layers.path("target"))
    .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
