//! Changes to files.

use bytes::Bytes;

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
