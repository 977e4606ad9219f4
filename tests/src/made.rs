//! What a daemon makes of a definition, in a form that can be compared.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use cairn_client::{Client, ClientError, OutputTarget, SolveOptions, SolveOutput};
use cairn_proto::pb;

use crate::solve::solve;

/// The files, each in one line of text by its path, or why there are none.
pub type Made = Result<BTreeMap<String, String>, String>;

/// Builds a definition; `target` is where its files pass through.
///
/// # Errors
/// That the daemon does not answer, or with something else.
pub async fn files_of(
    client: &Client,
    definition: &pb::Definition,
    options: SolveOptions,
    target: &Path,
) -> anyhow::Result<Made> {
    let output = SolveOutput {
        kind: "tar".to_owned(),
        attrs: BTreeMap::new(),
        target: Some(OutputTarget::file(target.to_owned())),
    };
    let options = SolveOptions {
        definition: Some(definition.clone()),
        outputs: vec![output],
        ..options
    };
    match solve(client, options).await {
        Ok(_) => contents(target).map(Ok),
        Err(ClientError::Build(failure)) => Ok(Err(failure.message.clone())),
        Err(error) => Err(error.into()),
    }
}

/// What is in a tar. Directories have times of their own only by chance.
fn contents(tar: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for entry in tar::Archive::new(std::fs::File::open(tar)?).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string().trim_matches('/').to_owned();
        let link = entry.link_name()?.map(|link| link.display().to_string());
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let header = entry.header();
        let kind = header.entry_type();
        if let (true, Some(link)) = (kind.is_hard_link(), &link) {
            let first = found.get(link.trim_matches('/')).context("a link to nothing")?.clone();
            found.insert(path, first);
            continue;
        }
        let time = if kind.is_dir() { 0 } else { header.mtime()? };
        let text = format!(
            "{kind:?} {:o} {}:{} {time} {link:?} {}",
            header.mode()? & 0o7777,
            header.uid()?,
            header.gid()?,
            String::from_utf8_lossy(&content)
        );
        found.insert(path, text);
    }
    Ok(found)
}
