//! Results as files, platform by platform: what the exporters of directories and tars have in common.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::fsutil::Stat;
use cairn_proto::names;
use cairn_session::fsutil::{BoxError, Tree, order};
use cairn_session::mode;
use cairn_solver::Attestation;
use cairn_solver::worker::{Ref, WorkerError};
use jiff::Timestamp;

use super::super::{EmbeddedWorker, blocking, failed};
use super::attrs::Attrs;
use super::parts::{Part, parts};
use super::statements::{Text, told, wanted};
use crate::content::HashingReader;
use crate::image::Subject;
use crate::service::{ExportInput, ExportRefs};
use crate::text::replaced;
use crate::tree::ViewSender;
use crate::tree::view::View;

/// What clients ask of files.
#[derive(Debug, Clone)]
pub(super) struct FileSettings {
    /// Whether results of platforms go to directories of their own; `None` decides by their number.
    split: Option<bool>,
    /// Goes in front of the names of files with statements.
    attestation_prefix: String,
    epoch: Option<Timestamp>,
}

/// The files of one platform's result.
pub(super) struct Files {
    /// The platform's id.
    pub(super) id: String,
    /// Directory that they go to; empty for none.
    pub(super) dir: String,
    pub(super) result: Option<Ref>,
    view: Arc<dyn View>,
    /// Statements about them, by file name.
    pub(super) statements: Vec<(String, Bytes)>,
    /// The time that all of them get.
    pub(super) epoch: Option<Timestamp>,
}

impl FileSettings {
    pub(super) fn new(attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        let prefix = attrs.get("attestation-prefix").unwrap_or_default();
        if prefix.contains(['/', '\0']) {
            return Err(attrs.invalid("attestation-prefix", "expected the beginning of a file name"));
        }
        let split = attrs.get("platform-split");
        Ok(Self {
            split: split.map(|_| attrs.flag("platform-split", true)).transpose()?,
            attestation_prefix: prefix.to_owned(),
            epoch: attrs.epoch()?,
        })
    }

    /// The files of every platform.
    pub(super) async fn files(&self, worker: &EmbeddedWorker, input: &ExportInput) -> Result<Vec<Files>, WorkerError> {
        let is_list = matches!(input.refs, ExportRefs::Platforms(_));
        let mut stated = Vec::new();
        for part in parts(input, &input.metadata)? {
            // What is only for images is not for files.
            let attestations = told(wanted(&part.attestations, false)).await?;
            stated.push((part, attestations));
        }
        let (settings, worker) = (self.clone(), worker.clone());
        blocking(move || settings.open(&worker, &stated, is_list)).await
    }

    fn open(
        &self,
        worker: &EmbeddedWorker,
        stated: &[(Part, Vec<Attestation<Text>>)],
        is_list: bool,
    ) -> Result<Vec<Files>, WorkerError> {
        let is_split = self.split.unwrap_or(is_list);
        let files = stated.iter().map(|(part, attestations)| {
            let view = worker.view(part.result.as_ref())?;
            let mut files = Files {
                id: part.id.clone(),
                dir: if is_split {
                    platform_dir(&part.id)
                } else {
                    String::new()
                },
                result: part.result.clone(),
                view,
                statements: Vec::new(),
                epoch: self.epoch.or(part.epoch),
            };
            let suffix = (is_list && !is_split).then(|| platform_dir(&part.id));
            files.statements = self.statements(worker, attestations, &files, suffix.as_deref())?;
            Ok(files)
        });
        let files = files.collect::<Result<Vec<_>, WorkerError>>()?;
        if is_list && !is_split {
            expect_no_overlap(&files)?;
        }
        Ok(files)
    }

