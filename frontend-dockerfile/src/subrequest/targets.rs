//! Which stages there are.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::json::is_false;
use super::location::Location;
use super::{Answer, description, json, table};
use crate::dockerfile::Dockerfile;

#[derive(Debug, Serialize)]
struct Targets {
    targets: Option<Vec<Target>>,
    sources: [String; 1],
}

#[derive(Debug, Serialize)]
struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Whether it is built if nothing else is asked for.
    #[serde(skip_serializing_if = "is_false")]
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    location: Location,
}

/// The stages of a file, which `data` is the text of.
pub(crate) fn targets(file: &Dockerfile, data: &[u8]) -> Answer {
    let last = file.stages.len().saturating_sub(1);
    let targets = file.stages.iter().enumerate().map(|(index, stage)| {
        let name = stage.from.name.clone();
        Target {
            default: index == last,
            description: name
                .as_deref()
                .and_then(|name| description(&stage.instruction.comments, name)),
            name,
            base: stage.from.base.clone(),
            platform: stage.from.platform.clone().filter(|platform| !platform.is_empty()),
            location: Location::of([stage.instruction.lines]),
        }
    });
    let targets: Vec<Target> = targets.collect();
    let text = text(&targets);
    let list = Targets {
        targets: (!targets.is_empty()).then_some(targets),
        sources: [STANDARD.encode(data)],
    };
    Answer::new(json::pretty(&list), text)
}

fn text(targets: &[Target]) -> String {
    let mut text = "TARGET\tDESCRIPTION\n".to_owned();
    for target in targets {
        let name = match (&target.name, target.default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}\t{}", target.description.as_deref().unwrap_or_default());
    }
    table::render(&text, 1)
}
