//! The decoded, validated form of every operation.
//!
//! Nothing that is required is optional here and no index is out of range: [`super::decode`] sees to both.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

/// What a vertex does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Brings something into the build from outside.
    Source(SourceOp),
    /// Runs a process.
    Exec(ExecOp),
    /// Changes files.
    File(FileOp),
    /// Lays inputs over one another; later ones win.
    Merge {
        /// Input indexes, lowest first.
        inputs: Vec<usize>,
    },
    /// What `upper` changes relative to `lower`; an absent side is scratch.
    Diff {
        /// Input index of the lower side.
        lower: Option<usize>,
        /// Input index of the upper side.
        upper: Option<usize>,
    },
    /// Hands its inputs on unchanged; output `i` is input `outputs[i]`.
    Passthrough {
        /// Tells otherwise identical graphs apart.
        id: String,
        /// For each output, the input it is.
        outputs: Vec<usize>,
    },
    /// Builds a definition that is in a file of an input.
    Build(BuildOp),
}

/// A definition to build, by where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOp {
    inputs: BTreeMap<String, usize>,
    filename: String,
}

impl BuildOp {
    /// The input that holds the definition, by its name among the inputs.
    pub const DEFINITION: &str = "buildkit.llb.definition";

    /// A build of the definition in `filename` of the input [`BuildOp::DEFINITION`]; empty for a file of that name.
    /// `None` if there is no such input.
    pub fn new(inputs: BTreeMap<String, usize>, filename: String) -> Option<Self> {
        let has_definition = inputs.contains_key(Self::DEFINITION);
        has_definition.then_some(Self { inputs, filename })
    }

    /// Index of the input that holds the definition.
    pub fn definition(&self) -> usize {
        self.inputs[Self::DEFINITION]
    }

    /// Indexes of all inputs, by name.
    pub fn inputs(&self) -> &BTreeMap<String, usize> {
        &self.inputs
    }

    /// The file name that was asked for; empty for the default.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// The file that holds the definition.
    pub fn file(&self) -> &str {
        if self.filename.is_empty() {
            Self::DEFINITION
        } else {
            &self.filename
        }
    }
}

/// A source, by its scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOp {
    /// An image in a registry: `docker-image://`.
    Image(ImageSource),
    /// A directory of the client: `local://`.
    Local(LocalSource),
    /// An image in an OCI layout of the client: `oci-layout://`.
    OciLayout(OciLayoutSource),
    /// A commit of a git repository: `git://`.
    Git(GitSource),
    /// A file behind a URL: `http://`, `https://`.
    Http(HttpSource),
    /// A blob of a registry or an OCI layout, as a file: `docker-image+blob://`, `oci-layout+blob://`.
    Blob(BlobSource),
}

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ImageSource {
    /// Fully qualified reference, `name[:tag][@digest]`.
    pub reference: String,
    /// Where the tag may be resolved.
    pub resolve_mode: ResolveMode,
    /// Record type shown in disk usage; empty for the default.
    pub record_type: String,
    /// Uses only that many of the lowest layers.
    pub layer_limit: Option<usize>,
    /// Manifest digest that the image must have.
    pub checksum: Option<crate::Digest>,
}

/// Where an image tag is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum ResolveMode {
    /// The worker's preference.
    #[default]
    Default,
    /// Always the registry.
    Pull,
    /// What is already there, if anything.
    Local,
}

/// A directory that a client offers over its session.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LocalSource {
    /// Name the client knows the directory by, such as `context`.
    pub name: String,
    /// Session that offers it; `None` means the one the build belongs to.
    pub session: Option<String>,
    /// Keeps directories of one name apart; when set, the client is asked for `<prefix>-<name>`.
    pub prefix: String,
    /// Patterns of which a path must match one; empty for everything.
    pub include: Vec<String>,
    /// Patterns that take paths out (and, with `!`, in again), in `.dockerignore` syntax.
    pub exclude: Vec<String>,
    /// Paths wanted, with what their symbolic links lead to.
    pub follow_paths: Vec<String>,
    /// Seeds the key under which earlier transfers of this directory are found.
    pub shared_key_hint: String,
    /// How files known from an earlier transfer are compared.
    pub differ: Differ,
    /// Distinguishes builds that must not share the vertex.
    pub unique: String,
}

