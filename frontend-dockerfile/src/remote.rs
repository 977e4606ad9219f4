//! Telling paths from remote sources.

mod git;
mod http;

pub(crate) use git::GitRef;
pub(crate) use http::{checksum, filename, is_url};

/// What a source word of `COPY` or `ADD` refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// A path in the context.
    Path,
    /// A git repository, or what is wrong with the reference to it.
    Git(Result<Box<GitRef>, String>),
    /// A file behind a URL.
    Http,
}

/// Tells what `word` refers to.
pub(crate) fn source_kind(word: &str) -> SourceKind {
    match GitRef::parse(word) {
        Some(reference) => SourceKind::Git(reference.map(Box::new)),
        None if is_url(word) => SourceKind::Http,
        None => SourceKind::Path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for (word, want) in [
            ("a", "path"),
            ("./git@x:y", "path"),
            ("HTTP://x/y", "path"),
            ("ftp://x/y.git", "path"),
            ("http://x/y", "http"),
            ("https://github.com/a/b", "http"),
            ("http://h/a.git/", "http"),
            ("http://a.git", "http"),
            ("https://h/a.git?ref=x#y", "git"),
            ("HTTPS://h/a.git", "git"),
            ("git@github.com:a/b.git", "git"),
            ("ssh://git@h/a", "git"),
            ("git://h/a", "git"),
            ("github.com/a/b", "path"),
            ("a@b", "path"),
            ("a@b:", "path"),
        ] {
            let got = match source_kind(word) {
                SourceKind::Path => "path",
                SourceKind::Git(_) => "git",
                SourceKind::Http => "http",
            };
            assert_eq!(got, want, "{word}");
        }
    }
}
