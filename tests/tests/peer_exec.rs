//! Processes, and what is in the way of file operations, are the same here as with Docker Engine's BuildKit.
//!
//! Each row is a definition. What both make of it is compared: all files, or the words of the error. Processes have no
//! network, because the engine of the tests has none.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use cairn_client::{SecretSource, SolveOptions};
use cairn_proto::pb;
use cairn_tests::llb::{self, Graph, change_files, image, input, making_file};
use cairn_tests::{Daemon, Engine, Lab, Made, Need, files_of};
use pb::file_action::Action;

const BASE: &str = "docker.io/library/alpine:latest";
/// 2001-09-09, so that whatever is younger was not asked for.
const TIME: i64 = 1_000_000_000_000_000_000;

/// A row about a process: what it runs, what of its result counts, what is changed about it.
type Run = (&'static str, &'static str, fn(&mut pb::ExecOp));

/// Only what a process says in `/out` counts.
const SAID: [Run; 40] = [
    ("variables twice", "env | sort", |exec| env(exec, &["A=1", "A=2", "C="])),
    ("variables without a value", "env | sort", |exec| {
        env(exec, &["A=1", "B", "PATH"])
    }),
    ("a variable without a name", "env", |exec| env(exec, &["=x"])),
    ("own home", "env | sort", |exec| env(exec, &["HOME=/h"])),
    ("proxies", "env | sort", |exec| {
        meta(exec).proxy_env = Some(pb::ProxyEnv {
            http_proxy: "h".to_owned(),
            no_proxy: "n".to_owned(),
            ..pb::ProxyEnv::default()
        });
    }),
    ("user", "id; echo $HOME", |exec| meta(exec).user = "daemon".to_owned()),
    ("user and group", "id", |exec| meta(exec).user = "1234:77".to_owned()),
    ("known number", "id; echo $HOME", |exec| {
        meta(exec).user = "2".to_owned()
    }),
    ("group alone", "id", |exec| meta(exec).user = ":1".to_owned()),
    ("unknown user", "id", |exec| meta(exec).user = "nobodyhere".to_owned()),
    ("unknown group", "id", |exec| {
        meta(exec).user = "daemon:nogroup".to_owned()
    }),
    ("number out of range", "id", |exec| {
        meta(exec).user = "4294967296".to_owned()
    }),
    ("missing directory", "pwd; stat -c '%a %u:%g' /x /x/y", |exec| {
        let meta = meta(exec);
        (meta.cwd, meta.user) = ("/x/y".to_owned(), "2:3".to_owned());
    }),
    ("links on the way", "pwd", |exec| {
        meta(exec).cwd = "/var/run/../x".to_owned()
    }),
    ("hosts", "hostname; cat /etc/hosts", |exec| {
        let meta = meta(exec);
        meta.hostname = "h.x".to_owned();
        meta.extra_hosts = [("a", "1.2.3.4"), ("b", "::5"), ("a", "9.9.9.9")]
            .map(|(host, ip)| pb::HostIp {
                host: host.to_owned(),
                ip: ip.to_owned(),
            })
            .to_vec();
    }),
    ("limits", "ulimit -Sn; ulimit -Hn; ulimit -Sc", |exec| {
        let limit = |name: &str, soft, hard| pb::Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        };
        meta(exec).ulimit = vec![limit("NOFILE", 100, 200), limit("core", -1, -1)];
    }),
    (
        "what is confined",
        "grep -E 'Cap|Groups|NoNew|Seccomp|Umask' /proc/self/status; cat /proc/self/uid_map",
        |_| {},
    ),
    (
        "what is masked",
        "stat -c '%n %F %a' /dev/* /proc/keys /proc/acpi /sys/firmware; touch /sys/x 2>&1; wc -c < /proc/keys",
        |_| {},
    ),
    ("interfaces", "ls /sys/class/net", |_| {}),
    ("standard input", "cat; test -t 1 || echo none", |_| {}),
    ("a code that counts as success", "exit 3", |exec| {
        meta(exec).valid_exit_codes = vec![3]
    }),
    ("none that counts", "exit 0", |exec| {
        meta(exec).valid_exit_codes = vec![3]
    }),
    ("a code", "exit 7", |_| {}),
    ("a signal", "kill -KILL $$", |_| {}),
    ("no such program", "", |exec| {
        meta(exec).args = vec!["nosuch".to_owned(), "a b".to_owned()]
    }),
    ("no program", "", |exec| {
        meta(exec).args = vec!["/etc/passwd".to_owned()]
    }),
    (
        "nothing, read-only",
        "stat -c '%a %u:%g' /m; touch /m/x 2>&1; true",
        |exec| {
            mount(exec, -1, "/m", |mount| mount.readonly = true);
        },
    ),
    ("a part of an input", "cat /m/f; echo x > /m/new; ls /m", |exec| {
        mount(exec, 1, "/m", |mount| mount.selector = "dir".to_owned());
    }),
    ("a link in an input", "cat /m", |exec| {
        mount(exec, 1, "/m", |mount| mount.selector = "/link".to_owned())
    }),
    ("no such part", "true", |exec| {
        mount(exec, 1, "/m", |mount| mount.selector = "/nope".to_owned())
    }),
    ("no such part, read-only", "true", |exec| {
        mount(exec, 1, "/m", |mount| {
            (mount.selector, mount.readonly) = ("/nope".to_owned(), true)
        });
    }),
    ("one in the other", "find /m | sort", |exec| {
        mount(exec, 1, "/m/n/o", |_| {});
        mount(exec, 1, "/m", |_| {});
    }),
    ("over hosts and names", "ls -A /etc", |exec| {
        mount(exec, 1, "/etc", |mount| mount.readonly = true)
    }),
    ("over hosts and names, writable", "ls -A /etc; touch /etc/x", |exec| {
        mount(exec, 1, "/etc", |_| {})
    }),
    (
        "memory",
        "df -k /m | tail -1 | awk '{print $2}'; stat -c %a /m",
        |exec| {
            mount(exec, -1, "/m", |mount| {
                mount.set_mount_type(pb::MountType::Tmpfs);
                mount.tmpfs_opt = Some(pb::TmpfsOpt { size: 1 << 20 });
            });
        },
    ),
    ("a secret", "stat -c '%a %u:%g' /run/s; cat /run/s; echo $FOO", |exec| {
        secret(exec, "s", |secret| (secret.mode, secret.uid) = (0o440, 3));
        exec.secretenv = vec![pb::SecretEnv {
            id: "s".to_owned(),
            name: "FOO".to_owned(),
            optional: false,
        }];
    }),
    ("no secret", "true", |exec| secret(exec, "none", |_| {})),
    ("a secret without a name", "true", |exec| secret(exec, "", |_| {})),
    ("a variable without the name of its secret", "true", |exec| {
        exec.secretenv = vec![pb::SecretEnv {
            name: "FOO".to_owned(),
            optional: true,
            ..pb::SecretEnv::default()
        }];
    }),
    ("no secret, which is fine", "ls -A /run; echo \"<$FOO>\"", |exec| {
        secret(exec, "none", |secret| secret.optional = true);
        exec.secretenv = vec![pb::SecretEnv {
            id: "none".to_owned(),
            name: "FOO".to_owned(),
            optional: true,
        }];
    }),
];

