//! The fields of ops that enter keys.

use super::Fields;
use super::dependencies::counts_by_content;
use crate::llb::{Chown, CopyAction, ExecOp, FileActionKind, FileGrant, FileOp, MountKind, Op, UserSpec, Vertex};
use crate::{Digest, Platform};

/// Bytes in which the fields of most ops have room.
const ROOM: usize = 512;

/// The kind of a vertex and its own fields.
pub(super) fn op_fields(vertex: &Vertex, platform: Option<&Platform>) -> (&'static str, Fields) {
    let mut fields = Fields::with_capacity(ROOM);
    let kind = match &vertex.op {
        Op::Source(_) => "source",
        Op::Exec(exec) => {
            platform_fields(platform, &mut fields);
            exec_fields(exec, &mut fields);
            "exec"
        }
        Op::File(file) => {
            platform_fields(platform, &mut fields);
            file_fields(file, &mut fields);
            "file"
        }
        Op::Merge { inputs } => {
            fields.show("order", format_args!("{inputs:?}"));
            "merge"
        }
        Op::Diff { lower, upper } => {
            fields.show("lower", format_args!("{lower:?}"));
            fields.show("upper", format_args!("{upper:?}"));
            "diff"
        }
        Op::Passthrough { id, outputs } => {
            fields.put("id", id);
            fields.show("outputs", format_args!("{outputs:?}"));
            "passthrough"
        }
        // Only what the definition asks for counts: it is its only part by identity.
        Op::Build(_) => "build",
    };
    (kind, fields)
}

fn platform_fields(platform: Option<&Platform>, fields: &mut Fields) {
    let Some(platform) = platform else { return };
    fields.show("platform", platform);
    fields.put_set("os version", &platform.os_version);
    fields.put_all("os feature", &platform.os_features);
}

fn exec_fields(exec: &ExecOp, fields: &mut Fields) {
    fields.put_all("arg", &exec.args);
    fields.put_all("env", &exec.env);
    fields.put("cwd", &exec.cwd);
    fields.put_set("user", &exec.user);
    fields.put_set("hostname", &exec.hostname);
    fields.show("network", format_args!("{:?}", exec.network));
    fields.show("security", format_args!("{:?}", exec.security));
    for host in &exec.extra_hosts {
        fields.put("extra host", &host.host);
    }
    for limit in &exec.ulimits {
        fields.show("ulimit", format_args!("{}={}:{}", limit.name, limit.soft, limit.hard));
    }
    for code in &exec.valid_exit_codes {
        fields.show("valid exit code", code);
    }
    for secret in &exec.secret_env {
        fields.show("secret env", format_args!("{}={}", secret.name, secret.id));
        fields.flag("secret env optional", secret.optional);
    }
    for device in &exec.devices {
        fields.put("device", &device.name);
        fields.flag("device optional", device.optional);
    }
    fields.flag("remove mount stubs", exec.remove_mount_stubs_recursive);
    for mount in &exec.mounts {
        fields.put("mount", &mount.dest);
        if let Some(input) = mount.input {
            fields.show("mount input", input);
        }
        // What is selected speaks for itself where content counts.
        if !counts_by_content(mount) {
            fields.put_set("mount selector", &mount.selector);
        }
        fields.flag("mount readonly", mount.readonly);
        if let Some(output) = mount.output {
            fields.show("mount output", output);
        }
        match &mount.kind {
            MountKind::Bind => {}
            MountKind::Cache { .. } => fields.flag("mount cache", true),
            MountKind::Tmpfs { size } => fields.show("mount tmpfs", size),
            MountKind::Secret(grant) => grant_fields("mount secret", grant, fields),
            MountKind::Ssh(grant) => grant_fields("mount ssh", grant, fields),
        }
    }
}

fn grant_fields(name: &str, grant: &FileGrant, fields: &mut Fields) {
    fields.put(name, &grant.id);
    fields.show("owner", format_args!("{}:{}", grant.uid, grant.gid));
    fields.show("mode", format_args!("{:o}", grant.mode));
    fields.flag("optional", grant.optional);
}

fn file_fields(file: &FileOp, fields: &mut Fields) {
    for action in &file.actions {
        fields.show(
            "action",
            format_args!("{:?} {:?} {:?}", action.input, action.secondary, action.output),
        );
        match &action.kind {
            FileActionKind::Copy(copy) => copy_fields(copy, fields),
            FileActionKind::Mkfile {
                path,
                mode,
                data,
                timestamp,
                ..
            } => {
                fields.put("mkfile", path);
                fields.show("mode", format_args!("{mode:o}"));
                fields.show("data", Digest::sha256(data));
                put_timestamp(fields, *timestamp);
            }
            FileActionKind::Mkdir {
                path,
                mode,
                make_parents,
                timestamp,
                ..
            } => {
                fields.put("mkdir", path);
                fields.show("mode", format_args!("{mode:o}"));
                fields.flag("make parents", *make_parents);
                put_timestamp(fields, *timestamp);
            }
            FileActionKind::Rm {
                path,
                allow_not_found,
                allow_wildcard,
            } => {
                fields.put("rm", path);
                fields.flag("allow not found", *allow_not_found);
                fields.flag("allow wildcard", *allow_wildcard);
            }
            FileActionKind::Symlink {
                old_path,
                new_path,
                timestamp,
                ..
            } => {
                fields.put("symlink", new_path);
                fields.put("target", old_path);
                put_timestamp(fields, *timestamp);
            }
        }
        if let Some(owner) = owner_of(&action.kind) {
            put_owner(fields, "user", owner.user.as_ref());
            put_owner(fields, "group", owner.group.as_ref());
        }
    }
}

fn copy_fields(copy: &CopyAction, fields: &mut Fields) {
    fields.put("copy", &copy.src);
    fields.put("dest", &copy.dest);
    if let Some(mode) = copy.mode {
        fields.show("mode", format_args!("{mode:o}"));
    }
    fields.put_set("mode string", &copy.mode_str);
    fields.flag("follow symlink", copy.follow_symlink);
    fields.flag("contents", copy.dir_copy_contents);
    fields.flag("unpack", copy.attempt_unpack);
    fields.flag("create dest path", copy.create_dest_path);
    fields.flag("wildcard", copy.allow_wildcard);
    fields.flag("allow empty wildcard", copy.allow_empty_wildcard);
    fields.flag("always replace", copy.always_replace);
    put_timestamp(fields, copy.timestamp);
    fields.put_all("include", &copy.include);
    fields.put_all("exclude", &copy.exclude);
    fields.put_all("required path", &copy.required_paths);
}

fn put_timestamp(fields: &mut Fields, timestamp: Option<i64>) {
    if let Some(timestamp) = timestamp {
        fields.show("timestamp", timestamp);
    }
}

fn put_owner(fields: &mut Fields, name: &str, spec: Option<&UserSpec>) {
    match spec {
        None => {}
        Some(UserSpec::Id(id)) => fields.show(name, id),
        Some(UserSpec::Name { name: user, input }) => fields.put(name, format!("{user:?} in {input:?}")),
    }
}

pub(super) fn owner_of(kind: &FileActionKind) -> Option<&Chown> {
    match kind {
        FileActionKind::Copy(CopyAction { owner, .. })
        | FileActionKind::Mkfile { owner, .. }
        | FileActionKind::Mkdir { owner, .. }
        | FileActionKind::Symlink { owner, .. } => owner.as_ref(),
        FileActionKind::Rm { .. } => None,
    }
}
