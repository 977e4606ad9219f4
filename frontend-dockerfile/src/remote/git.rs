//! References to git repositories.

use cairn_solver::llb::{GitMtime, GitSource};

use crate::gofmt;

/// A reference to a git repository: `https://host/repo.git?tag=v1#…`, `git@host:repo.git#main:dir`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GitRef {
    /// Where to fetch from: the reference without query and fragment.
    pub(crate) remote: String,
    /// `host/path`, the same for every protocol.
    repository: String,
    is_ssh: bool,
    /// Branch, tag, full name or commit; empty for the default branch.
    pub(crate) reference: String,
    /// Directory in the repository; empty for all of it.
    pub(crate) subdir: String,
    /// Beginning of the hash of the commit; empty for any.
    pub(crate) checksum: String,
    /// Whether `.git` is kept, if that was said.
    pub(crate) keep_git_dir: Option<bool>,
    submodules: Option<bool>,
    fetch_by_commit: bool,
    /// Modification times of the files, if they were asked for.
    pub(crate) mtime: Option<GitMtime>,
}

impl GitRef {
    /// Understands `text` if it is a reference to a repository: `None` if it is something else.
    ///
    /// # Errors
    /// What is wrong with a reference that is one.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, String>> {
        if text.starts_with("./") || text.starts_with("../") || text.contains(|c: char| c.is_ascii_control()) {
            return None;
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut reference = match address.split_once("://") {
            Some((scheme, rest)) => Self::url(&scheme.to_ascii_lowercase(), rest)?,
            None => Self::scp(address)?,
        };
        Some(reference.qualify(fragment, query).map(|()| reference))
    }

    /// As [`GitRef::parse`], for a build context: there `github.com/…` means a repository too.
    pub(crate) fn parse_context(text: &str) -> Option<Result<Self, String>> {
        if text.starts_with("github.com/") {
            let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
            let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
            let mut reference = Self::at("https", "", address)?;
            return Some(reference.qualify(fragment, query).map(|()| reference));
        }
        Self::parse(text)
    }

    fn url(scheme: &str, rest: &str) -> Option<Self> {
        // A web server has all kinds of files, so a repository is known by its name there.
        let is_repository = match scheme {
            "git" | "ssh" => true,
            "http" | "https" => rest.split_once('/').is_some_and(|(_, path)| path.ends_with(".git")),
            _ => false,
        };
        if !is_repository {
            return None;
        }
        let end = rest.find('/').unwrap_or(rest.len());
        let at = rest[..end].rfind('@').map_or(0, |at| at + 1);
        Self::at(scheme, &rest[..at], &rest[at..])
    }

    /// `rest` begins with the host; `user` ends with its `@`.
    fn at(scheme: &str, user: &str, rest: &str) -> Option<Self> {
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.is_empty() || host.contains(char::is_whitespace) || percent_decode(path, false).is_none() {
            return None;
        }
        Some(Self {
            remote: format!("{scheme}://{user}{rest}"),
            repository: format!("{host}{}", cairn_patterns::clean(&format!("/{path}"))),
            is_ssh: scheme == "ssh",
            ..Self::default()
        })
    }

