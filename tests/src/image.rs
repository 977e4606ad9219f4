//! Images, as other people's tools see them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use walkdir::WalkDir;

use crate::lab::Lab;
use crate::process::Program;

/// What Docker leaves to the administrator of a container.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// An image that skopeo copied, umoci unpacked, and runc can run.
pub struct Image {
    layout: PathBuf,
    bundle: PathBuf,
    manifest: Value,
    config: Value,
}

impl Image {
    /// Takes an image from a tar file made by `type=oci`.
    ///
    /// # Errors
    /// If skopeo or umoci do not accept it.
    pub fn from_oci(lab: &Lab, tar: &Path) -> anyhow::Result<Self> {
        Self::copy(lab, &format!("oci-archive:{}", tar.display()))
    }

    /// Takes an image from a tar file made by `type=docker`.
    ///
    /// # Errors
    /// If skopeo or umoci do not accept it.
    pub fn from_docker(lab: &Lab, tar: &Path) -> anyhow::Result<Self> {
        Self::copy(lab, &format!("docker-archive:{}", tar.display()))
    }

    /// Takes the image `name` from a directory with an OCI layout.
    ///
    /// # Errors
    /// If skopeo or umoci do not accept it.
    pub fn from_layout(lab: &Lab, dir: &Path, name: &str) -> anyhow::Result<Self> {
        Self::copy(lab, &format!("oci:{}:{name}", dir.display()))
    }

    /// Takes an image from a registry, by `HOST:PORT/name:tag`.
    ///
    /// # Errors
    /// If skopeo or umoci do not accept it.
    pub fn from_registry(lab: &Lab, name: &str) -> anyhow::Result<Self> {
        Self::copy(lab, &format!("docker://{name}"))
    }

    fn copy(lab: &Lab, source: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("image-").tempdir_in(lab.dir())?.keep();
        let (layout, bundle) = (dir.join("layout"), dir.join("bundle"));
        let target = format!("oci:{}:image", layout.display());
        let skopeo =
            Program::new("skopeo").args(["--insecure-policy", "copy", "--src-tls-verify=false", source, &target]);
        skopeo.output()?;
        let image = format!("{}:image", layout.display());
        let umoci = Program::new("umoci")
            .args(["unpack", "--image", &image])
            .args([&bundle]);
        umoci.output()?;
        let index = read_json(&layout.join("index.json"))?;
        let manifest = blob(&layout, &index["manifests"][0]["digest"])?;
        let config = blob(&layout, &manifest["config"]["digest"])?;
        Ok(Self {
            layout,
            bundle,
            manifest,
            config,
        })
    }

    /// The image's configuration: `config`, `history`, `rootfs` and more.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The manifest.
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }

    /// The OCI layout that holds it, as the image `image`.
    pub fn layout(&self) -> &Path {
        &self.layout
    }

    /// The sizes of its files, added up.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn size(&self) -> anyhow::Result<u64> {
        let mut size = 0;
        for entry in WalkDir::new(self.bundle.join("rootfs")) {
            let metadata = entry?.metadata()?;
            size += if metadata.is_file() { metadata.size() } else { 0 };
        }
        Ok(size)
    }

    /// Where a path of the image is on this machine; symbolic links in it are not followed.
    pub fn path(&self, path: &str) -> PathBuf {
        self.bundle.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// Whether there is a file of any kind.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Expects these to be there, and those not.
    ///
    /// # Errors
    /// If it is otherwise.
    pub fn expect_files(&self, present: &[&str], absent: &[&str]) -> anyhow::Result<()> {
        let missing: Vec<&&str> = present.iter().filter(|path| !self.has(path)).collect();
        let extra: Vec<&&str> = absent.iter().filter(|path| self.has(path)).collect();
        ensure!(
            missing.is_empty() && extra.is_empty(),
            "missing {missing:?}, should not be there {extra:?}"
        );
        Ok(())
    }

    /// Runs its own command, in a container without a network; returns what it wrote.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self) -> anyhow::Result<String> {
        self.execute(None)
    }

    /// Runs a command in it, in a container without a network; returns what it wrote.
    ///
    /// # Errors
    /// If it fails.
    pub fn run_command(&self, command: &[&str]) -> anyhow::Result<String> {
        self.execute(Some(command))
    }

    fn execute(&self, command: Option<&[&str]>) -> anyhow::Result<String> {
        let path = self.bundle.join("config.json");
        let mut config = read_json(&path)?;
        config["process"]["terminal"] = false.into();
        config["root"]["readonly"] = false.into();
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(CAPABILITIES);
        }
        if let Some(command) = command {
            config["process"]["args"] = json!(command);
        }
        std::fs::write(&path, config.to_string())?;
        let state = self.bundle.with_file_name("runc");
        let id = format!("test{}", self.bundle.display());
        let id = id.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let runc = Program::new("runc").args([Path::new("--root"), &state]);
        let finished = runc.args(["run", "--bundle"]).args([&self.bundle]).args([&id]).run()?;
        if !finished.status.success() {
            bail!(
                "{command:?} failed with {}\n{}\n{}",
                finished.status,
                finished.stdout,
                finished.stderr
            );
        }
        Ok(finished.stdout)
    }
}

fn blob(layout: &Path, digest: &Value) -> anyhow::Result<Value> {
    let digest = digest.as_str().context("a descriptor without a digest")?;
    let hash = digest.strip_prefix("sha256:").context("another kind of digest")?;
    read_json(&layout.join("blobs/sha256").join(hash))
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}
