//! `WORKDIR`.

use cairn_solver::llb::{ActionInput, FileAction, FileActionKind, FileOp, Op};

use crate::checks::WORKDIR_RELATIVE_PATH;
use crate::error::DockerfileError;
use crate::expand::Expander;
use crate::gofmt;
use crate::plan::Step;

use super::state::StageState;
use super::{Lowering, chown, path};

impl Lowering<'_> {
    pub(super) fn workdir(
        &mut self,
        state: &mut StageState,
        step: &Step,
        written: &str,
    ) -> Result<(), DockerfileError> {
        let lines = step.instruction.lines;
        let expander = Expander::new(self.around.escape);
        let text = self.display(step, "", expander, &state.env)?;
        let mut expanded = self.expand(state, written, lines)?;
        let is_windows = state.image.os() == "windows";
        if !state.has_workdir && !is_absolute(&expanded, is_windows) {
            let message = format!(
                "Relative workdir {} can have unexpected results if the base image changes",
                gofmt::quote(&expanded)
            );
            self.find(&WORKDIR_RELATIVE_PATH, lines, message);
        }
        if is_windows {
            expanded = path::without_drive(&expanded).map_err(|message| DockerfileError::at(lines, message))?;
        }
        state.has_workdir = true;
        if expanded.starts_with('/') && !is_windows {
            // An absolute path stays as it is written, also in the image.
            state.cwd.clone_from(&expanded);
        } else if !expanded.is_empty() {
            state.cwd = path::absolute(&state.cwd, &expanded);
        }
        let shown = match is_windows {
            true => state.cwd.replace('/', "\\"),
            false => state.cwd.clone(),
        };
        state.image.set_workdir(&shown);
        let directory = path::absolute("/", &state.cwd);
        let is_root = directory == "/";
        if !is_root {
            let name = state.names.next(&state.env, &text);
            let lookup = state.root.map(|_| ActionInput::Vertex(0));
            let owner = match state.image.user().as_str() {
                "" => None,
                user => Some(chown::parse(user, lookup).map_err(|message| DockerfileError::at(lines, message))?),
            };
            let action = FileAction {
                input: lookup,
                secondary: None,
                output: Some(0),
                kind: FileActionKind::Mkdir {
                    path: directory,
                    mode: 0o755,
                    make_parents: true,
                    owner,
                    timestamp: self.around.epoch.and_then(|epoch| epoch.checked_mul(1_000_000_000)),
                },
            };
            let op = Op::File(FileOp { actions: vec![action] });
            let metadata = cairn_solver::llb::OpMetadata::named(name);
            state.root = Some(
                self.arena
                    .add(op, state.root.into_iter().collect(), None, metadata, Some(lines)),
            );
        }
        let created_by = format!("WORKDIR {}", state.cwd);
        self.history(state, created_by, is_root, lines)
    }
}

/// Whether a directory is named from the root. On Windows, a drive without a slash is none of its roots.
fn is_absolute(path: &str, is_windows: bool) -> bool {
    let is_slash = |c: Option<&u8>| c.is_some_and(|c| *c == b'/' || is_windows && *c == b'\\');
    let bytes = path.as_bytes();
    is_slash(bytes.first()) || is_windows && bytes.get(1) == Some(&b':') && is_slash(bytes.get(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_from_a_root_or_not() {
        for (path, unix, windows) in [
            ("/x", true, true),
            ("x", false, false),
            ("", false, false),
            ("\\x", false, true),
            ("c:\\x", false, true),
            ("C:/x", false, true),
            ("c:x", false, false),
        ] {
            assert_eq!(
                (is_absolute(path, false), is_absolute(path, true)),
                (unix, windows),
                "{path}"
            );
        }
    }
}