impl LocalSource {
    /// The name the client is asked for.
    pub fn dir_name(&self) -> String {
        if self.prefix.is_empty() {
            self.name.clone()
        } else {
            format!("{}-{}", self.prefix, self.name)
        }
    }
}

/// An image in an OCI layout that a client offers over its session.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OciLayoutSource {
    /// Reference with a digest; the name in it is for display.
    pub reference: String,
    /// Session that offers the layout; `None` means the one the build belongs to.
    pub session: Option<String>,
    /// Name the client knows the layout by.
    pub store: String,
    /// Uses only that many of the lowest layers.
    pub layer_limit: Option<usize>,
    /// Manifest digest that the image must have.
    pub checksum: Option<crate::Digest>,
}

/// A commit of a git repository.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GitSource {
    /// Repository as `host/path`, without scheme and user: the same for every protocol.
    pub repository: String,
    /// Branch, tag, full reference name or commit; empty for the remote's default branch.
    pub reference: String,
    /// Directory in the repository that becomes the root; empty for all of it.
    pub subdir: String,
    /// Where to fetch from, with scheme and user; empty for `https://` and the repository.
    pub full_url: String,
    /// Whether `.git` is part of the result.
    pub keep_git_dir: bool,
    /// Secret with a token for the remote; empty for none.
    pub auth_token_secret: String,
    /// Secret with a whole `Authorization` value for the remote; empty for none.
    pub auth_header_secret: String,
    /// Host keys to trust, in the form of `known_hosts`.
    pub known_ssh_hosts: String,
    /// Agent of the client to use for ssh; empty for none.
    pub ssh_socket: String,
    /// Beginning of the commit hash that the reference must lead to; empty for any.
    pub checksum: String,
    /// Whether submodules are left out.
    pub skip_submodules: bool,
    /// Modification times of the files.
    pub mtime: GitMtime,
    /// Fetches the commit itself, not a reference that leads to it.
    pub fetch_by_commit: bool,
    /// Who has to have signed the commit or the tag; `None` for nobody.
    pub signers: Option<GitSigners>,
    /// A bundle that commits come from, of which only reference and layout count; `None` for the repository itself.
    pub bundle: Option<BlobSource>,
    /// Whether the result is a bundle in place of the files.
    pub as_bundle: bool,
}

/// Who has to have signed a commit, or the tag that leads to it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GitSigners {
    /// Their keys: of OpenPGP, or of ssh in the form of `authorized_keys`.
    pub keys: String,
    /// Whether a key that has expired since does not do.
    pub reject_expired: bool,
    /// Whether it has to be the tag that is signed.
    pub require_tag: bool,
    /// Whether only the commit counts, even if the tag is signed.
    pub ignore_tag: bool,
}

impl GitSource {
    /// The source as a URL: `git://host/path#reference:subdir`.
    pub fn identifier(&self) -> String {
        let mut identifier = format!("git://{}", self.repository);
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            identifier.push('#');
            identifier.push_str(&self.reference);
        }
        if !self.subdir.is_empty() {
            identifier.push(':');
            identifier.push_str(&self.subdir);
        }
        identifier
    }
}

/// Modification times of files that come out of a git repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum GitMtime {
    /// When they are checked out.
    #[default]
    Checkout,
    /// When the commit was made.
    Commit,
}

/// A file behind a URL.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HttpSource {
    /// The URL, with its scheme.
    pub url: String,
    /// Digest of the contents; a file with another one is an error.
    pub checksum: Option<crate::Digest>,
    /// Name of the file; empty for the one the server or the URL gives.
    pub filename: String,
    /// Permission bits; `None` for 0600.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Secret that is sent as the `Authorization` header; empty for none.
    pub auth_header_secret: String,
    /// More headers to send, by lower-case name; only `accept` and `user-agent`.
    pub headers: BTreeMap<String, String>,
    /// A signature that the file has to have; `None` for none.
    pub signature: Option<HttpSignature>,
}

