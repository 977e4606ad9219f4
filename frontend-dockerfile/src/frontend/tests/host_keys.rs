//! What ssh hosts present is part of the graph.

use std::sync::Arc;

use cairn_solver::frontend::{FrontendError, FrontendResult};

use super::{FakeBridge, lowered, render, solve};

fn run(bridge: &Arc<FakeBridge>, options: &[(&str, &str)]) -> Result<FrontendResult, FrontendError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(solve(bridge, options))
}

/// The graph, and which hosts were asked.
fn built(bridge: FakeBridge, options: &[(&str, &str)]) -> (String, Vec<String>) {
    let bridge = Arc::new(bridge);
    let text = render(&run(&bridge, options));
    let log = bridge.log.lock().unwrap();
    let asked = log.iter().filter(|line| line.starts_with("keys of ")).cloned();
    let asked = asked.collect();
    (text, asked)
}

/// How often the graph has the keys of `host`.
fn keys(text: &str, host: &str) -> usize {
    text.matches(&format!("known_ssh_hosts: \"{host} ssh-ed25519 KEY\""))
        .count()
}

#[test]
fn each_host_is_asked_once_whoever_needs_it() {
    let dockerfile = "FROM x AS base\nARG HOST=h\nADD git@$HOST:a git@h:b /x/\nADD ssh://git@other:22/c /y\n\
                      FROM alpine\nCOPY --from=base /x /x\nADD https://h/d.git /z\n";
    let options = [
        ("platform", "linux/amd64,linux/arm64"),
        ("context:x", "git@named:r#v1"),
        ("context:unused", "git@nobody:r"),
    ];
    let (text, mut asked) = built(FakeBridge::new(dockerfile), &options);
    asked.sort();
    assert_eq!(asked, ["keys of h", "keys of named", "keys of other:22"], "{text}");
    for (host, times) in [("h", 4), ("other:22", 2), ("named", 2)] {
        assert_eq!(keys(&text, host), times, "{host} in {text}");
    }
    assert_eq!(text.matches("known_ssh_hosts: \"\"").count(), 2, "of https: {text}");
    assert!(text.contains("[internal] load git source git@named:r#v1"), "{text}");
}

#[test]
fn what_is_odd_is_said_once_although_hosts_are_asked_in_between() {
    let bridge = Arc::new(FakeBridge::new("FROM scratch\nWORKDIR x\nADD git@h:a /x/\n"));
    let built = run(&bridge, &[]);
    assert!(built.is_ok());
    let log = bridge.log.lock().unwrap();
    let said: Vec<_> = log.iter().filter(|line| line.starts_with("W ")).collect();
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn the_context_and_the_dockerfile_come_from_one_host() {
    let bridge = FakeBridge::new("").remote("git://h/r", "Dockerfile", b"FROM scratch\nCOPY a /\nADD git@h:r /x\n");
    let (text, asked) = built(bridge, &[("context", "git@h:r")]);
    assert_eq!(asked, ["keys of h"], "{text}");
    assert_eq!(keys(&text, "h"), 1, "it is one step: {text}");
}

#[test]
fn a_host_that_does_not_tell_is_left_to_whoever_fetches_from_it() {
    let (text, asked) = built(FakeBridge::new("FROM scratch\nADD git@h:a /x/\n").silent_hosts(), &[]);
    assert_eq!(asked, ["keys of h"], "{text}");
    assert!(text.contains("known_ssh_hosts: \"\""), "{text}");
}

#[test]
fn words_for_repositories_are_asked_for_beside_paths() {
    let text = lowered("FROM scratch\nADD git@h:r#v1 git://h/r https://h/r.git a /x/\n", &[]);
    assert!(text.contains(r#"follow=["a", "git:/h/r", "git@h:r#v1"]"#), "{text}");
    let text = lowered("FROM scratch\nADD git@h:r#v1 /x/\n", &[]);
    assert!(!text.contains("load build context"), "{text}");
}
