//! Plugins that are shell scripts.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A directory of scripts.
pub(super) struct Scripts(tempfile::TempDir);

impl Scripts {
    pub(super) fn new(scripts: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, script) in scripts {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(dir)
    }

    /// Plugins that note each of their calls: what for, for which one, in which state the namespace is, and what they
    /// are told of those before.
    pub(super) fn noting(names: &[&str]) -> Self {
        let note = r#"config=$(cat)
printf '%s %s %s %s\n' "$CNI_COMMAND" "${0##*/}" "$CNI_IFNAME" \
    "$(echo "$config" | grep -o '"prevResult":{[^}]*}')" >>"${0%/*}/calls"
test "$CNI_COMMAND" = DEL || printf '{"by": "%s"}' "${0##*/}""#;
        let scripts: Vec<(&str, &str)> = names.iter().map(|&name| (name, note)).collect();
        Self::new(&scripts)
    }

    pub(super) fn dir(&self) -> &Path {
        self.0.path()
    }

    /// What was noted.
    pub(super) fn calls(&self) -> String {
        std::fs::read_to_string(self.dir().join("calls")).unwrap_or_default()
    }
}
