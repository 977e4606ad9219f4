//! Cache keys: what the result of a vertex depends on, and nothing else.
//!
//! A key is the blake3 hash of its [`Preimage`], which is kept beside every result, so that two keys can be compared
//! by what went into them. Every field is named, prefixed with its length, and in a fixed order. What enters the key of
//! each kind of op, and why, is listed in `docs/cache-keys.md`, which a test holds against this file; in short:
//!
//! | op | own fields | inputs |
//! |---|---|---|
//! | source | what it resolved to | – |
//! | exec | all that the process can notice | read-only mounts by content, others by identity |
//! | file | platform, every action with all its options | copied-from by content, changed by identity |
//! | merge, diff, passthrough | order of inputs | by identity |
//! | build | none | what the nested definition asks for, by identity |
//!
//! Not in any key: names, progress groups, source locations, proxies, addresses of extra hosts, secret values, control
//! group settings, cache mount ids' contents, times of copied files.

use std::fmt;
use std::str::FromStr;

use crate::llb::{
    ActionInput, CacheSharing, Chown, ContentCache, CopyAction, ExecOp, FileActionKind, FileGrant, FileOp, MountKind,
    Op, UserSpec, Vertex,
};
use crate::worker::{ContentSelector, ResolvedSource, ResultId};
use crate::{Digest, Platform};

/// Version of everything that is hashed here; part of every key, so that a change of rules makes old keys unreachable.
const KEY_VERSION: &str = "cairn.key.v1";

/// Finds results: equal keys have interchangeable results.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// Wraps the bytes of a key read from an index.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for an index.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", hex::encode(self.0))
    }
}

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is \"blake3:\" and 64 hexadecimal digits")]
pub struct CacheKeyError;

impl FromStr for CacheKey {
    type Err = CacheKeyError;

    fn from_str(text: &str) -> Result<Self, CacheKeyError> {
        let hex = text.strip_prefix("blake3:").ok_or(CacheKeyError)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex, &mut bytes).map_err(|_| CacheKeyError)?;
        Ok(Self(bytes))
    }
}

impl serde::Serialize for CacheKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for CacheKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The named parts that a key is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Preimage {
    /// Kind of op.
    pub kind: String,
    /// The op's own fields, in order.
    pub fields: Vec<(String, String)>,
    /// What each input contributes, in order.
    pub inputs: Vec<InputPart>,
}

/// What an input contributes to a key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum InputPart {
    /// Which output of which key; any change of the input changes the key.
    Identity {
        /// Text of the input's key.
        key: String,
        /// Which of its outputs.
        output: usize,
    },
    /// The digests of what is read from it, per selector; nothing else of the input matters.
    Content(Vec<String>),
}

impl Preimage {
    /// Hashes the parts.
    pub fn key(&self) -> CacheKey {
        let mut hasher = KeyHasher::new(&self.kind, self.fields.len());
        for (name, value) in &self.fields {
            hasher.put(name);
            hasher.put(value);
        }
        hasher.count(self.inputs.len());
        for input in &self.inputs {
            match input {
                InputPart::Identity { key, output } => hasher.identity(key, *output),
                InputPart::Content(digests) => {
                    hasher.content(digests.len());
                    digests.iter().for_each(|digest| hasher.put(digest));
                }
            }
        }
        hasher.finish()
    }
}

/// What an input contributes to a key, as numbers.
#[derive(Clone, Copy, Debug)]
pub enum InputHash<'a> {
    /// Which output of which key.
    Identity(CacheKey, usize),
    /// The digests of what is read from it, per selector.
    Content(&'a [Digest]),
}

/// The key of a vertex that is no source: the one of its [`op_preimage`], without making that.
pub fn op_key<'a>(
    vertex: &Vertex,
    platform: Option<&Platform>,
    inputs: impl ExactSizeIterator<Item = InputHash<'a>>,
) -> CacheKey {
    let (kind, fields) = op_fields(vertex, platform);
    let mut hasher = KeyHasher::new(kind, fields.count());
    fields.texts().for_each(|text| hasher.put(text));
    hasher.count(inputs.len());
    inputs.for_each(|input| hasher.input(&input));
    hasher.finish()
}

/// Puts a hash in place of the zeros of a text that names its algorithm.
fn in_hex<'a>(text: &'a mut [u8; 71], hash: &[u8; 32]) -> &'a str {
    let at = text.len() - 64;
    hex::encode_to_slice(hash, &mut text[at..]).expect("there is room for 64 digits");
    std::str::from_utf8(text).expect("digits are text")
}

/// Hashes the parts of a key in their order.
struct KeyHasher(blake3::Hasher);

