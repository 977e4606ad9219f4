//! What a build used: collected from its vertices, and from the names that its frontends resolved.

use std::collections::BTreeMap;

use cairn_solver::engine::{CapturedVertex, ResolvedName};
use cairn_solver::llb::{ExecOp, GitSource, HttpSource, MountKind, NetMode, Op, SourceOp};
use cairn_solver::{Digest, Platform};

use crate::history::conceal;

/// Under these names a worker says what sources stand for.
const MANIFEST: &str = "manifest";
const COMMIT: &str = "commit";
const CONTENT: &str = "digest";
/// The agent that is meant where none is named.
const DEFAULT_AGENT: &str = "default";

/// Whether something need not be there, by id.
pub(super) type Lent = BTreeMap<String, bool>;

/// What one result was made with.
#[derive(Clone, Debug, Default)]
pub(super) struct Capture {
    pub(super) images: Vec<ResolvedName>,
    /// Commits by address.
    pub(super) git: BTreeMap<String, String>,
    /// Digests by address.
    pub(super) http: BTreeMap<String, Digest>,
    /// Directories of the client, by name.
    pub(super) locals: Vec<String>,
    pub(super) secrets: Lent,
    pub(super) agents: Lent,
    /// Whether a process could reach others.
    pub(super) has_network: bool,
}

impl Capture {
    /// Takes note of a vertex. `host` is the platform of those that name none.
    pub(super) fn add(&mut self, captured: &CapturedVertex, host: &Platform) {
        let parts = captured.resolved.as_ref().map(|resolved| &resolved.parts);
        let part = |name: &str| parts.and_then(|parts| parts.get(name));
        let digest = |name: &str| part(name).and_then(|text| Digest::parse(text).ok());
        match &captured.vertex.op {
            Op::Source(source @ (SourceOp::Image(_) | SourceOp::OciLayout(_))) => {
                let (reference, is_layout) = match source {
                    SourceOp::OciLayout(layout) => (&layout.reference, true),
                    SourceOp::Image(image) => (&image.reference, false),
                    _ => return,
                };
                if let Some(digest) = digest(MANIFEST) {
                    self.images.push(ResolvedName {
                        reference: reference.clone(),
                        platform: Some(captured.vertex.platform.as_deref().unwrap_or(host).clone()),
                        is_layout,
                        digest,
                    });
                }
            }
            Op::Source(SourceOp::Local(local)) => {
                if !self.locals.contains(&local.name) {
                    self.locals.push(local.name.clone());
                }
            }
            Op::Source(SourceOp::Git(git)) => self.add_git(git, part(COMMIT)),
            Op::Source(SourceOp::Http(http)) => self.add_http(http, digest(CONTENT)),
            Op::Source(SourceOp::Blob(blob)) => {
                // As good as a file behind a URL.
                if let Some(digest) = digest(CONTENT) {
                    self.http.insert(blob.identifier(), digest);
                }
            }
            Op::Exec(exec) => self.add_exec(exec),
            Op::File(_) | Op::Merge { .. } | Op::Diff { .. } | Op::Passthrough { .. } | Op::Build(_) => {}
        }
    }

    fn add_git(&mut self, git: &GitSource, commit: Option<&String>) {
        if let Some(commit) = commit {
            self.git.insert(git_address(git), commit.clone());
        }
        // A blob, which says by itself what is in it.
        let bundle = git
            .bundle
            .as_ref()
            .map(|bundle| (bundle, bundle.reference.rsplit_once('@')));
        if let Some((bundle, Some((_, digest)))) = bundle
            && let Ok(digest) = Digest::parse(digest)
        {
            self.http.insert(bundle.identifier(), digest);
        }
        for id in [&git.auth_token_secret, &git.auth_header_secret] {
            lend(&mut self.secrets, id, true);
        }
        lend(&mut self.agents, &git.ssh_socket, true);
    }

    fn add_http(&mut self, http: &HttpSource, digest: Option<Digest>) {
        if let Some(digest) = digest {
            self.http.insert(conceal(&http.url), digest);
        }
        lend(&mut self.secrets, &http.auth_header_secret, true);
    }

