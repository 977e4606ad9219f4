//! Decoding of file ops.

use cairn_proto::pb;

use super::super::graph::VertexDigest;
use super::super::op::{ActionInput, Chown, CopyAction, FileAction, FileActionKind, FileOp, UserSpec};
use super::DecodeError;
use super::ops::{dense, index, invalid};

/// Largest number of actions of one op.
const MAX_ACTIONS: usize = 10_000;

/// Decodes a file op of a vertex with that many inputs.
pub(super) fn decode(vertex: VertexDigest, inputs: usize, wire: &pb::FileOp) -> Result<FileOp, DecodeError> {
    let fail = |message: String| invalid("file", vertex, message);
    if wire.actions.is_empty() {
        return Err(DecodeError::Lacks {
            kind: "file",
            part: "actions",
            vertex,
        });
    }
    if wire.actions.len() > MAX_ACTIONS {
        return Err(fail(format!(
            "{} actions: at most {MAX_ACTIONS} are accepted",
            wire.actions.len()
        )));
    }
    let mut actions = Vec::with_capacity(wire.actions.len());
    for (position, action) in wire.actions.iter().enumerate() {
        let scope = Scope { inputs, position };
        actions.push(
            scope
                .action(action)
                .map_err(|message| fail(format!("action {position}: {message}")))?,
        );
    }
    dense(actions.iter().map(|action: &FileAction| action.output)).map_err(fail)?;
    Ok(FileOp { actions })
}

/// What indexes in one action may refer to.
#[derive(Clone, Copy)]
struct Scope {
    inputs: usize,
    /// Number of the action; only earlier ones can be referred to, so there are no loops.
    position: usize,
}

impl Scope {
    fn action(self, wire: &pb::FileAction) -> Result<FileAction, String> {
        use pb::file_action::Action;
        let kind = match wire.action.as_ref().ok_or("nothing to do")? {
            Action::Copy(copy) => FileActionKind::Copy(self.copy(copy)?),
            Action::Mkfile(file) => FileActionKind::Mkfile {
                path: path(&file.path)?,
                mode: permissions(file.mode)?,
                data: file.data.clone(),
                owner: self.chown(file.owner.as_ref())?,
                timestamp: timestamp(file.timestamp),
            },
            Action::Mkdir(dir) => FileActionKind::Mkdir {
                path: path(&dir.path)?,
                mode: permissions(dir.mode)?,
                make_parents: dir.make_parents,
                owner: self.chown(dir.owner.as_ref())?,
                timestamp: timestamp(dir.timestamp),
            },
            Action::Rm(rm) => FileActionKind::Rm {
                path: path(&rm.path)?,
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            },
            Action::Symlink(link) => FileActionKind::Symlink {
                old_path: path(&link.oldpath)?,
                new_path: path(&link.newpath)?,
                owner: self.chown(link.owner.as_ref())?,
                timestamp: timestamp(link.timestamp),
            },
        };
        let is_copy = matches!(kind, FileActionKind::Copy(_));
        Ok(FileAction {
            input: self.input(wire.input)?,
            secondary: if is_copy {
                self.input(wire.secondary_input)?
            } else {
                None
            },
            output: index(wire.output, usize::MAX).map_err(|index| format!("output {index}"))?,
            kind,
        })
    }

    fn copy(self, wire: &pb::FileActionCopy) -> Result<CopyAction, String> {
        Ok(CopyAction {
            src: path(&wire.src)?,
            dest: path(&wire.dest)?,
            owner: self.chown(wire.owner.as_ref())?,
            mode: if wire.mode == -1 {
                None
            } else {
                Some(permissions(wire.mode)?)
            },
            mode_str: wire.mode_str.clone(),
            follow_symlink: wire.follow_symlink,
            dir_copy_contents: wire.dir_copy_contents,
            attempt_unpack: wire.attempt_unpack_docker_compatibility,
            create_dest_path: wire.create_dest_path,
            allow_wildcard: wire.allow_wildcard,
            allow_empty_wildcard: wire.allow_empty_wildcard,
            timestamp: timestamp(wire.timestamp),
            include: wire.include_patterns.clone(),
            exclude: wire.exclude_patterns.clone(),
            always_replace: wire.always_replace_existing_dest_paths,
            required_paths: wire.required_paths.clone(),
        })
    }

    fn input(self, wire: i64) -> Result<Option<ActionInput>, String> {
        if wire == -1 {
            return Ok(None);
        }
        let number = usize::try_from(wire).map_err(|_| format!("input {wire}"))?;
        if number < self.inputs {
            return Ok(Some(ActionInput::Vertex(number)));
        }
        let action = number - self.inputs;
        match action.cmp(&self.position) {
            std::cmp::Ordering::Less => Ok(Some(ActionInput::Action(action))),
            std::cmp::Ordering::Equal => Err(format!("loop from index {number}")),
            std::cmp::Ordering::Greater => Err(format!("missing input {number}, or one that comes later")),
        }
    }

    fn chown(self, wire: Option<&pb::ChownOpt>) -> Result<Option<Chown>, String> {
        wire.map(|wire| {
            Ok(Chown {
                user: self.user(wire.user.as_ref())?,
                group: self.user(wire.group.as_ref())?,
            })
        })
        .transpose()
    }

    fn user(self, wire: Option<&pb::UserOpt>) -> Result<Option<UserSpec>, String> {
        match wire.and_then(|wire| wire.user.as_ref()) {
            None => Ok(None),
            Some(pb::user_opt::User::ById(id)) => Ok(Some(UserSpec::Id(*id))),
            Some(pb::user_opt::User::ByName(named)) => Ok(Some(UserSpec::Name {
                name: named.name.clone(),
                input: Some(self.input(named.input)?.ok_or("invalid missing user mount")?),
            })),
        }
    }
}

fn path(path: &str) -> Result<String, String> {
    if path.contains('\0') {
        return Err(format!("a NUL byte in path {path:?}"));
    }
    Ok(path.to_owned())
}

fn permissions(mode: i32) -> Result<u32, String> {
    u32::try_from(mode).map_err(|_| format!("mode {mode}"))
}

fn timestamp(wire: i64) -> Option<i64> {
    (wire != -1).then_some(wire)
}
