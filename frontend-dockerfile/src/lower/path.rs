//! Paths inside of images.

use std::borrow::Cow;

use cairn_patterns::clean;

use crate::gofmt::quote;

/// `path` as an absolute, cleaned path; what is relative begins at `base`.
pub(super) fn absolute(base: &str, path: &str) -> String {
    if path.starts_with('/') {
        clean(path)
    } else {
        clean(&["/", base, "/", path].concat())
    }
}

/// A path of a Windows target, with slashes and without its drive, which must be the one of the system.
pub(super) fn without_drive(path: &str) -> Result<String, String> {
    let slashed = path.replace('\\', "/");
    if slashed.starts_with("//") {
        return Err("UNC paths are not supported".to_owned());
    }
    match slashed.split_once(':') {
        None => Ok(slashed),
        Some((drive, _)) if !drive.eq_ignore_ascii_case("c") => {
            Err("The specified path is not on the system drive (C:)".to_owned())
        }
        Some((_, "")) => Err(format!("no relative path specified in {}", quote(path))),
        // There is one working directory, not one per drive: what is relative on it is relative to that.
        Some((_, rest)) => Ok(rest.to_owned()),
    }
}

/// A path that `COPY` or `ADD` names, with slashes, whatever the target calls its files.
pub(super) fn slashed(path: &str, is_windows: bool) -> Result<Cow<'_, str>, String> {
    if !is_windows {
        return Ok(Cow::Borrowed(path));
    }
    match without_drive(path) {
        Ok(path) => Ok(Cow::Owned(path)),
        Err(cause) => Err(format!("removing drive letter: {cause}")),
    }
}

/// A destination: as [`absolute`], but what says "into this directory" keeps saying so.
pub(super) fn destination(cwd: &str, path: &str) -> String {
    let is_directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    let mut absolute = absolute(cwd, path);
    if is_directory && absolute != "/" {
        absolute.push('/');
    }
    if path.ends_with("/.") {
        absolute.push('.');
    }
    absolute
}

/// A source, relative to the root of what it is in.
pub(super) fn source(path: &str) -> String {
    absolute("/", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_has_one_drive() {
        for (path, want) in [
            ("c:\\a\\b", Ok("/a/b")),
            ("C:a", Ok("a")),
            ("a\\b", Ok("a/b")),
            ("\\a", Ok("/a")),
            ("", Ok("")),
            ("d:\\a", Err("The specified path is not on the system drive (C:)")),
            ("C:", Err("no relative path specified in \"C:\"")),
            ("\\\\host\\a", Err("UNC paths are not supported")),
        ] {
            let found = without_drive(path);
            assert_eq!(found.as_deref().map_err(String::as_str), want, "{path}");
        }
    }

    #[test]
    fn backslashes_are_for_windows_alone() {
        assert_eq!(slashed("a\\b:", false).as_deref(), Ok("a\\b:"));
        assert_eq!(slashed("C:\\a\\b\\", true).as_deref(), Ok("/a/b/"));
        let refused = "removing drive letter: The specified path is not on the system drive (C:)";
        assert_eq!(slashed("d:\\a", true), Err(refused.to_owned()));
    }

    #[test]
    fn destinations_keep_what_makes_them_directories() {
        for (cwd, path, want) in [
            ("/w", "x", "/w/x"),
            ("/w", "x/", "/w/x/"),
            ("/w", "x/.", "/w/x/."),
            ("/w", "/.", "/."),
            ("/w", "./.", "/w/."),
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