/// The root file system counts that a process leaves.
const LEFT: [Run; 6] = [
    ("nothing of the daemon's", "true", |_| {}),
    (
        "devices, links and modes",
        "mkfifo /srv/p; mknod /srv/c c 1 3; touch -d @5 /srv/a; ln /srv/a /srv/b; chmod 4711 /srv/a; ln -s x /srv/l; touch -h -d @6 /srv/?",
        |_| {},
    ),
    ("places of mounts", "ls /a/b/c", |exec| mount(exec, 1, "/a/b/c", |_| {})),
    ("no places of mounts", "ls /a/b/c", |exec| {
        mount(exec, 1, "/a/b/c", |_| {});
        meta(exec).remove_mount_stubs_recursive = true;
    }),
    ("places that were used", "touch -d @5 /a/b/kept", |exec| {
        mount(exec, 1, "/a/b/c", |_| {});
        meta(exec).remove_mount_stubs_recursive = true;
    }),
    (
        "a root that cannot be written to",
        "touch /x 2>/dev/null; true",
        |exec| exec.mounts[0].readonly = true,
    ),
];

type Change = fn(&mut pb::ExecOp);

/// Two steps of which the second may be known by the first.
const AGAIN: [(&str, Change, Change); 15] = [
    ("the same", |_| {}, |_| {}),
    ("a variable", |_| {}, |exec| env(exec, &["A=1"])),
    (
        "their order",
        |exec| env(exec, &["A=1", "B=2"]),
        |exec| env(exec, &["B=2", "A=1"]),
    ),
    (
        "a host's address",
        |exec| host(exec, "1.2.3.4"),
        |exec| host(exec, "1.2.3.5"),
    ),
    (
        "a proxy",
        |_| {},
        |exec| {
            meta(exec).proxy_env = Some(pb::ProxyEnv {
                http_proxy: "h".to_owned(),
                ..pb::ProxyEnv::default()
            })
        },
    ),
    (
        "equal files",
        |exec| mount(exec, 1, "/m", |_| {}),
        |exec| mount(exec, 2, "/m", |_| {}),
    ),
    (
        "other files",
        |exec| mount(exec, 1, "/m", |_| {}),
        |exec| mount(exec, 3, "/m", |_| {}),
    ),
    (
        "equal files, by identity",
        |exec| identical(exec, 1),
        |exec| identical(exec, 2),
    ),
    (
        "files of which the same is selected",
        |exec| selected(exec, 1, "/file"),
        |exec| selected(exec, 3, "/file"),
    ),
    (
        "equal files of other names",
        |exec| selected(exec, 1, "/file"),
        |exec| selected(exec, 1, "/twin"),
    ),
    (
        "writing to them",
        |exec| mount(exec, 1, "/m", |_| {}),
        |exec| mount(exec, 1, "/m", |mount| mount.readonly = true),
    ),
    (
        "another cache",
        |exec| cache(exec, "a", pb::CacheSharingOpt::Shared),
        |exec| cache(exec, "b", pb::CacheSharingOpt::Shared),
    ),
    (
        "who shares a cache",
        |exec| cache(exec, "a", pb::CacheSharingOpt::Shared),
        |exec| cache(exec, "a", pb::CacheSharingOpt::Locked),
    ),
    (
        "the mode of a secret",
        |exec| secret(exec, "s", |_| {}),
        |exec| secret(exec, "s", |secret| secret.mode = 0o444),
    ),
    (
        "places of mounts",
        |_| {},
        |exec| meta(exec).remove_mount_stubs_recursive = true,
    ),
];