    fn statements(
        &self,
        worker: &EmbeddedWorker,
        attestations: &[Attestation<Text>],
        files: &Files,
        suffix: Option<&str>,
    ) -> Result<Vec<(String, Bytes)>, WorkerError> {
        if attestations.is_empty() {
            return Ok(Vec::new());
        }
        let subjects = subjects(&files.view)?;
        let mut named: Vec<(String, Bytes)> = Vec::new();
        for statement in worker.statements(attestations, &subjects)? {
            let name = with_suffix(&format!("{}{}", self.attestation_prefix, statement.name), suffix);
            if named.iter().any(|(other, _)| *other == name) {
                return Err(WorkerError::Invalid(format!("duplicate attestation path name {name}")));
            }
            let text = statement.statement.to_indented_json().map_err(|error| failed(&error))?;
            named.push((name, text.into()));
        }
        Ok(named)
    }
}

impl Files {
    /// The files as they are sent to a client.
    pub(super) fn to_tree(&self) -> ViewSender {
        let mut sender = ViewSender::default().with_view(&self.dir, self.view.clone());
        for (name, text) in &self.statements {
            sender = sender.with_file(&self.dir, name, text.clone());
        }
        match self.epoch {
            Some(epoch) => sender.dated(epoch),
            None => sender,
        }
    }
}

/// The name of a platform's directory.
fn platform_dir(platform: &str) -> String {
    platform.replace('/', "_")
}

/// Puts `suffix` in front of a name's extension.
fn with_suffix(name: &str, suffix: Option<&str>) -> String {
    match (suffix, name.rsplit_once('.')) {
        (None, _) => name.to_owned(),
        (Some(suffix), Some((stem, extension))) => format!("{stem}.{suffix}.{extension}"),
        (Some(suffix), None) => format!("{name}.{suffix}"),
    }
}

/// Every regular file with its digest.
fn subjects(view: &Arc<dyn View>) -> Result<Vec<Subject>, WorkerError> {
    let sender = ViewSender::new(view.clone());
    let mut paths = Vec::new();
    walk(&sender, |stat| {
        if mode::is_regular(stat.mode) {
            paths.push(stat.path);
        }
    })?;
    let subjects = paths.into_iter().map(|path| {
        let hash = || -> io::Result<_> {
            let file = sender.open(names::path(&path))?;
            let mut hashing = HashingReader::new(file.unwrap_or_else(|| Box::new(io::empty())));
            io::copy(&mut hashing, &mut io::sink())?;
            Ok(hashing.finish().0)
        };
        let digest =
            hash().map_err(|error| WorkerError::Failed(format!("failed to read {:?}: {error}", replaced(&path))))?;
        Ok(Subject::new(replaced(&path), &digest))
    });
    subjects.collect()
}

/// Refuses results that have the same file.
fn expect_no_overlap(files: &[Files]) -> Result<(), WorkerError> {
    let mut seen: HashMap<Vec<u8>, (&str, bool)> = HashMap::new();
    for part in files {
        let mut overlap = None;
        walk(&part.to_tree(), |stat| {
            let is_dir = mode::is_dir(stat.mode);
            match seen.entry(stat.path) {
                Entry::Vacant(free) => drop(free.insert((&part.id, is_dir))),
                Entry::Occupied(first) if is_dir && first.get().1 => {}
                Entry::Occupied(first) => {
                    overlap.get_or_insert_with(|| (first.key().clone(), first.get().0.to_owned()));
                }
            }
        })?;
        if let Some((path, other)) = overlap {
            return Err(WorkerError::Invalid(format!(
                "cannot overwrite {} from {other} with {} when split option is disabled",
                replaced(&path),
                part.id
            )));
        }
    }
    Ok(())
}

fn walk(tree: &dyn Tree, mut each: impl FnMut(Stat)) -> Result<(), WorkerError> {
    let walked = tree.walk(&mut |stat| {
        each(stat);
        true
    });
    walked.map_err(|error| failed(&*error))
}

/// Several trees as one. What they have in common are directories.
pub(super) struct Merged(pub(super) Vec<ViewSender>);

