//! Lexical path cleaning.

/// Returns the shortest slash path that names the same place as `path`, looking only at the text.
///
/// Repeated slashes, `.` elements and `name/..` pairs vanish, a trailing slash too; `..` at the
/// start of a rooted path vanishes; an empty result is `.`. Follows Go's `path.Clean`.
#[must_use]
pub fn clean(path: &str) -> String {
    String::from_utf8(clean_bytes(path.as_bytes())).expect("parts of text are text")
}

/// [`clean`] for a path that need not be text.
#[must_use]
pub fn clean_bytes(path: &[u8]) -> Vec<u8> {
    let root = usize::from(path.starts_with(b"/"));
    let mut cleaned = Vec::with_capacity(path.len().max(1));
    cleaned.extend(&path[..root]);
    // What is before this stays, whatever `..` follows.
    let mut fixed = root;
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if cleaned.len() > fixed => {
                let slash = cleaned[fixed..].iter().rposition(|&byte| byte == b'/');
                cleaned.truncate(slash.map_or(fixed, |slash| fixed + slash));
            }
            b".." if root > 0 => {}
            _ => {
                if cleaned.len() > root {
                    cleaned.push(b'/');
                }
                cleaned.extend(part);
                if part == b".." {
                    fixed = cleaned.len();
                }
            }
        }
    }
    if cleaned.is_empty() {
        cleaned.push(b'.');
    }
    cleaned
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
            ("/a/b/../..", "/"),
            ("a/b/../../..", ".."),
            ("a/..", "."),
            ("../../a/b/../../..", "../../.."),
            ("//", "/"),
        ] {
            assert_eq!(clean(path), want, "{path:?}");
        }
    }
}