fn meta(exec: &mut pb::ExecOp) -> &mut pb::Meta {
    exec.meta.get_or_insert_default()
}

fn env(exec: &mut pb::ExecOp, variables: &[&str]) {
    meta(exec).env = variables.iter().map(|&variable| variable.to_owned()).collect();
}

fn host(exec: &mut pb::ExecOp, ip: &str) {
    let host = pb::HostIp {
        host: "h".to_owned(),
        ip: ip.to_owned(),
    };
    meta(exec).extra_hosts = vec![host];
}

fn mount(exec: &mut pb::ExecOp, input: i64, dest: &str, change: fn(&mut pb::Mount)) {
    let mut mount = pb::Mount {
        input,
        dest: dest.to_owned(),
        output: -1,
        ..pb::Mount::default()
    };
    change(&mut mount);
    exec.mounts.push(mount);
}

fn selected(exec: &mut pb::ExecOp, input: i64, selector: &str) {
    mount(exec, input, "/m", |_| {});
    selector.clone_into(&mut exec.mounts.last_mut().expect("just made").selector);
}

fn identical(exec: &mut pb::ExecOp, input: i64) {
    mount(exec, input, "/m", |mount| {
        mount.set_content_cache(pb::MountContentCache::Off)
    });
}

fn cache(exec: &mut pb::ExecOp, id: &str, sharing: pb::CacheSharingOpt) {
    mount(exec, -1, "/m", |mount| mount.set_mount_type(pb::MountType::Cache));
    let options = pb::CacheOpt {
        id: id.to_owned(),
        sharing: sharing.into(),
    };
    exec.mounts.last_mut().expect("just made").cache_opt = Some(options);
}

