use cairn_solver::frontend::{FrontendError, FrontendRefs, FrontendResult};
use serde_json::Value;

use crate::testing::cases::{self, Case};
use crate::testing::{ALPINE, FakeBridge, build};

/// Asks for what the case says; `ignore` is a line of the ignore file.
fn ask(case: &Case, id: Option<&str>) -> Result<FrontendResult, FrontendError> {
    let mut bridge =
        FakeBridge::new(&case.input).image("docker.io/library/arm:latest", &ALPINE.replace("amd64", "arm64"));
    let options = case.options();
    let ignore: Vec<&str> = options
        .iter()
        .filter(|(key, _)| *key == "ignore")
        .map(|(_, value)| *value)
        .collect();
    if !ignore.is_empty() {
        bridge = bridge.file("context", ".dockerignore", &ignore.join("\n"));
    }
    let options = options
        .into_iter()
        .filter(|(key, _)| !matches!(*key, "ignore" | "show"));
    let options: Vec<_> = options.chain(id.map(|id| ("requestid", id))).collect();
    build(bridge, &options)
}

fn text<'a>(result: &'a FrontendResult, key: &str) -> &'a str {
    let value = result.metadata.get(key).unwrap_or_else(|| panic!("there is no {key}"));
    std::str::from_utf8(value).expect("it is text")
}

fn lines(location: &Value) -> String {
    let ranges = location["ranges"].as_array().into_iter().flatten();
    let lines: Vec<String> = ranges.map(|range| range["start"]["line"].to_string()).collect();
    if lines.is_empty() {
        "-".to_owned()
    } else {
        lines.join(",")
    }
}

#[test]
fn checks() {
    cases::check("checks", |case| {
        let result = match ask(case, Some("frontend.lint")) {
            Ok(result) => result,
            Err(error) => return format!("no answer: {error}"),
        };
        assert_eq!(result.refs, FrontendRefs::Single(None));
        let answer: Value = serde_json::from_str(text(&result, "result.json")).expect("it is JSON");
        let warnings: Vec<&Value> = answer["warnings"].as_array().into_iter().flatten().collect();
        let complains = !warnings.is_empty() || answer.get("buildError").is_some();
        assert_eq!(text(&result, "result.statuscode"), if complains { "1" } else { "0" });
        assert_eq!(
            text(&result, "result.txt").matches("\nWARNING: ").count(),
            warnings.len()
        );
        let mut shown: String = warnings
            .iter()
            .map(|warning| {
                let [rule, message] = ["ruleName", "detail"].map(|key| warning[key].as_str().unwrap_or_default());
                format!("{} {rule}: {message}\n", lines(&warning["location"]))
            })
            .collect();
        if let Some(error) = answer.get("buildError") {
            let message = error["message"].as_str().unwrap_or_default();
            shown.push_str(&format!("error {} {message}\n", lines(&error["location"])));
        }
        if shown.is_empty() { "nothing".to_owned() } else { shown }
    });
}

#[test]
fn answers() {
    cases::check("subrequests", |case| match ask(case, None) {
        Ok(result) => {
            let show = case.options().into_iter().find(|(key, _)| *key == "show");
            let mut keys: Vec<&str> = result.metadata.keys().map(String::as_str).collect();
            keys.retain(|key| show.is_none_or(|(_, show)| show == *key));
            let shown = keys.into_iter().map(|key| {
                let value = text(&result, key);
                // Blanks at ends of lines count.
                let value: String = value.split('\n').map(|line| format!("{line}$\n")).collect();
                format!("{key}:\n{value}")
            });
            shown.collect::<String>()
        }
        Err(error) => format!("error {error}"),
    });
}

#[test]
fn what_is_asked_instead_of_a_build_is_no_build() {
    let options = [("requestid", "frontend.foo")];
    let error = build(FakeBridge::new("FROM scratch"), &options).unwrap_err();
    assert!(matches!(error, FrontendError::Subrequest(id) if id == "frontend.foo"));
    let missing = build(FakeBridge::default(), &options).unwrap_err();
    assert!(
        missing.to_string().starts_with("failed to read dockerfile"),
        "{missing}"
    );

    for cap in ["moby.buildkit.frontend.nope", "moby.buildkit.frontend.nope+forward"] {
        let error = build(FakeBridge::new("FROM scratch"), &[("frontend.caps", cap)]).unwrap_err();
        assert!(matches!(error, FrontendError::Capability(name) if name == "moby.buildkit.frontend.nope"));
    }
}

#[test]
fn a_graph_is_shown_whole() {
    let options = [("requestid", "frontend.convertllb")];
    let result = build(FakeBridge::new("FROM alpine\nRUN echo a > /b\n"), &options).unwrap();
    assert_eq!(text(&result, "version"), "0.1.0");
    assert!(!result.metadata.contains_key("result.txt"));
    let graph: Value = serde_json::from_str(text(&result, "result.json")).unwrap();
    let ops = graph["def"].as_object().unwrap();
    let run = ops.values().find(|op| op.get("exec").is_some()).unwrap();
    assert_eq!(run["exec"]["meta"]["args"][2], "echo a > /b");
    assert_eq!(run["platform"]["Architecture"], "amd64");
    let from = run["inputs"][0]["digest"].as_str().unwrap();
    assert!(
        ops[from]["source"]["identifier"]
            .as_str()
            .unwrap()
            .starts_with("docker-image://")
    );
    let names: Vec<&Value> = graph["metadata"].as_object().unwrap().values().collect();
    assert!(
        names
            .iter()
            .any(|op| op["description"]["llb.customname"] == "[2/2] RUN echo a > /b")
    );
    assert_eq!(graph["source"]["infos"][0]["filename"], "Dockerfile");

    let nothing = build(FakeBridge::new("FROM scratch"), &options).unwrap();
    let graph: Value = serde_json::from_str(text(&nothing, "result.json")).unwrap();
    assert_eq!(graph, serde_json::json!({ "def": {}, "metadata": {}, "source": {} }));
}

#[test]
fn a_hostile_file_is_answered_in_reasonable_time() {
    let stages: String = (0..1_000)
        .map(|stage| format!("FROM scratch AS s{stage}\nARG a{stage}=$a{}\n", stage / 2))
        .collect();
    let globals: String = (0..1_000)
        .map(|arg| format!("ARG a{arg}=${{a{}:-x}}\n", arg / 2))
        .collect();
    let file = format!("{globals}{stages}");
    for id in ["frontend.outline", "frontend.targets", "frontend.lint"] {
        let result = build(FakeBridge::new(&file), &[("requestid", id)]).unwrap();
        assert!(text(&result, "result.json").len() < 64 << 20, "{id}");
    }
}

#[test]
fn lines_of_other_files_are_not_shown_as_those_of_the_dockerfile() {
    let bridge = FakeBridge::new("FROM scratch\nCOPY a b").file("context", ".dockerignore", "a\n!");
    let result = build(bridge, &[("requestid", "frontend.lint")]).unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&result.metadata["result.json"]).unwrap();
    let error = &answer["buildError"];
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("illegal exclusion pattern: \"!\""), "{message}");
    assert_eq!(error["location"]["ranges"], serde_json::Value::Null);
}