impl KeyHasher {
    fn new(kind: &str, fields: usize) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.put(KEY_VERSION);
        hasher.put(kind);
        hasher.count(fields);
        hasher
    }

    fn put(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    fn count(&mut self, number: usize) {
        self.put(&number.to_string());
    }

    fn input(&mut self, input: &InputHash<'_>) {
        match input {
            InputHash::Identity(key, output) => {
                let mut text = *b"blake3:0000000000000000000000000000000000000000000000000000000000000000";
                self.identity(in_hex(&mut text, key.as_bytes()), *output);
            }
            InputHash::Content(digests) => {
                self.content(digests.len());
                for digest in *digests {
                    let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
                    self.put(in_hex(&mut text, digest.as_bytes()));
                }
            }
        }
    }

    fn identity(&mut self, key: &str, output: usize) {
        self.put("identity");
        self.put(key);
        self.count(output);
    }

    fn content(&mut self, digests: usize) {
        self.put("content");
        self.count(digests);
    }

    fn finish(&self) -> CacheKey {
        CacheKey(*self.0.finalize().as_bytes())
    }
}

/// The key under which the content digest of `selector` under an input is remembered.
///
/// `result` is what the input was made into (`None` is scratch): made again, it may have other content.
pub fn content_key(input: &CacheKey, output: usize, result: Option<&ResultId>, selector: &ContentSelector) -> CacheKey {
    let yes_or_no = |flag: bool| if flag { "true" } else { "false" };
    let fields = [
        ("result", result.map_or("", ResultId::as_str)),
        ("path", &selector.path),
        ("wildcard", yes_or_no(selector.wildcard)),
        ("allow_empty", yes_or_no(selector.allow_empty)),
        ("follow_links", yes_or_no(selector.follow_links)),
    ];
    let include = selector.include.iter().map(|text| ("include", text.as_str()));
    let exclude = selector.exclude.iter().map(|text| ("exclude", text.as_str()));
    let count = fields.len() + include.len() + exclude.len();
    let mut hasher = KeyHasher::new("content", count);
    for (name, value) in fields.into_iter().chain(include).chain(exclude) {
        hasher.put(name);
        hasher.put(value);
    }
    hasher.count(1);
    hasher.input(&InputHash::Identity(*input, output));
    hasher.finish()
}

/// How a vertex depends on one of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// On all of it.
    Identity,
    /// On what these select.
    Content(Vec<ContentSelector>),
}

/// How a vertex depends on each of its inputs, in order.
pub fn dependencies(vertex: &Vertex) -> Vec<Dependency> {
    let mut dependencies = vec![Dependency::Content(Vec::new()); vertex.inputs.len()];
    match &vertex.op {
        Op::Exec(exec) => exec_selectors(exec, &mut dependencies),
        Op::File(file) => file_selectors(file, &mut dependencies),
        Op::Source(_) | Op::Merge { .. } | Op::Diff { .. } | Op::Passthrough { .. } | Op::Build(_) => {
            dependencies.fill(Dependency::Identity);
        }
    }
    for dependency in &mut dependencies {
        // An input that nothing reads still is what the client asked for.
        if matches!(dependency, Dependency::Content(selectors) if selectors.is_empty()) {
            *dependency = Dependency::Identity;
        }
    }
    dependencies
}

fn exec_selectors(exec: &ExecOp, dependencies: &mut [Dependency]) {
    for mount in &exec.mounts {
        let Some(input) = mount.input else { continue };
        let by_content = match mount.content_cache {
            ContentCache::On => mount.output.is_none() && mount.dest != "/",
            ContentCache::Off => false,
            ContentCache::Default => {
                mount.kind == MountKind::Bind && mount.readonly && mount.output.is_none() && mount.dest != "/"
            }
        };
        match &mut dependencies[input] {
            Dependency::Content(known) if by_content => known.push(ContentSelector {
                path: mount.selector.clone(),
                follow_links: true,
                ..ContentSelector::default()
            }),
            other => *other = Dependency::Identity,
        }
    }
}

fn file_selectors(file: &FileOp, dependencies: &mut [Dependency]) {
    let mut whole = |input: Option<ActionInput>| {
        if let Some(ActionInput::Vertex(input)) = input {
            dependencies[input] = Dependency::Identity;
        }
    };
    for action in &file.actions {
        whole(action.input);
        for owner in owner_of(&action.kind)
            .into_iter()
            .flat_map(|owner| [&owner.user, &owner.group])
        {
            if let Some(UserSpec::Name { input, .. }) = owner {
                whole(*input);
            }
        }
    }
    for action in &file.actions {
        if let (FileActionKind::Copy(copy), Some(ActionInput::Vertex(input))) = (&action.kind, action.secondary)
            && let Dependency::Content(known) = &mut dependencies[input]
        {
            known.push(copy_selector(copy));
        }
    }
}

