//! Paths inside of images.

use cairn_patterns::clean;

/// `path` as an absolute, cleaned path; what is relative begins at `base`.
pub(super) fn absolute(base: &str, path: &str) -> String {
    if path.starts_with('/') {
        clean(path)
    } else {
        clean(&format!("/{base}/{path}"))
    }
}

/// A destination: as [`absolute`], but what says "into this directory" keeps saying so.
pub(super) fn destination(cwd: &str, path: &str) -> String {
    let is_directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    let path = absolute(cwd, path);
    if is_directory && path != "/" { path + "/" } else { path }
}

/// A source, relative to the root of what it is in.
pub(super) fn source(path: &str) -> String {
    absolute("/", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_what_makes_them_directories() {
        for (cwd, path, want) in [
            ("/w", "x", "/w/x"),
            ("/w", "x/", "/w/x/"),
            ("/w", "x/.", "/w/x/"),
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/", ".", "/"),
            ("/w", "../q", "/q"),
            ("/w", "/a//b/", "/a/b/"),
        ] {
            assert_eq!(destination(cwd, path), want, "{path}");
        }
        assert_eq!(
            (source("../../a").as_str(), source("").as_str(), source("d/").as_str()),
            ("/a", "/", "/d")
        );
    }
}
