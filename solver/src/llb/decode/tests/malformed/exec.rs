//! Processes and mounts that make no sense.

use super::*;

#[test]
fn execs() {
    refused(&exec(|exec| exec.meta = None), "invalid exec op with no meta (%)");
    let meta = |change: fn(&mut pb::Meta)| exec(|exec| change(exec.meta.as_mut().unwrap()));
    refused(&meta(|meta| meta.args.clear()), "invalid exec op with no args (%)");
    refused(
        &meta(|meta| meta.args[0] = "a\0".to_owned()),
        "invalid exec op %: a NUL byte in \"a\\0\"",
    );
    refused(
        &meta(|meta| meta.env.push("\0".to_owned())),
        "invalid exec op %: a NUL byte in \"\\0\"",
    );
    refused(
        &meta(|meta| meta.user = "\0".to_owned()),
        "invalid exec op %: a NUL byte in \"\\0\"",
    );
    refused(
        &meta(|meta| meta.cwd = "/\0".to_owned()),
        "invalid exec op %: a NUL byte in \"/\\0\"",
    );
    refused(
        &meta(|meta| meta.cwd = "src".to_owned()),
        "invalid exec op %: working directory \"src\" is not absolute",
    );
    let host = |host: &str, ip: &str| {
        exec(|exec| {
            exec.meta.as_mut().unwrap().extra_hosts.push(pb::HostIp {
                host: host.to_owned(),
                ip: ip.to_owned(),
            });
        })
    };
    refused(&host("a", "1.2.3"), "invalid exec op %: \"1.2.3\" is no IP address");
    refused(
        &host("a\n6.6.6.6 b", "::1"),
        "invalid exec op %: \"a\\n6.6.6.6 b\" is no host name",
    );
    let secret = |name: &str| {
        exec(|exec| {
            exec.secretenv.push(pb::SecretEnv {
                id: "s".to_owned(),
                name: name.to_owned(),
                optional: false,
            });
        })
    };
    refused(&secret(""), "invalid exec op %: \"\" is no variable name");
    refused(&secret("A=B"), "invalid exec op %: \"A=B\" is no variable name");
}

#[test]
fn mounts() {
    refused(&exec(|exec| exec.mounts.clear()), "invalid exec op with no mounts (%)");
    refused(
        &exec(|exec| exec.mounts[0].dest = "/x".to_owned()),
        "invalid exec op with no rootfs (%)",
    );
    for root in ["/", "//", "/./"] {
        refused(
            &exec(|exec| exec.mounts[1].dest = root.to_owned()),
            "invalid exec op %: more than one mount at /",
        );
    }
    refused(
        &exec(|exec| {
            exec.mounts[0].set_mount_type(pb::MountType::Tmpfs);
            exec.mounts[0].output = -1;
        }),
        "invalid exec op %: invalid mount type TMPFS for /",
    );
    refused(
        &exec(|exec| exec.mounts = vec![exec.mounts[0].clone(); MAX_MOUNTS_PLUS_ONE]),
        "invalid exec op %: 1025 mounts: at most 1024 are accepted",
    );
    refused(
        &exec(|exec| exec.mounts[1].output = 0),
        "invalid exec op %: duplicate output 0",
    );
    refused(
        &exec(|exec| exec.mounts[1].output = 2),
        "invalid exec op %: missing output index 1",
    );
    refused(
        &exec(|exec| exec.mounts.iter_mut().for_each(|mount| mount.output = -1)),
        "invalid exec op %: no outputs specified",
    );
    refused(
        &exec(|exec| exec.mounts[1].output = -2),
        "invalid exec op %: mount \"/mnt\": output -2",
    );
    refused(
        &mount(|mount| mount.dest.clear()),
        "invalid exec op %: mount \"\": no destination",
    );
    refused(
        &mount(|mount| mount.dest = "/\0".to_owned()),
        "invalid exec op %: mount \"/\\0\": a NUL byte in a path",
    );
    refused(
        &mount(|mount| mount.selector = "\0".to_owned()),
        "invalid exec op %: mount \"/m\": a NUL byte in a path",
    );
    refused(
        &mount(|mount| mount.result_id = "r".to_owned()),
        "invalid exec op %: mount \"/m\": a result id is only for containers of the gateway",
    );
    refused(
        &mount(|mount| mount.set_mount_type(pb::MountType::Cache)),
        "invalid exec op %: mount \"/m\": missing cache mount options",
    );
    refused(
        &mount(|mount| mount.set_mount_type(pb::MountType::Secret)),
        "invalid exec op %: mount \"/m\": invalid secret mount options",
    );
    refused(
        &mount(|mount| {
            mount.set_mount_type(pb::MountType::Tmpfs);
            mount.tmpfs_opt = Some(pb::TmpfsOpt { size: -5 });
        }),
        "invalid exec op %: mount \"/m\": size -5",
    );
}

/// One more than the decoder takes.
const MAX_MOUNTS_PLUS_ONE: usize = 1025;