fn secret(exec: &mut pb::ExecOp, id: &str, change: fn(&mut pb::SecretOpt)) {
    let mut options = pb::SecretOpt {
        id: id.to_owned(),
        mode: 0o400,
        ..pb::SecretOpt::default()
    };
    change(&mut options);
    mount(exec, -1, "/run/s", |mount| {
        mount.set_mount_type(pb::MountType::Secret);
        // As BuildKit's client library writes it, beside the output 0 of the root.
        mount.output = 0;
    });
    exec.mounts.last_mut().expect("just made").secret_opt = Some(options);
}

/// A process on the base, with three inputs more: files, the same again, and with one other.
fn process(graph: &mut Graph, script: &str, change: fn(&mut pb::ExecOp)) -> pb::Op {
    let link = pb::FileActionSymlink {
        oldpath: "/file".to_owned(),
        newpath: "/link".to_owned(),
        timestamp: TIME,
        ..pb::FileActionSymlink::default()
    };
    let files = |other: &str, more: &[&str]| {
        let names = ["/file", "/twin"].iter().chain(more);
        let mut actions = vec![on(-1, make_dir("/dir", true))];
        actions.extend(names.map(|name| on(0, making(name, "same"))));
        actions.push(on(0, making("/dir/f", other)));
        actions.push(on(0, Action::Symlink(link.clone())));
        change_files(Vec::new(), chained(0, actions))
    };
    // Made another way, it is another vertex with the same files.
    let inputs = [image(BASE), files("f", &[]), files("f", &["/file"]), files("g", &[])];
    let mut op = llb::run(input("", 0), &["sh", "-c", script]);
    op.inputs = inputs.iter().map(|op| input(&graph.add(op), 0)).collect();
    if let Some(pb::op::Op::Exec(exec)) = &mut op.op {
        exec.network = pb::NetMode::None.into();
        change(exec);
    }
    op
}

/// The same with only `/out` as a result, where what it says goes.
fn saying(graph: &mut Graph, script: &str, change: fn(&mut pb::ExecOp)) -> pb::Definition {
    // A process that ends with a code leaves the same time as well.
    let script = format!("({script}) > /out/said; code=$?; touch -d @1 /out/said; exit $code");
    let mut op = process(graph, &script, change);
    if let Some(pb::op::Op::Exec(exec)) = &mut op.op {
        exec.mounts[0].output = -1;
        mount(exec, -1, "/out", |mount| mount.output = 0);
    }
    let digest = graph.add(&op);
    std::mem::take(graph).asking_for(&digest, 0)
}

fn on(input: i64, action: Action) -> pb::FileAction {
    pb::FileAction {
        input,
        secondary_input: -1,
        output: -1,
        action: Some(action),
    }
}

fn make_dir(path: &str, make_parents: bool) -> Action {
    Action::Mkdir(pb::FileActionMkDir {
        path: path.to_owned(),
        mode: 0o755,
        make_parents,
        timestamp: TIME,
        ..pb::FileActionMkDir::default()
    })
}

fn making(path: &str, text: &str) -> Action {
    match making_file(-1, path, text).action {
        Some(Action::Mkfile(file)) => Action::Mkfile(pb::FileActionMkFile {
            timestamp: TIME,
            ..file
        }),
        other => unreachable!("{other:?} makes no file"),
    }
}

