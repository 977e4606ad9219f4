//! A registry of a test's own.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use walkdir::WalkDir;

use crate::lab::{self, Lab};
use crate::process::Program;

/// A private `docker-registry`; stopped when dropped, which has to be before its lab.
pub struct Registry {
    dir: PathBuf,
    address: String,
}

impl Registry {
    /// Starts one.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let dir = lab.path("registry");
        let address = script("start", &dir)?.trim().to_owned();
        Ok(Self { dir, address })
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The configuration a daemon needs to talk to it.
    pub fn config(&self) -> String {
        format!("[registry.\"{}\"]\nhttp = true\n", self.address)
    }

    /// Copies an image of the base registry into this one, under the same name.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy_base(&self, name: &str) -> anyhow::Result<()> {
        let (from, to) = (
            format!("docker://{}/{name}", lab::base_registry()?),
            format!("docker://{}/{name}", self.address),
        );
        let program = Program::new("skopeo").args(["--insecure-policy", "copy", "--all"]);
        let program = program.args(["--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]);
        program.output().map(drop)
    }

    /// What `skopeo inspect` says about an image.
    ///
    /// # Errors
    /// If it is not there, or not well formed.
    pub fn inspect(&self, name: &str) -> anyhow::Result<serde_json::Value> {
        let image = format!("docker://{}/{name}", self.address);
        let text = Program::new("skopeo")
            .args(["inspect", "--tls-verify=false", &image])
            .output()?;
        serde_json::from_str(&text).context("skopeo said something else than JSON")
    }

    /// What it was asked and has answered so far, a line each, such as
    /// `"POST /v2/a/blobs/uploads/?from=b&mount=sha256%3A… HTTP/1.1" 201`; later ones are in what is returned later.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn requests(&self) -> anyhow::Result<Vec<String>> {
        let log = std::fs::read_to_string(self.dir.join("log"))?;
        let lines = log.lines().filter_map(|line| {
            let (_, request) = line.split_once("] \"")?;
            Some(format!("\"{request}"))
        });
        Ok(lines.collect())
    }

    /// The file that holds a blob, for tests that damage it.
    ///
    /// # Errors
    /// If there is no such blob.
    pub fn blob_file(&self, digest: &str) -> anyhow::Result<PathBuf> {
        let hash = digest.trim_start_matches("sha256:");
        let mut files = WalkDir::new(self.dir.join("storage")).into_iter().flatten();
        let found = files
            .find(|entry| entry.file_name() == "data" && entry.path().parent().is_some_and(|dir| dir.ends_with(hash)));
        found
            .map(walkdir::DirEntry::into_path)
            .with_context(|| format!("no blob {digest}"))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _stopped = script("stop", &self.dir);
    }
}

fn script(verb: &str, dir: &Path) -> anyhow::Result<String> {
    let script = lab::repository().join("tests/images/registry");
    Program::new(script)
        .args([Path::new(verb), Path::new("--dir"), dir])
        .output()
}
