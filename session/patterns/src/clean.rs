//! Lexical path cleaning.

/// Returns the shortest slash path that names the same place as `path`, looking only at the text.
///
/// Repeated slashes, `.` elements and `name/..` pairs vanish, a trailing slash too; `..` at the
/// start of a rooted path vanishes; an empty result is `.`. Follows Go's `path.Clean`.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn cleaned_paths() {
        for (path, want) in [
            ("", "."),
            (".", "."),
            ("./a", "a"),
            ("d/../a", "a"),
            ("a/", "a"),
            ("d//e", "d/e"),
            ("/", "/"),
            ("/../a", "/a"),
            ("../x", "../x"),
            ("../../x/..", "../.."),
            ("/a/./b/../c/", "/a/c"),
        ] {
            assert_eq!(clean(path), want, "{path:?}");
        }
    }
}
