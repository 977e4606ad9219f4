//! What a test needs of this machine, and the private directory in which it works.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `CAIRN_BIN_DIR` | where `cairn` and `cairnd` are | beside the test's own program |
//! | `CAIRN_TEST_REGISTRY` | `HOST:PORT` of a registry that holds the base images | none: tests that need it are skipped |
//! | `CAIRN_SID_BIN` | where today's buildx, Docker Engine and containerd are | none: likewise |
//! | `CAIRN_BUILDCTL` | where BuildKit's client is; empty where it cannot be had | none: likewise |
//! | `CAIRN_TEST_STRICT` | when set, a test that would be skipped fails | not set |

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use walkdir::WalkDir;

use crate::clean::Leftovers;

/// Where Debian has plugins that connect containers to networks.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The administrator's privileges, and what runs and unpacks images: runc, skopeo, umoci.
    Containers,
    /// The registry with base images.
    Bases,
    /// The `docker-registry` program.
    Registry,
    /// Today's buildx, Docker Engine and containerd.
    Sid,
    /// BuildKit's client.
    Buildctl,
    /// Git, and both ends of ssh.
    Ssh,
    /// What makes OpenPGP keys and signatures.
    Gpg,
    /// Plugins that connect containers to networks, and what they and the tests use to do so.
    Cni,
}

impl Need {
    /// Why it is not there; none when it is.
    fn missing(self) -> Option<String> {
        let programs: &[&str] = match self {
            Self::Containers if !rustix::process::geteuid().is_root() => return Some("not root".to_owned()),
            Self::Containers => &["runc", "skopeo", "umoci"],
            Self::Registry => &["docker-registry", "skopeo"],
            Self::Ssh => &["git", "ssh", "ssh-agent", "ssh-add", "ssh-keygen", "sshd"],
            Self::Cni if !Path::new(CNI_PLUGINS).join("bridge").exists() => {
                return Some(format!("no network plugins in {CNI_PLUGINS}"));
            }
            Self::Cni => &["ip", "iptables"],
            Self::Gpg => &["gpg", "gpg-agent", "gpgconf"],
            Self::Bases => return base_registry().err().map(|error| error.to_string()),
            Self::Sid => return sid_program("docker-buildx").err().map(|error| error.to_string()),
            Self::Buildctl => return buildctl().err().map(|error| error.to_string()),
        };
        let missing = programs.iter().find(|name| which(name).is_none());
        missing.map(|name| format!("{name} is not installed"))
    }

    /// Whether it may be missing even if nothing else may: it is built from a distribution that moves.
    fn is_optional(self) -> bool {
        self == Self::Buildctl && std::env::var_os("CAIRN_BUILDCTL").is_some_and(|path| path.is_empty())
    }
}

/// A private directory that leaves nothing behind: no file, no mount, no process.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    /// Opens a lab; none, with the reason on standard error, when this machine lacks something.
    ///
    /// # Errors
    /// If the directory cannot be made, or something is missing although nothing may be.
    pub fn open(needs: &[Need]) -> anyhow::Result<Option<Self>> {
        let missing = |need: &Need| need.missing().map(|reason| (*need, reason));
        if let Some((need, reason)) = needs.iter().find_map(missing) {
            if std::env::var_os("CAIRN_TEST_STRICT").is_some() && !need.is_optional() {
                bail!("this test would be skipped: {reason}");
            }
            writeln!(std::io::stderr(), "skipped: {reason}")?;
            return Ok(None);
        }
        Self::new().map(Some)
    }

    /// Opens a lab without asking for anything.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("cairn-test-").tempdir()?;
        // Steps of builds, and clients under test, may be other users.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the directory; nothing is made there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a directory with these files, given as relative path and text.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn files(&self, name: &str, files: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
        let dir = self.path(name);
        std::fs::create_dir_all(&dir)?;
        for (path, text) in files {
            let path = dir.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(dir)
    }

    /// A private copy of a folder of `examples/`.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn example(&self, name: &str) -> anyhow::Result<PathBuf> {
        let (from, to) = (repository().join("examples").join(name), self.path(name));
        for entry in WalkDir::new(&from) {
            let entry = entry?;
            let target = to.join(entry.path().strip_prefix(&from)?);
            if entry.file_type().is_dir() {
                std::fs::create_dir_all(&target)?;
            } else {
                std::fs::copy(entry.path(), &target)?;
            }
        }
        Ok(to)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Whoever was started here is stopped by now; what a failed test left behind goes with it.
        Leftovers::below(self.dir.path()).clear();
    }
}

/// The configuration in which a registry stands for docker.io and quay.io.
pub fn mirror_config(registry: &str) -> String {
    format!(
        "[registry.\"docker.io\"]\nmirrors = [\"{registry}\"]\n\
         [registry.\"quay.io\"]\nmirrors = [\"{registry}\"]\n\
         [registry.\"{registry}\"]\nhttp = true\n"
    )
}

/// The registry with base images, as `HOST:PORT`.
///
/// # Errors
/// If nobody said where it is.
pub fn base_registry() -> anyhow::Result<String> {
    std::env::var("CAIRN_TEST_REGISTRY").context("no base images: CAIRN_TEST_REGISTRY is not set (`make test` sets it)")
}

/// The checkout.
pub fn repository() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().unwrap_or(crate_dir).to_owned()
}

/// The path of `cairn` or `cairnd`.
///
/// # Errors
/// If it was not built.
pub fn own_program(name: &str) -> anyhow::Result<PathBuf> {
    let dir = match std::env::var_os("CAIRN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe()?;
            let dir = own.parent().context("this program is in no directory")?;
            let above = dir.parent().filter(|_| dir.ends_with("deps"));
            above.unwrap_or(dir).to_owned()
        }
    };
    let program = dir.join(name);
    if !program.is_file() {
        bail!("{} is missing: build it, or set CAIRN_BIN_DIR", program.display());
    }
    Ok(program)
}

/// The path of a program that comes with today's Docker.
///
/// # Errors
/// If nobody said where it is, or it is not there.
pub fn sid_program(name: &str) -> anyhow::Result<PathBuf> {
    let dir = std::env::var_os("CAIRN_SID_BIN").context("no CAIRN_SID_BIN (`make test` sets it)")?;
    let program = Path::new(&dir).join(name);
    if !program.is_file() {
        bail!("{} is missing", program.display());
    }
    Ok(program)
}

/// The path of BuildKit's client.
///
/// # Errors
/// If nobody said where it is, or it is not there.
pub fn buildctl() -> anyhow::Result<PathBuf> {
    let program = std::env::var_os("CAIRN_BUILDCTL").context("no CAIRN_BUILDCTL (`make test` sets it)")?;
    let program = PathBuf::from(program);
    if !program.is_file() {
        bail!("there is no buildctl at {:?}", program.display());
    }
    Ok(program)
}

/// Finds a program as a shell would, and where administrators have theirs.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path);
    let admin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    own.chain(admin).map(|dir| dir.join(name)).find(|path| path.is_file())
}
