use super::super::attachment::Attachment;
use super::super::network::Network;
use super::super::testing::Scripts;
use super::super::{clear, plugin};
use super::*;
use crate::sys::is_root_or_skip;
use crate::sys::mounts::mounts_below;
use crate::sys::netns::is_pinned;

const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    scripts: Scripts,
    state: tempfile::TempDir,
}

/// A network of one plugin, `net`; `None`, with the reason printed, where namespaces cannot be made.
fn fixture(scripts: Scripts) -> Option<Fixture> {
    is_root_or_skip().then(|| Fixture {
        scripts,
        state: tempfile::tempdir().unwrap(),
    })
}

impl Fixture {
    fn dir(&self) -> PathBuf {
        self.state.path().join("networks")
    }

    fn shared(&self, wanted: usize, keep: Duration) -> Shared {
        let text = br#"{"cniVersion": "1.0.0", "name": "n", "type": "net"}"#;
        let network = Network::single("\"/n.conf\"", text).unwrap();
        let setup = Setup {
            attachments: vec![Attachment::new("eth0", network)],
            plugin_dir: self.scripts.dir().to_owned(),
            plugin_limit: PATIENCE,
        };
        let config = CniConfig {
            source: NetworkSource::File("/n.conf".into()),
            plugin_dir: self.scripts.dir().to_owned(),
            pool_size: wanted,
        };
        let shared = Shared::new(setup, &config, &self.dir()).unwrap();
        Shared { keep, ..shared }
    }

    async fn open(&self, wanted: usize, keep: Duration) -> Namespaces {
        Namespaces::start(self.shared(wanted, keep)).await.unwrap()
    }

    fn count(&self, verb: &str) -> usize {
        self.scripts
            .calls()
            .lines()
            .filter(|line| line.starts_with(verb))
            .count()
    }

    /// Waits until plugins were called so often.
    async fn until(&self, verb: &str, count: usize) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.count(verb) < count {
            assert!(std::time::Instant::now() < deadline, "{}", self.scripts.calls());
            tokio::task::yield_now().await;
        }
    }

    /// Waits until so many are ready.
    async fn until_ready(&self, namespaces: &Namespaces, count: usize) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while namespaces.shared.state.lock().ready.len() < count {
            assert!(std::time::Instant::now() < deadline, "{}", self.scripts.calls());
            tokio::task::yield_now().await;
        }
    }

    /// Nothing is mounted, and nothing written down.
    fn assert_nothing_left(&self) {
        let mounts = mounts_below(&self.state.path().canonicalize().unwrap()).unwrap();
        assert!(mounts.is_empty(), "{mounts:?}");
        let left: Vec<_> = std::fs::read_dir(self.dir()).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_namespace_is_used_again_unless_it_could_be_another() {
    let Some(f) = fixture(Scripts::noting(&["net"])) else {
        return;
    };
    let namespaces = f.open(0, PATIENCE).await;
    let first = namespaces.lease("").await.unwrap();
    let path = first.path();
    assert!(is_pinned(&path));
    let second = namespaces.lease("").await.unwrap();
    assert_ne!(second.path(), path);
    first.give_back();
    let again = namespaces.lease("").await.unwrap();
    assert_eq!(again.path(), path);
    assert_eq!(f.count("ADD"), 2);
    drop(again);
    f.until("DEL", 1).await;
    let other = namespaces.lease("").await.unwrap();
    assert!(other.path() != path && other.path() != second.path());
    drop((second, other));
    namespaces.close().await;
    assert_eq!((f.count("ADD"), f.count("DEL")), (3, 3));
    drop(namespaces);
    f.assert_nothing_left();
}

#[tokio::test]
async fn a_namespace_with_a_name_of_its_own_is_for_nobody_else() {
    let script = r#"test "$CNI_COMMAND" = DEL || printf '{}'; echo "$CNI_COMMAND $CNI_ARGS" >>"${0%/*}/calls""#;
    let Some(f) = fixture(Scripts::new(&[("net", script)])) else {
        return;
    };
    let namespaces = f.open(0, PATIENCE).await;
    namespaces.lease("box").await.unwrap().give_back();
    f.until("DEL", 1).await;
    assert_eq!(
        f.scripts.calls(),
        "ADD \nADD K8S_POD_NAME=box;IgnoreUnknown=1\nDEL K8S_POD_NAME=box;IgnoreUnknown=1\n"
    );
    namespaces.lease("a;K=b").await.unwrap().give_back();
    f.until("DEL", 2).await;
    assert!(f.scripts.calls().ends_with("ADD \nDEL \n"));
    namespaces.close().await;
    drop(namespaces);
    f.assert_nothing_left();
}

#[tokio::test]
async fn as_many_are_ready_as_are_wanted_and_no_more_for_long() {
    let Some(f) = fixture(Scripts::noting(&["net"])) else {
        return;
    };
    let namespaces = f.open(3, Duration::ZERO).await;
    f.until_ready(&namespaces, 3).await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(namespaces.lease("").await.unwrap());
    }
    assert_eq!(f.count("ADD"), 5);
    for lease in leases {
        lease.give_back();
    }
    f.until("DEL", 2).await;
    // One that cannot be used again is replaced.
    drop(namespaces.lease("").await.unwrap());
    f.until("ADD", 6).await;
    namespaces.close().await;
    assert_eq!(f.count("DEL"), 6);
    drop(namespaces);
    f.assert_nothing_left();
}