fn owned_by(name: &str) -> Action {
    let by_name = pb::NamedUserOpt {
        name: name.to_owned(),
        input: 0,
    };
    let owner = pb::ChownOpt {
        user: Some(pb::UserOpt {
            user: Some(pb::user_opt::User::ByName(by_name)),
        }),
        group: None,
    };
    match making("/owned", "o") {
        Action::Mkfile(file) => Action::Mkfile(pb::FileActionMkFile {
            owner: Some(owner),
            ..file
        }),
        other => other,
    }
}

fn removing(path: &str, allow_wildcard: bool) -> Action {
    Action::Rm(pb::FileActionRm {
        path: path.to_owned(),
        allow_not_found: false,
        allow_wildcard,
    })
}

/// Actions on top of one another, from the first on, when there are so many inputs.
fn chained(inputs: i64, mut actions: Vec<pb::FileAction>) -> Vec<pb::FileAction> {
    for (before, action) in (inputs..).zip(actions.iter_mut().skip(1)) {
        action.input = before;
    }
    actions
}

/// Both daemons, and what they are asked.
struct Pair {
    lab: Lab,
    daemon: Daemon,
    engine: Engine,
}

impl Pair {
    fn start(lab: Lab) -> anyhow::Result<Self> {
        std::fs::write(lab.path("secret"), "a secret")?;
        let (daemon, engine) = (Daemon::start(&lab)?, Engine::start(&lab)?);
        Ok(Self { lab, daemon, engine })
    }

    async fn made(&self, definition: &pb::Definition) -> anyhow::Result<[Made; 2]> {
        let options = || SolveOptions {
            secrets: BTreeMap::from([("s".to_owned(), SecretSource::File(self.lab.path("secret")))]),
            ..SolveOptions::default()
        };
        // A build that fails may take its connection to the engine with it.
        let (ours, theirs) = tokio::try_join!(self.daemon.connect(), self.engine.connect())?;
        let (our_tar, their_tar) = (self.lab.path("ours.tar"), self.lab.path("theirs.tar"));
        let (ours, theirs) = tokio::try_join!(
            files_of(&ours, definition, options(), &our_tar),
            files_of(&theirs, definition, options(), &their_tar),
        )?;
        Ok([ours, theirs])
    }

    async fn compare(&self, name: &str, definition: &pb::Definition) -> anyhow::Result<()> {
        let [ours, theirs] = self.made(definition).await.with_context(|| name.to_owned())?;
        let are_alike = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            (Err(ours), Err(theirs)) => said(theirs).split(": ").all(|part| said(ours).contains(part)),
            _ => false,
        };
        ensure!(are_alike, "{name}: ours: {ours:?}\ntheirs: {theirs:?}");
        Ok(())
    }
}

/// An error without what names only this one result.
fn said(error: &str) -> String {
    let mut words: Vec<&str> = error.split(' ').collect();
    if let Some(place) = words.windows(2).position(|pair| pair == ["of", "ref"]) {
        words.remove(place + 2);
    }
    words.join(" ")
}

