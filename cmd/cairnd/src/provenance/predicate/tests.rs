use serde_json::json;

use super::*;

/// Facts about a build in which everything occurs that there is.
fn facts() -> Facts {
    let digest = || BTreeMap::from([("sha1".to_owned(), "c0ffee".to_owned())]);
    let origin = Origin {
        uri: "https://example.com/a.git#main".to_owned(),
        digest: digest(),
        path: "Dockerfile".to_owned(),
    };
    let args = [("build-arg:A", "1"), ("label:l", "x"), ("target", "out")];
    let lent = |id: &str, optional| Lent {
        id: id.to_owned(),
        optional,
    };
    let step = Step {
        id: "step0".to_owned(),
        op: json!({ "Op": {} }),
        inputs: vec!["step1:0".to_owned()],
        resource_usage: None,
    };
    let steps = BuildConfig {
        llb_definition: vec![step],
        digest_mapping: BTreeMap::from([("sha256:00".to_owned(), "step0".to_owned())]),
    };
    Facts {
        invocation: "build".to_owned(),
        started: "2024-01-02T03:04:05.000000006Z".parse().unwrap(),
        finished: "2024-01-02T03:04:06Z".parse().unwrap(),
        origin: origin.clone(),
        request: Request {
            frontend: "gateway.v0".to_owned(),
            args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            secrets: vec![lent("secret", true)],
            ssh: vec![lent("default", false)],
            locals: vec![Local {
                name: "context".to_owned(),
            }],
            inputs: BTreeMap::from([("base".to_owned(), Asked::default())]),
            root: Some(Box::new(Asked {
                config_source: origin,
                request: Request::default(),
            })),
            compatibility_version: 20,
            is_reduced: false,
        },
        materials: vec![Material {
            uri: "https://example.com/a.git#main".to_owned(),
            digest: digest(),
        }],
        is_complete: true,
        has_network: false,
        platform: "linux/amd64".to_owned(),
        dockerfile_version: Some("1.26"),
        environment: Environment::default(),
        steps: Some(steps.clone()),
        metadata: Metadata {
            vcs: BTreeMap::from([("revision".to_owned(), "c0ffee".to_owned())]),
            source: Some(Source {
                locations: BTreeMap::from([("step0".to_owned(), json!({}))]),
                infos: vec![SourceFile {
                    filename: "Dockerfile".to_owned(),
                    language: "Dockerfile".to_owned(),
                    data: "RlJPTSBh".to_owned(),
                    steps,
                }],
            }),
            layers: BTreeMap::from([("step0:0".to_owned(), vec![vec![Descriptor::of("text/plain", b"x")]])]),
            sys_usage: Vec::new(),
        },
    }
}

fn shown(facts: &Facts, version: Version, claims: Claims<'_>) -> Value {
    serde_json::from_slice(&facts.to_json(version, claims).unwrap()).unwrap()
}

const CLAIMS: Claims<'static> = Claims {
    builder_id: "https://builder",
    is_reproducible: true,
};
const NO_CLAIMS: Claims<'static> = Claims {
    builder_id: "",
    is_reproducible: false,
};

fn whole_request() -> Value {
    json!({
        "frontend": "gateway.v0",
        "args": { "build-arg:A": "1", "label:l": "x", "target": "out" },
        "secrets": [{ "id": "secret", "optional": true }],
        "ssh": [{ "id": "default" }],
        "locals": [{ "name": "context" }],
        "inputs": { "base": { "configSource": {}, "request": {} } },
        "root": {
            "configSource": {
                "uri": "https://example.com/a.git#main", "digest": { "sha1": "c0ffee" }, "path": "Dockerfile"
            },
            "request": {},
        },
        "compatibilityVersion": 20,
    })
}

fn steps() -> Value {
    json!({
        "llbDefinition": [{ "id": "step0", "op": { "Op": {} }, "inputs": ["step1:0"] }],
        "digestMapping": { "sha256:00": "step0" },
    })
}

fn whole_metadata() -> Value {
    let mut file = json!({ "filename": "Dockerfile", "language": "Dockerfile", "data": "RlJPTSBh" });
    file.as_object_mut()
        .unwrap()
        .extend(steps().as_object().unwrap().clone());
    json!({
        "vcs": { "revision": "c0ffee" },
        "source": { "locations": { "step0": {} }, "infos": [file] },
        "layers": { "step0:0": [[{
            "mediaType": "text/plain",
            "digest": cairn_solver::Digest::sha256(b"x").to_string(),
            "size": 1,
        }]] },
    })
}

fn materials() -> Value {
    json!([{ "uri": "https://example.com/a.git#main", "digest": { "sha1": "c0ffee" } }])
}

