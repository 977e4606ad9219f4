use std::os::unix::process::CommandExt;

use super::*;
use crate::sys::is_root_or_skip;
use crate::sys::process::ProcessHandle;

#[test]
fn the_last_error_of_the_log_counts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"first\"}\nnoise\n{\"level\":\"error\",\"msg\":\"exec: no\"}\n",
    )
    .unwrap();
    assert_eq!(read_log(file.path()).unwrap(), "exec: no");
    assert_eq!(read_log(Path::new("/nonexistent")), None);
}

/// A run of a daemon that was killed: the runtime goes on, with nobody to wait for it.
#[tokio::test]
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
async fn what_a_killed_daemon_left_running_is_ended() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = match OciRuntime::open(dir.path(), None).await {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let rootfs = dir.path().join("rootfs");
    std::fs::create_dir_all(rootfs.join("bin")).unwrap();
    if std::fs::copy("/bin/busybox", rootfs.join("bin/sleep")).is_err() {
        eprintln!("skipped: needs a static busybox");
        return;
    }
    let process = ProcessSpec {
        rootfs,
        rootfs_readonly: false,
        late_mounts: Vec::new(),
        devices: Default::default(),
        args: ["/bin/sleep", "1000"].map(str::to_owned).to_vec(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: Default::default(),
        hostname: "x".to_owned(),
        rlimits: Vec::new(),
        network: crate::executor::process::Network::Host,
        security: cairn_solver::llb::SecurityMode::Sandbox,
        cgroup_parent: String::new(),
        resources: Default::default(),
        terminal: false,
    };
    let run = runtime.inner.prepare(&ContainerId::random(), &process).unwrap();
    let pid_file = run.bundle.join("pid");
    let arguments: Vec<OsString> = vec![
        "run".into(),
        "--bundle".into(),
        run.bundle.clone().into(),
        "--pid-file".into(),
        pid_file.clone().into(),
        run.id.clone().into(),
    ];
    let mut command = std::process::Command::new(&runtime.inner.program);
    command.arg("--root").arg(&runtime.inner.state).args(&arguments);
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid: u32 = loop {
        match std::fs::read_to_string(&pid_file)
            .ok()
            .and_then(|pid| pid.trim().parse().ok())
        {
            Some(pid) => break pid,
            None => assert!(child.try_wait().unwrap().is_none(), "the runtime ended early"),
        }
        tokio::task::yield_now().await;
    };
    let init = ProcessHandle::open(pid).unwrap().unwrap();
    let group = run.cgroup.clone();
    drop(runtime);
    let again = OciRuntime::open(dir.path(), None).await.unwrap();
    assert!(init.wait_ended(Duration::from_secs(10)).unwrap());
    assert!(child.wait().unwrap().code().is_none(), "the runtime was killed");
    assert_eq!(std::fs::read_dir(&again.inner.runs).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&again.inner.state).unwrap().count(), 0);
    if let Some(group) = group {
        let left = Path::new("/sys/fs/cgroup/memory").join(group.strip_prefix("/").unwrap());
        assert!(!left.exists(), "{}", left.display());
    }
}
