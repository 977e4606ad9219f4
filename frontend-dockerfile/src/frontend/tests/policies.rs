//! What becomes of images that policies put something else in the place of.

use std::sync::Arc;

use cairn_solver::frontend::FrontendError;

use crate::testing::{ALPINE, FakeBridge, render, solve};

fn outcome(bridge: FakeBridge, options: &[(&str, &str)]) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let result = runtime.block_on(solve(&Arc::new(bridge), options));
    match result {
        Ok(_) => Ok(render(&result)),
        Err(FrontendError::Input { message, .. } | FrontendError::Option(message)) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn another_image_is_pinned_as_what_it_is() {
    let bridge = FakeBridge::new("FROM alpine\nCOPY a /").policy(
        "docker-image://docker.io/library/alpine:latest",
        "docker-image://quay.io/coreos/etcd:v3",
    );
    let text = outcome(bridge, &[]).unwrap();
    assert!(text.contains("quay.io/coreos/etcd:v3@sha256:"), "{text}");
    assert!(!text.contains("docker.io/library/alpine"), "{text}");
}

#[test]
fn a_base_has_to_stay_an_image_but_a_named_context_has_not() {
    let dockerfile = "FROM scratch\nCOPY --from=x a /";
    let policy = |bridge: FakeBridge| bridge.policy("docker-image://docker.io/library/y:1", "http://h/f");
    let named = [("context:x", "docker-image://y:1")];
    let text = outcome(policy(FakeBridge::new(dockerfile)), &named).unwrap();
    assert!(text.contains("http://h/f"), "{text}");
    let text = outcome(policy(FakeBridge::new("FROM y:1")), &[]).unwrap_err();
    assert_eq!(
        text,
        "y:1: ref mutated by policy to non-image: docker-image://docker.io/library/y:1 -> http://h/f"
    );
}

#[test]
fn named_contexts_do_not_go_in_circles() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let layout = format!("oci-layout://store@{digest}");
    let image = format!("docker-image://docker.io/library/x@{digest}");
    let bridge = FakeBridge::new("FROM x\nCOPY a /")
        .image("docker.io/library/y:1", ALPINE)
        .policy("docker-image://docker.io/library/y:1", &layout)
        .policy(&image, &layout);
    let error = outcome(bridge, &[("context:x", "docker-image://y:1")]).unwrap_err();
    assert!(error.starts_with("context recursion limit exceeded; "), "{error}");
}