/// An OpenPGP signature over a file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HttpSignature {
    /// Keys of which one has to have made it.
    pub keys: String,
    /// The signature, in text form.
    pub signature: String,
}

/// A blob of a registry or of a client's OCI layout, as a file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BlobSource {
    /// Reference with the digest of the blob.
    pub reference: String,
    /// The client's OCI layout that it is in; `None` for a registry.
    pub layout: Option<BlobLayout>,
    /// Name of the file; empty for the digest's digits.
    pub filename: String,
    /// Permission bits; `None` for 0600.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Record type shown in disk usage; empty for the default.
    pub record_type: String,
}

/// The OCI layout that a blob is in.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BlobLayout {
    /// Session that offers the layout; `None` means the one the build belongs to.
    pub session: Option<String>,
    /// Name the client knows the layout by.
    pub store: String,
}

impl BlobSource {
    /// The source as a URL.
    pub fn identifier(&self) -> String {
        let scheme = match self.layout {
            None => "docker-image+blob",
            Some(_) => "oci-layout+blob",
        };
        format!("{scheme}://{}", self.reference)
    }
}

/// How a file sync decides that a file is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Differ {
    /// By its metadata.
    #[default]
    Metadata,
    /// Never: everything is sent again.
    None,
}

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

/// File changes, applied in order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FileOp {
    /// The changes; at least one.
    pub actions: Vec<FileAction>,
}

/// One file change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAction {
    /// What is changed; `None` is scratch.
    pub input: Option<ActionInput>,
    /// What is copied from; only for [`FileActionKind::Copy`], where `None` is scratch.
    pub secondary: Option<ActionInput>,
    /// Output of the vertex that the result becomes.
    pub output: Option<usize>,
    /// The change.
    pub kind: FileActionKind,
}

/// What a file action works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionInput {
    /// An input of the vertex.
    Vertex(usize),
    /// The result of an earlier action.
    Action(usize),
}

/// A file change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileActionKind {
    /// Copies files.
    Copy(CopyAction),
    /// Writes a file.
    Mkfile {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Contents.
        data: Bytes,
        /// Owner; `None` for root.
        owner: Option<Chown>,
        /// Modification time in ns since the epoch; `None` for now.
        timestamp: Option<i64>,
    },
    /// Makes a directory.
    Mkdir {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Whether missing parents are made too.
        make_parents: bool,
        /// Owner; `None` for root.
        owner: Option<Chown>,
        /// Modification time in ns since the epoch; `None` for now.
        timestamp: Option<i64>,
    },
    /// Removes files.
    Rm {
        /// What.
        path: String,
        /// Whether nothing to remove is no error.
        allow_not_found: bool,
        /// Whether `path` is a pattern.
        allow_wildcard: bool,
    },
    /// Makes a symbolic link.
    Symlink {
        /// What it holds, verbatim.
        old_path: String,
        /// Where it is.
        new_path: String,
        /// Owner; `None` for root.
        owner: Option<Chown>,
        /// Modification time in ns since the epoch; `None` for now.
        timestamp: Option<i64>,
    },
}

