//! Which runtime program there is, and whether it may be used.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::CALL_LIMIT;
use crate::executor::process::ExecutorError;

/// A runtime program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeKind {
    /// The reference implementation.
    Runc,
    /// The one in C.
    Crun,
}

type Version = (u32, u32, u32);

impl RuntimeKind {
    /// Name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    /// Older ones lack what is relied on: keeping a container that ended (`--keep`), control groups of both versions.
    fn oldest_usable(self) -> Version {
        match self {
            Self::Runc => (1, 1, 0),
            Self::Crun => (1, 7, 0),
        }
    }

    /// Whether a version is without the breakouts known in it (distributions may have fixed older ones).
    fn is_known_good(self, version: Version) -> bool {
        match self {
            // CVE-2025-31133, CVE-2025-52565, CVE-2025-52881.
            Self::Runc => version >= (1, 3, 3) || ((1, 2, 8)..(1, 3, 0)).contains(&version),
            Self::Crun => version >= (1, 14, 3),
        }
    }
}

/// Finds the program and checks that it runs.
pub(super) async fn find(wanted: Option<&Path>) -> Result<(PathBuf, RuntimeKind), ExecutorError> {
    let program = match wanted {
        Some(path) => path.to_owned(),
        None => in_path(&["runc", "crun"])
            .ok_or_else(|| ExecutorError::NoRuntime("neither runc nor crun is in PATH".to_owned()))?,
    };
    let unusable = |why: String| ExecutorError::NoRuntime(format!("{}: {why}", program.display()));
    let mut command = Command::new(&program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(CALL_LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(unusable(error.to_string())),
        Err(_) => return Err(unusable("does not answer".to_owned())),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let (kind, version) = parse(&text).ok_or_else(|| unusable("does not say that it is runc or crun".to_owned()))?;
    if version < kind.oldest_usable() {
        let (need, have) = (dotted(kind.oldest_usable()), dotted(version));
        return Err(unusable(format!(
            "{} {have} is too old, at least {need} is needed",
            kind.name()
        )));
    }
    if !kind.is_known_good(version) {
        tracing::warn!(
            program = %program.display(),
            version = dotted(version),
            "this version has known breakouts, unless the distribution fixed them: upgrade it"
        );
    }
    Ok((program, kind))
}

/// From the first line of `--version`: `runc version 1.1.5+ds1`, `crun version 1.8.1`.
fn parse(text: &str) -> Option<(RuntimeKind, Version)> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    let kind = match words.next()? {
        "runc" => RuntimeKind::Runc,
        "crun" => RuntimeKind::Crun,
        _ => return None,
    };
    let number = words.next_back()?;
    let mut parts = number
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().ok());
    let version = (parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0));
    Some((kind, version))
}

fn dotted((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

fn in_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let candidates = names
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            (
                "runc version 1.1.5+ds1\ncommit: x",
                Some((RuntimeKind::Runc, (1, 1, 5))),
            ),
            ("runc version 1.3.0-rc.1", Some((RuntimeKind::Runc, (1, 3, 0)))),
            ("crun version 1.8.1", Some((RuntimeKind::Crun, (1, 8, 1)))),
            ("crun version 1.20", Some((RuntimeKind::Crun, (1, 20, 0)))),
            ("youki version 0.5", None),
            ("", None),
            ("runc version", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn cve_2025_31133_versions_with_known_breakouts_are_told_apart() {
        for (version, good) in [
            ((1, 1, 15), false),
            ((1, 2, 7), false),
            ((1, 2, 8), true),
            ((1, 3, 2), false),
            ((1, 3, 3), true),
            ((1, 4, 0), true),
        ] {
            assert_eq!(RuntimeKind::Runc.is_known_good(version), good, "{version:?}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_no_runtime_is_refused() {
        for program in ["/bin/true", "/nonexistent/runc"] {
            let error = find(Some(Path::new(program))).await.unwrap_err();
            assert!(
                matches!(&error, ExecutorError::NoRuntime(why) if why.contains(program)),
                "{error}"
            );
        }
    }
}
