//! Lexical path cleaning.

/// Returns the shortest slash path that names the same place as `path`, looking only at the text.
///
/// Repeated slashes, `.` elements and `name/..` pairs vanish, a trailing slash too; `..` at the
/// start of a rooted path vanishes; an empty result is `.`. Follows Go's `path.Clean`.
#[must_use]
pub fn clean(path: &str) -> String {
    let root = usize::from(path.starts_with('/'));
    let mut cleaned = String::with_capacity(path.len().max(1));
    cleaned.push_str(&path[..root]);
    // What is before this stays, whatever `..` follows.
    let mut fixed = root;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if cleaned.len() > fixed => {
                let end = cleaned[fixed..].rfind('/').map_or(fixed, |slash| fixed + slash);
                cleaned.truncate(end);
            }
            ".." if root > 0 => {}
            _ => {
                if cleaned.len() > root {
                    cleaned.push('/');
                }
                cleaned.push_str(part);
                if part == ".." {
                    fixed = cleaned.len();
                }
            }
        }
    }
    if cleaned.is_empty() {
        cleaned.push('.');
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