fn copy_selector(copy: &CopyAction) -> ContentSelector {
    ContentSelector {
        path: copy.src.clone(),
        wildcard: copy.allow_wildcard,
        allow_empty: copy.allow_empty_wildcard,
        follow_links: copy.follow_symlink,
        include: copy.include.clone(),
        exclude: copy.exclude.clone(),
    }
}

fn owner_of(kind: &FileActionKind) -> Option<&Chown> {
    match kind {
        FileActionKind::Copy(CopyAction { owner, .. })
        | FileActionKind::Mkfile { owner, .. }
        | FileActionKind::Mkdir { owner, .. }
        | FileActionKind::Symlink { owner, .. } => owner.as_ref(),
        FileActionKind::Rm { .. } => None,
    }
}

/// The preimage of a source's key.
pub fn source_preimage(resolved: &ResolvedSource) -> Preimage {
    let mut fields = vec![("pin".to_owned(), resolved.pin.clone())];
    fields.extend(resolved.parts.iter().map(|(name, value)| (name.clone(), value.clone())));
    Preimage {
        kind: "source".to_owned(),
        fields,
        inputs: Vec::new(),
    }
}

/// The preimage of any other vertex's key. `platform` is what it runs on, if that is known.
pub fn op_preimage(vertex: &Vertex, platform: Option<&Platform>, inputs: Vec<InputPart>) -> Preimage {
    let (kind, fields) = op_fields(vertex, platform);
    Preimage {
        kind: kind.to_owned(),
        fields: fields.pairs(),
        inputs,
    }
}

/// The kind of a vertex and its own fields.
fn op_fields(vertex: &Vertex, platform: Option<&Platform>) -> (&'static str, Fields) {
    let mut fields = Fields::default();
    let kind = match &vertex.op {
        Op::Source(_) => "source",
        Op::Exec(exec) => {
            platform_fields(platform, &mut fields);
            exec_fields(exec, &mut fields);
            "exec"
        }
        Op::File(file) => {
            platform_fields(platform, &mut fields);
            file_fields(file, &mut fields);
            "file"
        }
        Op::Merge { inputs } => {
            fields.put("order", format!("{inputs:?}"));
            "merge"
        }
        Op::Diff { lower, upper } => {
            fields.put("lower", format!("{lower:?}"));
            fields.put("upper", format!("{upper:?}"));
            "diff"
        }
        Op::Passthrough { id, outputs } => {
            fields.put("id", id);
            fields.put("outputs", format!("{outputs:?}"));
            "passthrough"
        }
        // Only what the definition asks for counts: it is its only part by identity.
        Op::Build(_) => "build",
    };
    (kind, fields)
}

/// Names and values by turns, one after another: large builds have very many, and most are only hashed.
#[derive(Default)]
struct Fields {
    text: String,
    ends: Vec<usize>,
}

impl Fields {
    fn put(&mut self, name: &str, value: impl AsRef<str>) {
        for text in [name, value.as_ref()] {
            self.text.push_str(text);
            self.ends.push(self.text.len());
        }
    }

    fn count(&self) -> usize {
        self.ends.len() / 2
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends
            .iter()
            .map(move |&end| &self.text[std::mem::replace(&mut start, end)..end])
    }

    fn pairs(&self) -> Vec<(String, String)> {
        let mut texts = self.texts().map(str::to_owned);
        let mut pairs = Vec::with_capacity(self.count());
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            pairs.push((name, value));
        }
        pairs
    }

    fn put_all<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a String>) {
        for value in values {
            self.put(name, value);
        }
    }

    /// Leaves the field out when it is empty: most are.
    fn put_set(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.put(name, value);
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.put(name, "true");
        }
    }
}

fn platform_fields(platform: Option<&Platform>, fields: &mut Fields) {
    let Some(platform) = platform else { return };
    fields.put("platform", platform.to_string());
    fields.put_set("os version", &platform.os_version);
    fields.put_all("os feature", &platform.os_features);
}

