//! Processes and what they see.

/// A process and what it sees.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ExecOp {
    /// Program and arguments; at least one.
    pub args: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// Host name; empty for the default.
    pub hostname: String,
    /// Proxy settings, if there are any; not part of the cache key.
    pub proxy: Option<Box<ProxyEnv>>,
    /// Additional `/etc/hosts` lines.
    pub extra_hosts: Vec<HostIp>,
    /// Resource limits to replace.
    pub ulimits: Vec<Ulimit>,
    /// Prefix of the control group path; empty for the default.
    pub cgroup_parent: String,
    /// Exit codes that mean success; empty for 0 alone.
    pub valid_exit_codes: Vec<i32>,
    /// Whether parents of mount points that were created for the run are removed afterwards too.
    pub remove_mount_stubs_recursive: bool,
    /// Mounts; exactly one has `dest` `/`.
    pub mounts: Vec<Mount>,
    /// Network access.
    pub network: NetMode,
    /// Confinement.
    pub security: SecurityMode,
    /// Secrets passed as environment variables.
    pub secret_env: Vec<SecretEnv>,
    /// Devices of the host, by their names in the Container Device Interface.
    pub devices: Vec<CdiDevice>,
}

/// Proxy settings of a run.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProxyEnv {
    /// `http_proxy`.
    pub http: String,
    /// `https_proxy`.
    pub https: String,
    /// `ftp_proxy`.
    pub ftp: String,
    /// `no_proxy`.
    pub no: String,
    /// `all_proxy`.
    pub all: String,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIp {
    /// Host name.
    pub host: String,
    /// Address.
    pub ip: std::net::IpAddr,
}

/// A resource limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower case, such as `nofile`.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// A secret passed as an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEnv {
    /// Name under which the client knows the secret.
    pub id: String,
    /// Environment variable.
    pub name: String,
    /// Whether a missing secret is an empty value rather than an error.
    pub optional: bool,
}

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiDevice {
    /// Name, class or pattern, as in `vendor.com/class=name`.
    pub name: String,
    /// Whether a missing one is left out rather than an error.
    pub optional: bool,
}

/// Network access of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum NetMode {
    /// What the worker gives by default.
    #[default]
    Sandbox,
    /// The host's network; needs the `network.host` entitlement.
    Host,
    /// Loopback only.
    None,
}

/// Confinement of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum SecurityMode {
    /// The default confinement.
    #[default]
    Sandbox,
    /// None; needs the `security.insecure` entitlement.
    Insecure,
}

/// Something visible to a process at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where; absolute, or relative to the working directory.
    pub dest: String,
    /// Index of the vertex input that is mounted; `None` for an empty one.
    pub input: Option<usize>,
    /// Path inside the input that is mounted in place of its root; empty for the root.
    pub selector: String,
    /// Whether the process sees it read-only.
    pub readonly: bool,
    /// Output of the vertex that the mount's contents become.
    pub output: Option<usize>,
    /// What is mounted.
    pub kind: MountKind,
    /// Overrides whether the key depends on the input's content.
    pub content_cache: ContentCache,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A result.
    Bind,
    /// A directory that persists between builds.
    Cache {
        /// Name of the directory.
        id: String,
        /// Concurrent use.
        sharing: CacheSharing,
    },
    /// Memory, lost afterwards.
    Tmpfs {
        /// Limit in bytes; 0 for none.
        size: u64,
    },
    /// A secret of the client, as a file.
    Secret(FileGrant),
    /// The client's ssh agent, as a socket.
    Ssh(FileGrant),
}

/// A private file that the client lends to a run.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FileGrant {
    /// Name under which the client knows it.
    pub id: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Whether a missing one is left out rather than an error.
    pub optional: bool,
}

/// How a cache directory is shared between concurrent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum CacheSharing {
    /// All at once.
    #[default]
    Shared,
    /// A fresh one for a second user.
    Private,
    /// One after another.
    Locked,
}

/// Whether a mount's key depends on content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum ContentCache {
    /// Where that is safe: read-only inputs without output.
    #[default]
    Default,
    /// Always.
    On,
    /// Never.
    Off,
}
