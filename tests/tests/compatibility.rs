//! Holds the tables of `docs/compatibility.md` to the tests: whoever is named exists, and whoever should be is named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, ensure};
use cairn_tests::lab;

/// The first line of each table that is held to the tests.
const HEADER: &str = "| feature | client command | result | test |";

/// Files with tests about something else than what clients of BuildKit's API see: this program's own command line, its
/// behaviour when something goes wrong, and how well it does its work.
const ABOUT_OTHER_THINGS: &[&str] = &[
    "bad_definition",
    "bad_input",
    "bad_registry",
    "built_here",
    "commands",
    "compatibility",
    "crash",
    "examples",
    "full_disk",
    "hostile_attributes",
    "hostile_clients",
    "hostile_sessions",
    "links",
    "logs",
    "main_job",
    "sharing",
    "soak_crash",
    "why",
];

/// A row of a table.
struct Row {
    feature: String,
    command: String,
    result: String,
    /// As `file::function`.
    tests: Vec<String>,
}

impl Row {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [feature, command, result, tests] = cells[..] else {
            anyhow::bail!("{line:?} has {} columns", cells.len())
        };
        let tests = tests.split(',').map(|test| test.trim().trim_matches('`').to_owned());
        Ok(Self {
            feature: feature.to_owned(),
            command: command.to_owned(),
            result: result.to_owned(),
            tests: tests.collect(),
        })
    }
}

/// All rows of the tables in question.
fn rows() -> anyhow::Result<Vec<Row>> {
    let text = std::fs::read_to_string(lab::repository().join("docs/compatibility.md"))?;
    let mut rows = Vec::new();
    let mut lines = text.lines();
    while lines.by_ref().any(|line| line == HEADER) {
        ensure!(
            lines.next().is_some_and(|line| line.starts_with("| ---")),
            "a table without a line below its header"
        );
        for line in lines.by_ref().take_while(|line| line.starts_with('|')) {
            rows.push(Row::parse(line)?);
        }
    }
    Ok(rows)
}

/// The tests that are in a file.
fn tests_in(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in text.lines() {
        let line = line.trim_start();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if is_test && !line.starts_with("#[") && !line.starts_with("//") {
            let name = line.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
            tests.extend(name.map(|(name, _)| name.to_owned()));
            is_test = false;
        }
    }
    Ok(tests)
}

/// The tests of each file, by its name without the extension.
fn all_tests() -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(lab::repository().join("tests/tests"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .file_stem()
                .and_then(|name| name.to_str())
                .context("a file without a name")?;
            all.insert(name.to_owned(), tests_in(&path)?);
        }
    }
    Ok(all)
}

#[test]
fn every_row_names_tests_that_exist() -> anyhow::Result<()> {
    let (rows, tests) = (rows()?, all_tests()?);
    ensure!(rows.len() > 40, "only {} rows were found", rows.len());
    for row in rows {
        let cells = [&row.feature, &row.command, &row.result];
        ensure!(
            cells.iter().all(|cell| !cell.is_empty()),
            "{:?} has an empty cell",
            row.feature
        );
        for test in &row.tests {
            let (file, name) = test
                .split_once("::")
                .with_context(|| format!("{:?}: {test:?} names no test", row.feature))?;
            let known = tests
                .get(file)
                .is_some_and(|tests| tests.iter().any(|known| known == name));
            ensure!(known, "{:?}: there is no test {test}", row.feature);
        }
    }
    Ok(())
}

#[test]
fn every_test_about_compatibility_has_a_row() -> anyhow::Result<()> {
    let named: BTreeSet<String> = rows()?.into_iter().flat_map(|row| row.tests).collect();
    let tests = all_tests()?;
    for file in ABOUT_OTHER_THINGS {
        ensure!(tests.contains_key(*file), "there is no file {file}");
    }
    let about = tests
        .iter()
        .filter(|(file, _)| !ABOUT_OTHER_THINGS.contains(&file.as_str()));
    let missing: Vec<String> = about
        .flat_map(|(file, tests)| tests.iter().map(move |test| format!("{file}::{test}")))
        .filter(|test| !named.contains(test))
        .collect();
    ensure!(
        missing.is_empty(),
        "without a row in docs/compatibility.md: {missing:#?}"
    );
    Ok(())
}