#[test]
fn all_that_is_known_in_version_1() {
    let want = json!({
        "buildDefinition": {
            "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
            "externalParameters": {
                "configSource": {
                    "uri": "https://example.com/a.git#main", "digest": { "sha1": "c0ffee" }, "path": "Dockerfile"
                },
                "request": whole_request(),
            },
            "internalParameters": {
                "buildConfig": steps(), "builderPlatform": "linux/amd64", "dockerfileVersion": "1.26"
            },
            "resolvedDependencies": materials(),
        },
        "runDetails": {
            "builder": { "id": "https://builder" },
            "metadata": {
                "invocationId": "build",
                "startedOn": "2024-01-02T03:04:05.000000006Z",
                "finishedOn": "2024-01-02T03:04:06Z",
                "buildkit_metadata": whole_metadata(),
                "buildkit_hermetic": true,
                "buildkit_completeness": { "request": true, "resolvedDependencies": true },
                "buildkit_reproducible": true,
            },
        },
    });
    assert_eq!(shown(&facts(), Version::V1, CLAIMS), want);
}

#[test]
fn all_that_is_known_in_version_0_2() {
    let want = json!({
        "builder": { "id": "https://builder" },
        "buildType": "https://mobyproject.org/buildkit@v1",
        "materials": materials(),
        "invocation": {
            "configSource": {
                "uri": "https://example.com/a.git#main", "digest": { "sha1": "c0ffee" }, "entryPoint": "Dockerfile"
            },
            "parameters": whole_request(),
            "environment": { "platform": "linux/amd64", "dockerfileVersion": "1.26" },
        },
        "buildConfig": steps(),
        "metadata": {
            "buildInvocationID": "build",
            "buildStartedOn": "2024-01-02T03:04:05.000000006Z",
            "buildFinishedOn": "2024-01-02T03:04:06Z",
            "completeness": { "parameters": true, "environment": true, "materials": true },
            "reproducible": true,
            "https://mobyproject.org/buildkit@v1#metadata": whole_metadata(),
            "https://mobyproject.org/buildkit@v1#hermetic": true,
        },
    });
    assert_eq!(shown(&facts(), Version::V02, CLAIMS), want);
}

#[test]
fn what_is_private_is_left_out_if_wanted() {
    let facts = Facts {
        is_complete: false,
        dockerfile_version: None,
        ..facts()
    };
    let mut request = whole_request();
    request["args"] = json!({ "target": "out" });
    let fields = request.as_object_mut().unwrap();
    fields.remove("secrets");
    fields.remove("ssh");
    let v1 = shown(&facts.reduced(), Version::V1, NO_CLAIMS);
    assert_eq!(v1["buildDefinition"]["externalParameters"]["request"], request);
    assert_eq!(
        v1["buildDefinition"]["internalParameters"],
        json!({ "builderPlatform": "linux/amd64" })
    );
    assert_eq!(
        v1["runDetails"],
        json!({
            "builder": { "id": "" },
            "metadata": {
                "invocationId": "build",
                "startedOn": "2024-01-02T03:04:05.000000006Z",
                "finishedOn": "2024-01-02T03:04:06Z",
                "buildkit_metadata": { "vcs": { "revision": "c0ffee" } },
                "buildkit_completeness": { "request": false, "resolvedDependencies": false },
            },
        })
    );
    let v02 = shown(&facts.reduced(), Version::V02, NO_CLAIMS);
    assert!(v02["buildConfig"].is_null());
    assert_eq!(
        v02["metadata"]["completeness"],
        json!({ "parameters": false, "environment": true, "materials": false })
    );
    assert!(v02["metadata"]["https://mobyproject.org/buildkit@v1#hermetic"].is_null());
}

#[test]
fn nothing_is_left_out_of_a_request_without_arguments() {
    let mut facts = facts();
    facts.request.args = BTreeMap::from([("target".to_owned(), "out".to_owned())]);
    assert!(facts.reduced().tells_request());
    facts.request.frontend.clear();
    assert!(!facts.reduced().tells_request());
}

#[test]
fn what_operators_add_stands_beside_what_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"pool": {"name": "a"}, "platform": "mine", "builderPlatform": "mine", "buildConfig": 1}"#;
    std::fs::write(dir.path().join("a.json"), text).unwrap();
    let facts = Facts {
        environment: Environment::read(dir.path()).unwrap(),
        ..facts()
    };
    let v1 = shown(&facts.reduced(), Version::V1, NO_CLAIMS);
    assert_eq!(
        v1["buildDefinition"]["internalParameters"],
        json!({
            "builderPlatform": "linux/amd64", "dockerfileVersion": "1.26",
            "pool": { "name": "a" }, "platform": "mine",
        })
    );
    let v02 = shown(&facts.reduced(), Version::V02, NO_CLAIMS);
    assert_eq!(
        v02["invocation"]["environment"],
        json!({
            "platform": "linux/amd64", "dockerfileVersion": "1.26",
            "pool": { "name": "a" }, "builderPlatform": "mine", "buildConfig": 1,
        })
    );
}