fn exec_fields(exec: &ExecOp, fields: &mut Fields) {
    fields.put_all("arg", &exec.args);
    fields.put_all("env", &exec.env);
    fields.put("cwd", &exec.cwd);
    fields.put_set("user", &exec.user);
    fields.put_set("hostname", &exec.hostname);
    fields.put("network", format!("{:?}", exec.network));
    fields.put("security", format!("{:?}", exec.security));
    for host in &exec.extra_hosts {
        fields.put("extra host", &host.host);
    }
    for limit in &exec.ulimits {
        fields.put("ulimit", format!("{}={}:{}", limit.name, limit.soft, limit.hard));
    }
    for code in &exec.valid_exit_codes {
        fields.put("valid exit code", code.to_string());
    }
    for secret in &exec.secret_env {
        fields.put("secret env", format!("{}={}", secret.name, secret.id));
        fields.flag("secret env optional", secret.optional);
    }
    for device in &exec.devices {
        fields.put("device", &device.name);
        fields.flag("device optional", device.optional);
    }
    fields.flag("remove mount stubs", exec.remove_mount_stubs_recursive);
    for mount in &exec.mounts {
        fields.put("mount", &mount.dest);
        if let Some(input) = mount.input {
            fields.put("mount input", input.to_string());
        }
        fields.put_set("mount selector", &mount.selector);
        fields.flag("mount readonly", mount.readonly);
        if let Some(output) = mount.output {
            fields.put("mount output", output.to_string());
        }
        match &mount.kind {
            MountKind::Bind => {}
            MountKind::Cache { id, sharing } => {
                fields.put("mount cache", id);
                if *sharing != CacheSharing::Shared {
                    fields.put("mount sharing", format!("{sharing:?}"));
                }
            }
            MountKind::Tmpfs { size } => fields.put("mount tmpfs", size.to_string()),
            MountKind::Secret(grant) => grant_fields("mount secret", grant, fields),
            MountKind::Ssh(grant) => grant_fields("mount ssh", grant, fields),
        }
    }
}

fn grant_fields(name: &str, grant: &FileGrant, fields: &mut Fields) {
    fields.put(name, &grant.id);
    fields.put("owner", format!("{}:{}", grant.uid, grant.gid));
    fields.put("mode", format!("{:o}", grant.mode));
    fields.flag("optional", grant.optional);
}

fn file_fields(file: &FileOp, fields: &mut Fields) {
    for action in &file.actions {
        fields.put(
            "action",
            format!("{:?} {:?} {:?}", action.input, action.secondary, action.output),
        );
        match &action.kind {
            FileActionKind::Copy(copy) => copy_fields(copy, fields),
            FileActionKind::Mkfile {
                path,
                mode,
                data,
                timestamp,
                ..
            } => {
                fields.put("mkfile", path);
                fields.put("mode", format!("{mode:o}"));
                fields.put("data", Digest::sha256(data).to_string());
                put_timestamp(fields, *timestamp);
            }
            FileActionKind::Mkdir {
                path,
                mode,
                make_parents,
                timestamp,
                ..
            } => {
                fields.put("mkdir", path);
                fields.put("mode", format!("{mode:o}"));
                fields.flag("make parents", *make_parents);
                put_timestamp(fields, *timestamp);
            }
            FileActionKind::Rm {
                path,
                allow_not_found,
                allow_wildcard,
            } => {
                fields.put("rm", path);
                fields.flag("allow not found", *allow_not_found);
                fields.flag("allow wildcard", *allow_wildcard);
            }
            FileActionKind::Symlink {
                old_path,
                new_path,
                timestamp,
                ..
            } => {
                fields.put("symlink", new_path);
                fields.put("target", old_path);
                put_timestamp(fields, *timestamp);
            }
        }
        if let Some(owner) = owner_of(&action.kind) {
            put_owner(fields, "user", owner.user.as_ref());
            put_owner(fields, "group", owner.group.as_ref());
        }
    }
}

fn copy_fields(copy: &CopyAction, fields: &mut Fields) {
    fields.put("copy", &copy.src);
    fields.put("dest", &copy.dest);
    if let Some(mode) = copy.mode {
        fields.put("mode", format!("{mode:o}"));
    }
    fields.put_set("mode string", &copy.mode_str);
    fields.flag("follow symlink", copy.follow_symlink);
    fields.flag("contents", copy.dir_copy_contents);
    fields.flag("unpack", copy.attempt_unpack);
    fields.flag("create dest path", copy.create_dest_path);
    fields.flag("wildcard", copy.allow_wildcard);
    fields.flag("allow empty wildcard", copy.allow_empty_wildcard);
    fields.flag("always replace", copy.always_replace);
    put_timestamp(fields, copy.timestamp);
    fields.put_all("include", &copy.include);
    fields.put_all("exclude", &copy.exclude);
    fields.put_all("required path", &copy.required_paths);
}

fn put_timestamp(fields: &mut Fields, timestamp: Option<i64>) {
    if let Some(timestamp) = timestamp {
        fields.put("timestamp", timestamp.to_string());
    }
}

fn put_owner(fields: &mut Fields, name: &str, spec: Option<&UserSpec>) {
    match spec {
        None => {}
        Some(UserSpec::Id(id)) => fields.put(name, id.to_string()),
        Some(UserSpec::Name { name: user, input }) => fields.put(name, format!("{user:?} in {input:?}")),
    }
}

#[cfg(test)]
mod tests;
