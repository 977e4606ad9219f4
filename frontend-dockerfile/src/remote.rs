//! Telling paths from remote sources.

/// What a source word of `COPY` or `ADD` refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// A path in the context.
    Path,
    /// A git repository.
    Git,
    /// A file behind a URL.
    Http,
}

/// Tells what `word` refers to.
pub(crate) fn source_kind(word: &str) -> SourceKind {
    if is_git(word) {
        SourceKind::Git
    } else if word.starts_with("http://") || word.starts_with("https://") {
        SourceKind::Http
    } else {
        SourceKind::Path
    }
}

fn is_git(word: &str) -> bool {
    if word.starts_with("./") || word.starts_with("../") {
        return false;
    }
    if word.starts_with("git://") || word.starts_with("ssh://") {
        return true;
    }
    let until = |text: &str| text.split(['?', '#']).next().unwrap_or_default().to_owned();
    if let Some(rest) = word.strip_prefix("http://").or_else(|| word.strip_prefix("https://")) {
        return rest
            .split_once('/')
            .is_some_and(|(_, path)| until(path).ends_with(".git"));
    }
    is_scp(word)
}

/// `user@host:path`.
fn is_scp(word: &str) -> bool {
    let Some((user, rest)) = word.split_once('@') else {
        return false;
    };
    let Some((host, path)) = rest.split_once(':') else {
        return false;
    };
    let named = |text: &str, extra: &[char]| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(&c))
    };
    named(user, &['-', '_']) && named(host, &['-', '.']) && !path.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for (word, want) in [
            ("a", SourceKind::Path),
            ("./git@x:y", SourceKind::Path),
            ("HTTP://x/y", SourceKind::Path),
            ("http://x/y", SourceKind::Http),
            ("https://github.com/a/b", SourceKind::Http),
            ("http://h/a.git/", SourceKind::Http),
            ("https://h/a.git?ref=x#y", SourceKind::Git),
            ("git@github.com:a/b.git", SourceKind::Git),
            ("ssh://git@h/a", SourceKind::Git),
            ("github.com/a/b", SourceKind::Path),
            ("a@b", SourceKind::Path),
        ] {
            assert_eq!(source_kind(word), want, "{word}");
        }
    }
}