/// Copies files from one root to another.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CopyAction {
    /// What, in the source root.
    pub src: String,
    /// Where to, in the destination root; a trailing `/` means into a directory.
    pub dest: String,
    /// Owner override.
    pub owner: Option<Chown>,
    /// Permission bits override.
    pub mode: Option<u32>,
    /// Symbolic (`u+rwX,go-w`) or octal permission override; wins over `mode`.
    pub mode_str: String,
    /// Whether a symbolic link at `src` itself is resolved.
    pub follow_symlink: bool,
    /// Whether the contents of a directory are copied rather than itself.
    pub dir_copy_contents: bool,
    /// Whether an archive is extracted.
    pub attempt_unpack: bool,
    /// Whether missing parents of `dest` are made.
    pub create_dest_path: bool,
    /// Whether `src` is a pattern.
    pub allow_wildcard: bool,
    /// Whether a pattern that matches nothing is no error.
    pub allow_empty_wildcard: bool,
    /// Modification time override in ns since the epoch.
    pub timestamp: Option<i64>,
    /// `.dockerignore` patterns, relative to `src`, of what is copied; empty for everything.
    pub include: Vec<String>,
    /// `.dockerignore` patterns, relative to `src`, of what is not copied.
    pub exclude: Vec<String>,
    /// Whether something of another type at the destination is replaced.
    pub always_replace: bool,
    /// Paths that must exist when `include` is given.
    pub required_paths: Vec<String>,
}

/// A new owner. An absent part is derived from the other as in `chown`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Chown {
    /// User.
    pub user: Option<UserSpec>,
    /// Group.
    pub group: Option<UserSpec>,
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserSpec {
    /// By number.
    Id(u32),
    /// By name, looked up in the root file system of an input.
    Name {
        /// The name.
        name: String,
        /// Whose `/etc/passwd` and `/etc/group` are read.
        input: Option<ActionInput>,
    },
}

/// What is known about a vertex besides its op. Not part of its digest.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OpMetadata {
    /// Runs it even when its result is known.
    pub ignore_cache: bool,
    /// Free-form text; `llb.customname` is the display name.
    pub description: Labels,
    /// Overrides whether its result is recorded in cache exports.
    pub export_cache: Option<bool>,
    /// Groups vertices into one step for display.
    pub progress_group: Option<Arc<ProgressGroup>>,
    /// Limits for a process.
    pub resources: Option<Box<LinuxResources>>,
    /// Capability ids the op needs.
    pub caps: std::collections::BTreeSet<String>,
}

/// A few texts by name, in the order of the names.
///
/// Every vertex has some, and a map of the standard library takes half a kilobyte as soon as there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<(Cow<'static, str>, Arc<str>)>);

impl Labels {
    /// Name of the text that users are shown for a vertex.
    pub const CUSTOM_NAME: &str = "llb.customname";

    /// The text of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        self.position(name).ok().map(|at| &self.0[at].1)
    }

    /// Sets a text, in place of an earlier one of that name.
    pub fn insert(&mut self, name: impl Into<Cow<'static, str>>, text: impl Into<Arc<str>>) {
        let (name, text) = (name.into(), text.into());
        match self.position(&name) {
            Ok(at) => self.0[at].1 = text,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (name, text));
            }
        }
    }

    /// Names and texts, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Cow<'static, str>, &Arc<str>)> {
        self.0.iter().map(|(name, text)| (name, text))
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_ref().cmp(name))
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(texts: I) -> Self {
        let texts = texts.into_iter().map(|(name, text)| {
            let name = if name == Self::CUSTOM_NAME {
                Cow::Borrowed(Self::CUSTOM_NAME)
            } else {
                Cow::Owned(name)
            };
            (name, Arc::from(text))
        });
        let sorted: BTreeMap<Cow<'static, str>, Arc<str>> = texts.collect();
        let mut texts = Vec::with_capacity(sorted.len());
        texts.extend(sorted);
        Self(texts)
    }
}

/// A group of vertices shown as one step.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProgressGroup {
    /// Identity.
    pub id: String,
    /// Name shown.
    pub name: String,
    /// Whether the group is shown only if a member that is not weak is.
    pub weak: bool,
}

/// Control group limits.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LinuxResources {
    /// Bytes.
    pub memory: i64,
    /// Bytes; -1 is unlimited.
    pub memory_swap: i64,
    /// Relative weight.
    pub cpu_shares: u64,
    /// Microseconds.
    pub cpu_period: u64,
    /// Microseconds per period.
    pub cpu_quota: i64,
    /// CPUs, such as `0-2`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
}
