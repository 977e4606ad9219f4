//! Which requests there are.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Answer, json, table};

/// A request, as it is announced.
#[derive(Debug, Serialize)]
struct Announced {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    opts: Option<&'static [Named]>,
    inputs: Option<&'static [Named]>,
    metadata: &'static [Named],
    refs: Option<&'static [Named]>,
}

#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

const METADATA: &[Named] = &[
    Named {
        name: "result.json",
        description: "",
    },
    Named {
        name: "result.txt",
        description: "",
    },
];

/// Only what users may want to call by themselves is announced.
const ANNOUNCED: &[Announced] = &[
    announced(
        "frontend.outline",
        "List all parameters current build target supports",
        Some(&[Named {
            name: "target",
            description: "Target build stage",
        }]),
    ),
    announced("frontend.targets", "List all targets current build supports", Some(&[])),
    announced("frontend.subrequests.describe", "List available subrequest types", None),
];

const fn announced(name: &'static str, description: &'static str, opts: Option<&'static [Named]>) -> Announced {
    Announced {
        name,
        version: "1.0.0",
        kind: "rpc",
        description,
        opts,
        inputs: None,
        metadata: METADATA,
        refs: None,
    }
}

/// The list of requests.
pub(crate) fn describe() -> Answer {
    let mut text = "NAME\tVERSION\tDESCRIPTION\n".to_owned();
    for request in ANNOUNCED {
        let name = request.name.strip_prefix("frontend.").unwrap_or(request.name);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}\t{}\t{}", request.version, request.description);
    }
    Answer::new(json::pretty(&ANNOUNCED), table::render(&text, 1))
}