impl Tree for Merged {
    fn walk(&self, emit: &mut dyn FnMut(Stat) -> bool) -> Result<(), BoxError> {
        let mut stats = Vec::new();
        for tree in &self.0 {
            tree.walk(&mut |stat| {
                stats.push(stat);
                true
            })?;
        }
        stats.sort_by(|a, b| order::compare(&a.path, &b.path));
        stats.dedup_by(|a, b| a.path == b.path);
        for stat in stats {
            if !emit(stat) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Read + Send>>> {
        for tree in &self.0 {
            if let Some(file) = tree.open(path)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Root;

    /// Files of a platform, whose contents are the platform's id, and what keeps them.
    fn files(id: &str, dir: &str, names: &[&str]) -> (tempfile::TempDir, Files) {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, id).unwrap();
        }
        let files = Files {
            id: id.to_owned(),
            dir: dir.to_owned(),
            result: None,
            view: Arc::new(Root::open(root.path()).unwrap()),
            statements: Vec::new(),
            epoch: None,
        };
        (root, files)
    }

    #[test]
    fn results_without_directories_of_their_own_must_not_meet() {
        let (_one, one) = files("linux/amd64", "", &["bin/a", "x.y", "x/z"]);
        let (_two, two) = files("linux/arm64", "", &["bin/b", "x/w"]);
        let (_three, three) = files("linux/s390x", "", &["bin"]);
        let trees = vec![one.to_tree(), two.to_tree()];
        expect_no_overlap(&[one, two]).unwrap();
        let merged = Merged(trees);
        let mut paths = Vec::new();
        walk(&merged, |stat| paths.push(replaced(&stat.path))).unwrap();
        assert_eq!(paths, ["bin", "bin/a", "bin/b", "x", "x/w", "x/z", "x.y"]);
        let mut text = String::new();
        merged
            .open(Path::new("x/w"))
            .unwrap()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "linux/arm64");
        assert!(merged.open(Path::new("gone")).unwrap().is_none());

        let (_one, one) = files("linux/amd64", "", &["bin/a"]);
        let (_two, two) = files("linux/arm64", "", &["bin/a"]);
        let error = expect_no_overlap(&[one, two]).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot overwrite bin/a from linux/amd64 with linux/arm64 when split option is disabled"
        );
        let (_one, one) = files("linux/amd64", "", &["bin/a"]);
        let error = expect_no_overlap(&[one, three]).unwrap_err().to_string();
        assert!(error.starts_with("cannot overwrite bin from linux/amd64"), "{error}");
    }

    #[test]
    fn every_regular_file_is_a_subject() {
        let (root, files) = files("id", "", &["b/c", "a"]);
        std::os::unix::fs::symlink("a", root.path().join("link")).unwrap();
        let digest = cairn_solver::Digest::sha256(b"id");
        let want = ["a", "b/c"].map(|path| Subject::new(path, &digest));
        assert_eq!(subjects(&files.view).unwrap(), want);
    }

    #[test]
    fn times_and_statements_come_with_the_files() {
        let (_root, mut files) = files("linux/amd64", "linux_amd64", &["a"]);
        files.statements = vec![("sbom.json".to_owned(), Bytes::from_static(b"{}"))];
        files.epoch = Some("2001-09-09T01:46:40Z".parse().unwrap());
        let mut seen = Vec::new();
        walk(&files.to_tree(), |stat| {
            seen.push((replaced(&stat.path), stat.mode, stat.mod_time))
        })
        .unwrap();
        let time = 1_000_000_000 * 1_000_000_000;
        assert_eq!(seen[0], ("linux_amd64".to_owned(), mode::DIR | 0o755, time));
        assert_eq!((seen[1].0.as_str(), seen[1].2), ("linux_amd64/a", time));
        assert_eq!(seen[2], ("linux_amd64/sbom.json".to_owned(), 0o600, time));
    }

    #[test]
    fn platforms_go_in_front_of_the_extension() {
        let suffix = Some("linux_arm_v7");
        for (name, suffix, want) in [
            ("sbom.spdx.json", suffix, "sbom.spdx.linux_arm_v7.json"),
            ("sbom", suffix, "sbom.linux_arm_v7"),
            ("a.json", None, "a.json"),
        ] {
            assert_eq!(with_suffix(name, suffix), want);
        }
    }
}