    /// `user@host:path`.
    fn scp(address: &str) -> Option<Self> {
        let (user, rest) = address.split_once('@')?;
        let (host, path) = rest.split_once(':')?;
        let named = |text: &str, extra: &[char]| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(&c))
        };
        if !named(user, &['-', '_']) || !named(host, &['-', '.']) || path.is_empty() {
            return None;
        }
        Some(Self {
            remote: address.to_owned(),
            repository: format!("{host}{}", cairn_patterns::clean(&format!("/{path}"))),
            is_ssh: true,
            ..Self::default()
        })
    }

    /// Takes what fragment and query say, which must not contradict each other.
    fn qualify(&mut self, fragment: &str, query: &str) -> Result<(), String> {
        let fragment = percent_decode(fragment, false).unwrap_or_else(|| fragment.to_owned());
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        self.reference = reference.to_owned();
        self.subdir = subdir.to_owned();
        let pairs = query_pairs(query);
        let (mut tag, mut branch) = (None, None);
        for (index, (key, value)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(other, _)| other == key) {
                return Err(format!("query {} has multiple values", gofmt::quote(key)));
            }
            match key.as_str() {
                "ref" => agree("ref", &mut self.reference, given(key, value)?)?,
                "subdir" => agree("subdir", &mut self.subdir, given(key, value)?)?,
                "checksum" | "commit" => agree("checksum", &mut self.checksum, given(key, value)?)?,
                "tag" => tag = Some(full_name("refs/tags/", given(key, value)?)),
                "branch" => branch = Some(full_name("refs/heads/", given(key, value)?)),
                "keep-git-dir" => self.keep_git_dir = Some(switch(key, value)?),
                "submodules" => self.submodules = Some(switch(key, value)?),
                "fetch-by-commit" => self.fetch_by_commit = switch(key, value)?,
                "mtime" => {
                    self.mtime = Some(match value.as_str() {
                        "checkout" => GitMtime::Checkout,
                        "commit" => GitMtime::Commit,
                        other => {
                            let other = gofmt::quote(other);
                            return Err(format!(
                                "invalid mtime value: {other} (must be \"checkout\" or \"commit\")"
                            ));
                        }
                    });
                }
                _ => return Err(format!("unexpected query {}", gofmt::quote(key))),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        if let Some(name) = tag.or(branch) {
            agree("ref", &mut self.reference, &name)?;
        }
        // It would be taken for the directory further on, and no name in a repository has one.
        if self.reference.contains(':') {
            return Err(format!("invalid ref {}", gofmt::quote(&self.reference)));
        }
        Ok(())
    }

    /// The source of the repository's files. Of the files' times nothing is asked.
    pub(crate) fn source(&self) -> GitSource {
        GitSource {
            repository: self.repository.clone(),
            reference: self.reference.clone(),
            subdir: self.subdir.clone(),
            full_url: self.remote.clone(),
            keep_git_dir: self.keep_git_dir == Some(true),
            auth_token_secret: "GIT_AUTH_TOKEN".to_owned(),
            auth_header_secret: "GIT_AUTH_HEADER".to_owned(),
            ssh_socket: if self.is_ssh {
                "default".to_owned()
            } else {
                String::new()
            },
            checksum: self.checksum.clone(),
            skip_submodules: self.submodules == Some(false),
            fetch_by_commit: self.fetch_by_commit,
            ..GitSource::default()
        }
    }
}

/// Takes `said` over, unless something else was said before.
fn agree(what: &str, known: &mut String, said: &str) -> Result<(), String> {
    if known.is_empty() {
        known.push_str(said);
    }
    if known == said {
        return Ok(());
    }
    Err(format!(
        "{what} conflicts: {} vs {}",
        gofmt::quote(known),
        gofmt::quote(said)
    ))
}

fn given<'a>(key: &str, value: &'a str) -> Result<&'a str, String> {
    if value.is_empty() {
        return Err(format!("query {} has no value", gofmt::quote(key)));
    }
    Ok(value)
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    if value.is_empty() {
        return Ok(true);
    }
    gofmt::parse_bool(value).ok_or_else(|| format!("invalid {key} value: {}", gofmt::quote(value)))
}

fn full_name(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

/// The keys and values of a query. What is not well-formed is left out, as in Go's `net/url`.
fn query_pairs(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty() && !part.contains(';'));
    parts
        .filter_map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            Some((percent_decode(key, true)?, percent_decode(value, true)?))
        })
        .collect()
}

/// Decodes `%41`, and `+` if it means a blank; `None` if that cannot be done, or does not give text.
pub(super) fn percent_decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| {
        char::from(byte?)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            b'+' if plus_is_blank => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests;