#[tokio::test]
async fn whoever_does_not_wait_leaves_it_to_the_next() {
    let Some(f) = fixture(Scripts::noting(&["net"])) else {
        return;
    };
    let namespaces = f.open(0, PATIENCE).await;
    let first = namespaces.lease("").await.unwrap();
    {
        let mut waiting = std::pin::pin!(namespaces.lease(""));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    }
    f.until_ready(&namespaces, 1).await;
    drop((first, namespaces.lease("").await.unwrap()));
    assert_eq!(f.count("ADD"), 2);
    namespaces.close().await;
    drop(namespaces);
    f.assert_nothing_left();
}

#[tokio::test]
async fn what_fails_is_undone_and_said_at_once() {
    let script = r#"echo "$CNI_COMMAND" >>"${0%/*}/calls"; echo '{"msg": "no room"}'; exit 1"#;
    let Some(f) = fixture(Scripts::new(&[("net", script)])) else {
        return;
    };
    let Err(error) = Namespaces::start(f.shared(0, PATIENCE)).await else {
        panic!("there is a network")
    };
    assert!(error.to_string().ends_with("of \"/n.conf\": no room"), "{error}");
    assert_eq!(f.scripts.calls(), "ADD\nDEL\n");
    f.assert_nothing_left();
}

#[tokio::test]
async fn nothing_is_made_once_it_is_closed() {
    let Some(f) = fixture(Scripts::noting(&["net"])) else {
        return;
    };
    let namespaces = f.open(0, PATIENCE).await;
    namespaces.close().await;
    assert!(matches!(namespaces.lease("").await, Err(CniError::Closed)));
    assert_eq!((f.count("ADD"), f.count("DEL")), (1, 1));
}

#[tokio::test]
async fn what_was_left_is_taken_down_with_what_was_known_of_it() {
    let Some(f) = fixture(Scripts::noting(&["net"])) else {
        return;
    };
    let namespaces = f.open(2, PATIENCE).await;
    f.until_ready(&namespaces, 2).await;
    let lease = namespaces.lease("").await.unwrap();
    let path = lease.path();
    // As if the daemon was killed: nothing is undone.
    std::mem::forget(lease);
    std::mem::forget(namespaces);
    assert!(is_pinned(&path));
    clear(&f.dir()).await.unwrap();
    assert!(!path.exists());
    let told = f.scripts.calls();
    let told: Vec<&str> = told.lines().filter(|line| line.starts_with("DEL")).collect();
    assert_eq!(told, ["DEL net eth0 \"prevResult\":{\"by\":\"net\"}"; 2]);
    f.assert_nothing_left();
    clear(&f.dir()).await.unwrap();
}

#[tokio::test]
async fn what_was_left_is_cleared_even_if_nobody_can_say_how() {
    let Some(f) = fixture(Scripts::noting(&["net"])) else {
        return;
    };
    let namespaces = f.open(0, PATIENCE).await;
    let lease = namespaces.lease("").await.unwrap();
    std::fs::write(lease.path().with_file_name("record.json"), "{").unwrap();
    std::mem::forget(lease);
    std::mem::forget(namespaces);
    clear(&f.dir()).await.unwrap();
    assert_eq!(f.count("DEL"), 0);
    f.assert_nothing_left();
}

#[tokio::test]
async fn a_plugin_at_work_for_a_killed_daemon_is_ended_first() {
    let Some(f) = fixture(Scripts::noting(&["net"])) else {
        return;
    };
    let dir = f.dir().join("n1");
    std::fs::create_dir_all(&dir).unwrap();
    let canonical = dir.canonicalize().unwrap().join("net");
    let mut plugin = std::process::Command::new("sleep")
        .arg("600")
        .env("CNI_NETNS", &canonical)
        .spawn()
        .unwrap();
    clear(&f.dir()).await.unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(plugin.wait().unwrap().signal(), Some(9));
    f.assert_nothing_left();
}

#[test]
fn plugins_that_are_missing_are_named_with_their_place() {
    let scripts = Scripts::new(&[("there", "")]);
    plugin::check_dir(scripts.dir()).unwrap();
    plugin::check(scripts.dir(), "there", "x").unwrap();
    let error = plugin::check(scripts.dir(), "gone", "\"/n.conf\"")
        .unwrap_err()
        .to_string();
    let want = format!(
        "failed to find cni plugin \"gone\", which \"/n.conf\" needs, in {:?}",
        scripts.dir()
    );
    assert_eq!(error, want);
    let error = plugin::check_dir(&scripts.dir().join("none")).unwrap_err().to_string();
    assert!(error.starts_with("failed to read cni binary dir"), "{error}");
}