#[tokio::test]
async fn processes_see_and_leave_the_same() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let pair = Pair::start(lab)?;
    for (name, script, change) in SAID {
        pair.compare(name, &saying(&mut Graph::default(), script, change))
            .await?;
    }
    for (name, script, change) in LEFT {
        let mut graph = Graph::default();
        let op = process(&mut graph, script, change);
        let digest = graph.add(&op);
        pair.compare(name, &graph.asking_for(&digest, 0)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn file_operations_and_differences_end_the_same() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let pair = Pair::start(lab)?;
    let rows: [(&str, Vec<Action>); 10] = [
        (
            "a directory over a file",
            vec![making("/f", "f"), make_dir("/f", false)],
        ),
        (
            "a directory over a file, with those above",
            vec![making("/f", "f"), make_dir("/f", true)],
        ),
        ("a directory in none", vec![make_dir("/a/b", false)]),
        ("a name of digits", vec![owned_by("1234")]),
        ("a name", vec![owned_by("daemon")]),
        ("a name that is unknown", vec![owned_by("nobodyhere")]),
        ("removing everything", vec![removing("/", true)]),
        (
            "removing what matches",
            vec![making("/srv/a", "a"), removing("/srv/*", true)],
        ),
        ("removing what matches nothing", vec![removing("/nope*", true)]),
        ("a file in none", vec![making("/a/b", "f")]),
    ];
    for (name, actions) in rows {
        let mut graph = Graph::default();
        let base = graph.add(&image(BASE));
        let actions = actions.into_iter().map(|action| on(0, action)).collect();
        let made = graph.add(&change_files(vec![input(&base, 0)], chained(1, actions)));
        pair.compare(name, &graph.asking_for(&made, 0)).await?;
    }
    // What a step changed about its base, laid over something that the base has not.
    let steps = [
        (
            "a directory made again",
            "rm -r /srv/d && mkdir /srv/d && touch -d @5 /srv/d/new",
        ),
        (
            "a directory made again in one",
            "rm -r /srv && mkdir -p /srv/d && touch -d @5 /srv/d/new",
        ),
        ("a directory that is gone", "rm -r /srv/d"),
        ("a file in its place", "rm -r /srv/d && touch -d @5 /srv/d"),
        ("another name", "mv /srv/d /srv/e"),
    ];
    for (name, script) in steps {
        let mut graph = Graph::default();
        let base = graph.add(&image(BASE));
        let files = |names: [&str; 2]| names.map(|name| on(0, making(name, "f")));
        let with = |inputs: Vec<pb::Input>, names| {
            let count = i64::try_from(inputs.len()).unwrap_or_default();
            let mut actions = vec![on(count - 1, make_dir("/srv/d", true))];
            actions.extend(files(names));
            change_files(inputs, chained(count, actions))
        };
        let lower = graph.add(&with(vec![input(&base, 0)], ["/srv/d/old", "/srv/d/same"]));
        let other = graph.add(&with(Vec::new(), ["/srv/d/other", "/srv/d/same"]));
        let mut run = llb::run(input(&lower, 0), &["sh", "-c", script]);
        if let Some(pb::op::Op::Exec(exec)) = &mut run.op {
            exec.network = pb::NetMode::None.into();
        }
        let upper = graph.add(&run);
        let diff = graph.add(&pb::Op {
            inputs: vec![input(&lower, 0), input(&upper, 0)],
            op: Some(pb::op::Op::Diff(pb::DiffOp {
                lower: Some(pb::LowerDiffInput { input: 0 }),
                upper: Some(pb::UpperDiffInput { input: 1 }),
            })),
            ..pb::Op::default()
        });
        let merged = graph.add(&pb::Op {
            inputs: vec![input(&other, 0), input(&diff, 0)],
            op: Some(pb::op::Op::Merge(pb::MergeOp {
                inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }],
            })),
            ..pb::Op::default()
        });
        pair.compare(name, &graph.asking_for(&merged, 0)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn steps_are_known_again_by_the_same() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let pair = Pair::start(lab)?;
    for (name, first, second) in AGAIN {
        // No two rows have a step in common, and every run of one says something else.
        let script = format!("cat /proc/sys/kernel/random/uuid; : \"{name}\"");
        let first = pair.made(&saying(&mut Graph::default(), &script, first)).await?;
        let second = pair.made(&saying(&mut Graph::default(), &script, second)).await?;
        let is_known = |of: usize| match (&first[of], &second[of]) {
            (Ok(first), Ok(second)) => Ok(first == second),
            (first, second) => Err(anyhow::anyhow!("{name}: {first:?}, {second:?}")),
        };
        let (ours, theirs) = (is_known(0)?, is_known(1)?);
        ensure!(ours == theirs, "{name}: known here: {ours}, there: {theirs}");
    }
    Ok(())
}
