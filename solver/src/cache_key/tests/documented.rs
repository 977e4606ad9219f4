//! The page about keys, held against the code.

use super::fields::{action, copy, exec, vertex};
use super::*;
use crate::llb::{Chown, CopyAction, ExecOp, FileActionKind, Mount, MountKind, Op, SecretEnv, UserSpec};

/// Every part that an op of this kind can have, with every option set.
fn parts() -> BTreeSet<(String, String)> {
    let mut platform = Platform::new("linux", "amd64", "");
    platform.os_version = "1".to_owned();
    platform.os_features = vec!["f".to_owned()];
    let owner = Some(Chown {
        user: Some(UserSpec::Id(1)),
        group: Some(UserSpec::Id(1)),
    });
    let preimages = [
        everything_run(),
        action(FileActionKind::Copy(everything_copied(owner.clone()))),
        action(FileActionKind::Mkfile {
            path: "/f".to_owned(),
            mode: 0,
            data: bytes::Bytes::new(),
            owner: owner.clone(),
            timestamp: Some(0),
        }),
        action(FileActionKind::Mkdir {
            path: "/d".to_owned(),
            mode: 0,
            make_parents: true,
            owner: owner.clone(),
            timestamp: Some(0),
        }),
        action(FileActionKind::Rm {
            path: "/r".to_owned(),
            allow_not_found: true,
            allow_wildcard: true,
        }),
        action(FileActionKind::Symlink {
            old_path: "/a".to_owned(),
            new_path: "/b".to_owned(),
            owner,
            timestamp: Some(0),
        }),
        Op::Merge { inputs: vec![0] },
        Op::Diff {
            lower: Some(0),
            upper: Some(1),
        },
        Op::Passthrough {
            id: "p".to_owned(),
            outputs: vec![0],
        },
    ]
    .map(|op| op_preimage(&vertex(op, 2), Some(&platform), Vec::new()));
    let source = source_preimage(&ResolvedSource {
        pin: "p".to_owned(),
        parts: std::collections::BTreeMap::new(),
        result: None,
    });
    let named = |preimage: &Preimage| -> Vec<(String, String)> {
        let names = preimage.fields.iter().map(|(name, _)| name.to_owned());
        names.map(|name| (preimage.kind.to_string(), name)).collect()
    };
    preimages.iter().chain([&source]).flat_map(named).collect()
}

fn everything_run() -> Op {
    let mut exec = ExecOp {
        user: "u".to_owned(),
        hostname: "h".to_owned(),
        valid_exit_codes: vec![1],
        remove_mount_stubs_recursive: true,
        ..exec()
    };
    exec.secret_env.push(SecretEnv {
        optional: true,
        ..exec.secret_env[0].clone()
    });
    exec.devices[0].optional = true;
    for mount in &mut exec.mounts {
        *mount = Mount {
            selector: "s".to_owned(),
            readonly: true,
            ..mount.clone()
        };
        match &mut mount.kind {
            MountKind::Secret(grant) | MountKind::Ssh(grant) => grant.optional = true,
            MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
        }
    }
    Op::Exec(exec)
}

fn everything_copied(owner: Option<Chown>) -> CopyAction {
    let text = || vec!["x".to_owned()];
    CopyAction {
        owner,
        mode: Some(0),
        mode_str: "0".to_owned(),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        always_replace: true,
        timestamp: Some(0),
        include: text(),
        exclude: text(),
        required_paths: text(),
        ..copy()
    }
}

#[test]
fn the_page_about_keys_lists_what_is_hashed_and_nothing_else() {
    let page = include_str!("../../../../docs/cache-keys.md");
    let listed: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let kind = cells.next()?.strip_suffix('`')?;
            let part = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((kind.to_owned(), part.to_owned()))
        })
        .collect();
    let hashed = parts();
    let missing: Vec<_> = hashed.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&hashed).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    assert!(stale.is_empty(), "only on the page: {stale:?}");
    assert!(page.contains(preimage::KEY_VERSION));
}