    fn add_exec(&mut self, exec: &ExecOp) {
        for mount in &exec.mounts {
            match &mount.kind {
                MountKind::Secret(secret) => lend(&mut self.secrets, &secret.id, secret.optional),
                MountKind::Ssh(agent) => {
                    let id = if agent.id.is_empty() { DEFAULT_AGENT } else { &agent.id };
                    lend(&mut self.agents, id, agent.optional);
                }
                MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
        for secret in &exec.secret_env {
            lend(&mut self.secrets, &secret.id, secret.optional);
        }
        self.has_network |= exec.network != NetMode::None;
    }
}

/// What is needed once is needed.
fn lend(lent: &mut Lent, id: &str, is_optional: bool) {
    if !id.is_empty() {
        let known = lent.entry(id.to_owned()).or_insert(true);
        *known &= is_optional;
    }
}

/// Where a commit comes from: `https://host/path#reference`.
fn git_address(git: &GitSource) -> String {
    let remote = match git.full_url.as_str() {
        "" => format!("https://{}", git.repository),
        url => conceal(url),
    };
    match git.reference.as_str() {
        "" => remote,
        reference => format!("{remote}#{reference}"),
    }
}

/// Leaves out the names that were resolved for other platforms, where a name was resolved for all of them.
pub(super) fn of_platform(names: Vec<ResolvedName>, all: &[Platform], own: &Platform) -> Vec<ResolvedName> {
    let is_for = |name: &ResolvedName, platform: &Platform| {
        let named = name.platform.as_ref();
        named.is_some_and(|named| named.os == platform.os && named.architecture == platform.architecture)
    };
    let is_for_all = |name: &ResolvedName| {
        let same = |other: &&ResolvedName| other.reference == name.reference;
        all.iter()
            .all(|platform| names.iter().filter(same).any(|other| is_for(other, platform)))
    };
    let kept = names.iter().filter(|name| is_for(name, own) || !is_for_all(name));
    kept.cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_solver::llb::{FileGrant, Mount, Vertex};
    use cairn_solver::worker::ResolvedSource;

    use super::*;

    fn vertex(op: Op, part: Option<(&str, &str)>) -> CapturedVertex {
        let resolved = part.map(|(name, value)| {
            Arc::new(ResolvedSource {
                pin: String::new(),
                parts: [(name.to_owned(), value.to_owned())].into(),
                result: None,
            })
        });
        let vertex = Vertex {
            digest: Digest::sha256(b"vertex"),
            op,
            inputs: Vec::new(),
            platform: None,
            constraints: Box::default(),
            metadata: Arc::default(),
        };
        CapturedVertex {
            vertex: Arc::new(vertex),
            resolved,
        }
    }

    fn captured(vertices: &[CapturedVertex]) -> Capture {
        let mut capture = Capture::default();
        for vertex in vertices {
            capture.add(vertex, &"linux/amd64".parse().unwrap());
        }
        capture
    }

    #[test]
    fn remote_sources_are_named_without_passwords() {
        let digest = Digest::sha256(b"x").to_string();
        let git = GitSource {
            repository: "example.com/a.git".to_owned(),
            reference: "main".to_owned(),
            subdir: "sub".to_owned(),
            full_url: "https://me:secret@example.com/a.git".to_owned(),
            auth_token_secret: "TOKEN".to_owned(),
            ..GitSource::default()
        };
        let http = HttpSource {
            url: "https://me:secret@example.com/f".to_owned(),
            ..HttpSource::default()
        };
        let capture = captured(&[
            vertex(Op::Source(SourceOp::Git(git)), Some((COMMIT, "c0ffee"))),
            vertex(Op::Source(SourceOp::Http(http)), Some((CONTENT, &digest))),
        ]);
        // The directory is no part of where a commit comes from.
        let git = ("https://xxxxx@example.com/a.git#main".to_owned(), "c0ffee".to_owned());
        assert_eq!(capture.git, [git].into());
        assert!(capture.http.contains_key("https://xxxxx@example.com/f"));
        assert_eq!(capture.secrets, [("TOKEN".to_owned(), true)].into());
        assert!(!capture.has_network);
    }

    #[test]
    fn what_processes_are_lent_is_needed_if_one_needs_it() {
        let secret = |id: &str, optional| Mount {
            dest: "/s".to_owned(),
            input: None,
            selector: String::new(),
            readonly: true,
            output: None,
            kind: MountKind::Secret(FileGrant {
                id: id.to_owned(),
                optional,
                ..FileGrant::default()
            }),
            content_cache: Default::default(),
        };
        let agent = Mount {
            kind: MountKind::Ssh(FileGrant::default()),
            ..secret("", false)
        };
        let exec = |mounts, network| {
            let exec = ExecOp {
                mounts,
                network,
                ..ExecOp::default()
            };
            vertex(Op::Exec(exec), None)
        };
        let alone = captured(&[exec(vec![secret("a", true)], NetMode::None)]);
        assert_eq!(
            (alone.secrets, alone.has_network),
            ([("a".to_owned(), true)].into(), false)
        );
        let both = captured(&[
            exec(vec![secret("a", true), agent], NetMode::None),
            exec(vec![secret("a", false)], NetMode::Sandbox),
        ]);
        assert_eq!(
            (both.secrets, both.has_network),
            ([("a".to_owned(), false)].into(), true)
        );
        assert_eq!(both.agents, [("default".to_owned(), false)].into());
    }

    #[test]
    fn names_of_other_platforms_are_left_out_where_all_have_one() {
        let platforms = ["linux/amd64", "linux/arm64"].map(|text| text.parse::<Platform>().unwrap());
        let name = |reference: &str, platform: usize| ResolvedName {
            reference: reference.to_owned(),
            platform: Some(platforms[platform].clone()),
            is_layout: false,
            digest: Digest::sha256(reference.as_bytes()),
        };
        let names = vec![name("both", 0), name("both", 1), name("tool", 0)];
        assert_eq!(of_platform(names.clone(), &platforms, &platforms[1]), names[1..]);
        assert_eq!(
            of_platform(names.clone(), &platforms[..1], &platforms[0]),
            [names[0].clone(), names[2].clone()]
        );
    }
}
