//! Tests as data: files of inputs with what has to come of them.
//!
//! A file in `tests/data` is about one topic and holds any number of cases:
//!
//! ```text
//! ## what it shows
//! option key=value
//! | the input, line by line; → is a tab, ␍ a carriage return, ␠ a blank at the end
//! -> what comes of it, line by line
//! ```
//!
//! With `CAIRN_BLESS` set, what comes out is written into the files instead of being compared.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One case.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) options: Vec<(String, String)>,
    /// Without a newline at the end.
    pub(crate) input: String,
    wanted: Vec<String>,
    /// The lines in front of what comes out.
    given: Vec<String>,
}

impl Case {
    pub(crate) fn options(&self) -> Vec<(&str, &str)> {
        self.options
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }
}

/// Checks every case of every file of a directory.
///
/// # Panics
/// If any of them comes out differently, with all that do.
pub(crate) fn check(directory: &str, render: impl Fn(&Case) -> String) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(directory);
    let entries = std::fs::read_dir(&directory).expect("the directory is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    let failures: String = files.iter().map(|file| check_file(file, &render)).collect();
    assert!(failures.is_empty(), "\n{failures}");
}

fn check_file(file: &Path, render: &impl Fn(&Case) -> String) -> String {
    let text = std::fs::read_to_string(file).expect("it is text");
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (head, cases) = cases(&text);
    let (mut blessed, mut failures) = (head.to_owned(), String::new());
    for case in &cases {
        let found: Vec<String> = render(case).trim_end_matches('\n').split('\n').map(escaped).collect();
        if found != case.wanted {
            let (found, wanted) = (found.join("\n    "), case.wanted.join("\n    "));
            let _ = writeln!(
                failures,
                "{name}: {}\n  is\n    {found}\n  not\n    {wanted}",
                case.name
            );
        }
        let _ = writeln!(blessed, "## {}\n{}", case.name, case.given.join("\n"));
        for line in found {
            let _ = writeln!(blessed, "{}", format!("-> {line}").trim_end());
        }
        blessed.push('\n');
    }
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(file, blessed.trim_end().to_owned() + "\n").expect("it can be written");
        return String::new();
    }
    failures
}

/// What stands above the first case, and the cases.
fn cases(text: &str) -> (&str, Vec<Case>) {
    let start = text.find("## ").expect("there is a case");
    let mut cases: Vec<Case> = Vec::new();
    for line in text[start..].lines() {
        if let Some(name) = line.strip_prefix("## ") {
            cases.push(Case {
                name: name.to_owned(),
                ..Case::default()
            });
            continue;
        }
        let case = cases.last_mut().expect("a case begins with its name");
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "" => continue,
            "->" => {
                case.wanted.push(rest.to_owned());
                continue;
            }
            "option" => {
                let (key, value) = rest.split_once('=').expect("an option has a value");
                case.options.push((key.to_owned(), value.to_owned()));
            }
            "|" if case.given.iter().any(|line| line.starts_with('|')) => {
                case.input.push('\n');
                case.input.push_str(&unescaped(rest));
            }
            "|" => case.input.push_str(&unescaped(rest)),
            _ => panic!("{}: what is {line:?}?", case.name),
        }
        case.given.push(line.to_owned());
    }
    (&text[..start], cases)
}

/// What would not survive in a text file, or not be seen, is written as a symbol.
const SYMBOLS: [(char, char); 3] = [('→', '\t'), ('␍', '\r'), ('␠', ' ')];

fn unescaped(line: &str) -> String {
    SYMBOLS.iter().fold(line.to_owned(), |line, (symbol, c)| {
        line.replace(*symbol, &c.to_string())
    })
}

fn escaped(line: &str) -> String {
    line.replace('\t', "→").replace('\r', "␍").trim_end().to_owned()
}
