//! What `ADD` fetches from elsewhere.

use cairn_solver::llb::{CopyAction, HttpSource, Op, OpMetadata, SourceOp};

use crate::gofmt;
use crate::instruction::Copy;
use crate::location::Lines;
use crate::remote::{self, GitRef, SourceKind, source_kind};

use super::Lowering;
use super::arena::NodeId;

/// What each word of `ADD` or `COPY` fetches; `None` for a path. Words and `checksum` are expanded.
///
/// # Errors
/// The first thing that is wrong, in words that users know.
pub(super) fn sources(
    copy: &Copy,
    words: &[String],
    checksum: Option<&str>,
    is_add: bool,
) -> Result<Vec<Option<SourceOp>>, String> {
    if checksum.is_some() {
        match words {
            [word] if source_kind(word) == SourceKind::Path => {
                return Err("checksum requires HTTP(S) or Git sources".to_owned());
            }
            [_] => {}
            _ => return Err("checksum can't be specified for multiple sources".to_owned()),
        }
    }
    let source = |word: &String| match (source_kind(word), is_add) {
        (SourceKind::Path, _) => Ok(None),
        (SourceKind::Git(_), false) => Err("source can't be a git ref for COPY".to_owned()),
        (SourceKind::Http, false) => Err("source can't be a URL for COPY".to_owned()),
        (SourceKind::Git(reference), true) => git(copy, *reference?, checksum).map(Some),
        (SourceKind::Http, true) => file(word, checksum).map(Some),
    };
    words.iter().map(source).collect()
}

fn git(copy: &Copy, mut reference: GitRef, checksum: Option<&str>) -> Result<SourceOp, String> {
    if let (Some(flag), Some(query)) = (copy.keep_git_dir, reference.keep_git_dir)
        && flag != query
    {
        return Err("inconsistent keep-git-dir configuration".to_owned());
    }
    reference.keep_git_dir = copy.keep_git_dir.or(reference.keep_git_dir);
    if let Some(wanted) = checksum {
        if !reference.checksum.is_empty() && reference.checksum != wanted {
            let (flag, url) = (gofmt::quote(wanted), gofmt::quote(&reference.checksum));
            return Err(format!("checksum mismatch {flag} != {url}"));
        }
        reference.checksum = wanted.to_owned();
    }
    Ok(SourceOp::Git(reference.source()))
}

fn file(url: &str, checksum: Option<&str>) -> Result<SourceOp, String> {
    Ok(SourceOp::Http(HttpSource {
        url: url.to_owned(),
        filename: remote::filename(url),
        checksum: checksum.map(remote::checksum).transpose()?,
        ..HttpSource::default()
    }))
}

impl Lowering<'_> {
    /// Adds the source that a step named `name` fetches, and says how what came is copied.
    pub(super) fn fetch(
        &mut self,
        mut source: SourceOp,
        name: &str,
        lines: Lines,
        copy: &Copy,
        template: &CopyAction,
    ) -> (NodeId, CopyAction) {
        if let SourceOp::Git(git) = &mut source
            && !self.around.host_keys.fill(git)
        {
            self.unknown_hosts.push(git.clone());
        }
        let mut metadata = OpMetadata::named(name);
        let action = match &source {
            SourceOp::Http(file) => {
                // Clients expect this to be there, and that it says nothing.
                metadata.description.insert("com.docker.dockerfile.v1.command", "");
                CopyAction {
                    src: format!("/{}", file.filename),
                    attempt_unpack: copy.unpack == Some(true),
                    ..template.clone()
                }
            }
            _ => CopyAction {
                src: "/".to_owned(),
                ..template.clone()
            },
        };
        let node = self
            .arena
            .add(Op::Source(source), Vec::new(), None, metadata, Some(lines));
        (node, action)
    }
}
