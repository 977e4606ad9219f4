//! Where files come from.

use std::collections::BTreeMap;

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
    /// Only what the files look like is wanted, as a list in one file.
    pub metadata_only: bool,
    /// With that, patterns of files that are wanted all the same.
    pub metadata_exceptions: Vec<String>,
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
