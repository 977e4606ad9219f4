//! What the reference implementation makes of many Dockerfiles.

use std::sync::Arc;

use cairn_solver::frontend::{FrontendError, FrontendResult};
use serde_json::Value;

use crate::testing::{FakeBridge, render, solve};

const ROWS: &str = include_str!("../../../tests/data/conformance.txt");

/// A Dockerfile and what is expected of it.
#[derive(Debug, Default)]
struct Row<'a> {
    name: &'a str,
    options: Vec<(&'a str, &'a str)>,
    /// Files besides the Dockerfile: where they are kept, their paths and contents.
    files: Vec<(&'a str, &'a str, String)>,
    /// Whether there is no Dockerfile in the client's directory.
    lacks_dockerfile: bool,
    /// The lines, in front of each a newline.
    dockerfile: String,
    error: Option<&'a str>,
    fails_later: bool,
    warnings: Vec<&'a str>,
    config: Option<Value>,
    author: Option<&'a str>,
    history: Vec<(bool, String)>,
    steps: Vec<&'a str>,
    /// The text of an answer.
    answer: Option<String>,
}

fn rows() -> Vec<Row<'static>> {
    let mut rows: Vec<Row<'static>> = Vec::new();
    for line in ROWS.lines().skip_while(|line| !line.starts_with("## ")) {
        if let Some(name) = line.strip_prefix("## ") {
            rows.push(Row { name, ..Row::default() });
            continue;
        }
        let row = rows.last_mut().expect("rows begin with their name");
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        let json = || serde_json::from_str::<Value>(rest).expect("JSON");
        match key {
            "" => {}
            "option" => row.options.push(rest.split_once('=').expect("an option has a value")),
            "file" => {
                let mut parts = rest.splitn(3, ' ');
                let mut part = || parts.next().expect("a file has a place, a path and contents");
                let (place, path) = (part(), part());
                let content = serde_json::from_str(part()).expect("a JSON string");
                row.files.push((place, path, content));
            }
            "elsewhere" => row.lacks_dockerfile = true,
            "|" => {
                row.dockerfile.push('\n');
                row.dockerfile.push_str(rest);
            }
            "fill" => row.dockerfile.push_str(&"x".repeat(rest.parse().expect("a number"))),
            "raw" => row.dockerfile = format!("\n{}", json().as_str().expect("a string")),
            "error" => row.error = Some(rest),
            "fails" => row.fails_later = true,
            "warning" => row.warnings.push(rest),
            "config" => row.config = Some(json()),
            "author" => row.author = Some(rest),
            "history" => {
                let (layer, text) = rest.split_once(' ').expect("history says whether there is a layer");
                let text = serde_json::from_str(text).expect("a JSON string");
                row.history.push((layer == "+", text));
            }
            "step" => row.steps.push(rest),
            "answer" => row.answer = Some(json().as_str().expect("a string").to_owned()),
            _ => panic!("{}: what is {line:?}?", row.name),
        }
    }
    rows
}

/// The numbered steps of a rendered result.
fn steps(text: &str) -> Vec<&str> {
    let names = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .filter_map(|line| line.split_once(' '));
    let names = names.map(|(_, name)| name.rsplit_once(" @").map_or(name, |(name, _)| name));
    names
        .filter(|name| name.starts_with('[') && name.split_once(']').is_some_and(|(number, _)| number.contains('/')))
        .collect()
}

/// How a row differs from what is expected.
fn differences(
    row: &Row<'_>,
    result: &Result<FrontendResult, FrontendError>,
    mut warnings: Vec<String>,
) -> Vec<String> {
    let text = render(result);
    let mut found = Vec::new();
    let mut expect = |what: &str, got: String, want: String| {
        if got != want {
            found.push(format!("{what}: {got}\n    expected: {want}"));
        }
    };
    let error = result.as_ref().err().map(|_| {
        let line = text.lines().next().unwrap_or_default();
        line.strip_prefix("error: ").unwrap_or(line).to_owned()
    });
    match (&error, row.error) {
        (None, None) => {}
        (Some(_), None) if row.fails_later => {}
        (got, want) => expect("error", format!("{got:?}"), format!("{want:?}")),
    }
    warnings.sort();
    expect("warnings", format!("{warnings:#?}"), format!("{:#?}", row.warnings));
    if let (Ok(result), Some(answer)) = (result, &row.answer) {
        let text = result
            .metadata
            .get("result.txt")
            .map(|text| String::from_utf8_lossy(text));
        expect(
            "answer",
            format!("{:?}", text.unwrap_or_default()),
            format!("{answer:?}"),
        );
    }
    if let (Ok(result), Some(config)) = (result, &row.config) {
        let image: Value =
            serde_json::from_slice(&result.metadata["containerimage.config"]).expect("the config is JSON");
        expect("config", image["config"].to_string(), config.to_string());
        let history = image["history"].as_array().into_iter().flatten().map(|entry| {
            let text = entry["created_by"].as_str().unwrap_or_default();
            (entry["empty_layer"] != true, text.to_owned())
        });
        let history: Vec<_> = history.collect();
        expect("history", format!("{history:?}"), format!("{:?}", row.history));
        expect(
            "author",
            format!("{:?}", image["author"].as_str()),
            format!("{:?}", row.author),
        );
        let mut names = steps(&text);
        names.sort_unstable();
        // What a step fetches is a vertex of its own, by the same name.
        names.dedup();
        let mut wanted = row.steps.clone();
        wanted.sort_unstable();
        expect("steps", format!("{names:#?}"), format!("{wanted:#?}"));
    }
    found
}

#[test]
fn dockerfiles_mean_what_they_mean_elsewhere() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut failures = String::new();
    for row in rows() {
        let bridge = if row.lacks_dockerfile {
            FakeBridge::default()
        } else {
            FakeBridge::new(row.dockerfile.strip_prefix('\n').unwrap_or_default())
        };
        let files = row.files.iter();
        let bridge = files.fold(bridge, |bridge, (place, path, content)| {
            bridge.remote(place, path, content.as_bytes())
        });
        let bridge = Arc::new(bridge);
        let result = runtime.block_on(solve(&bridge, &row.options));
        let log = bridge.log.lock().unwrap();
        let warnings = log.iter().filter_map(|entry| entry.strip_prefix("W "));
        for difference in differences(&row, &result, warnings.map(str::to_owned).collect()) {
            failures += &format!("## {} {:?}\n  {difference}\n", row.name, row.dockerfile);
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}
