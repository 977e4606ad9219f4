//! What was asked for, in the form in which it is stated.

use std::collections::BTreeMap;

use cairn_solver::engine::{FrontendCall, Trace};

use super::capture::{self, Capture};
use super::materials;
use super::predicate::{Asked, Lent, Local, Origin, Request};
use crate::history::conceal;

/// Options that say something about where it was built, not what.
const OF_THE_HOST: &[&str] = &["cgroup-parent", "image-resolve-mode", "platform", "cache-imports"];
/// How deep requests are told that led to one another.
const MAX_DEPTH: usize = 8;

/// A request, taken apart.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) asked: Asked,
    /// What the client says about the version control of its files.
    pub(super) vcs: BTreeMap<String, String>,
    /// Whether it is known how everything that was handed to frontends was asked for.
    pub(super) is_complete: bool,
}

/// Tells what made a result: `calls` are the frontends, the one that made it first.
pub(super) fn tell(calls: &[std::sync::Arc<FrontendCall>], capture: &Capture, trace: &Trace) -> Told {
    let Some(call) = calls.first() else {
        let request = Request {
            secrets: lent(&capture.secrets),
            ssh: lent(&capture.agents),
            locals: locals(capture),
            ..Request::default()
        };
        return Told {
            asked: Asked {
                request,
                ..Asked::default()
            },
            is_complete: true,
            ..Told::default()
        };
    };
    let mut told = tell_one(call, capture, trace, 0);
    let request = &mut told.asked.request;
    request.secrets = lent(&capture.secrets);
    request.ssh = lent(&capture.agents);
    request.locals = locals(capture);
    if let Some(root) = calls.last().filter(|_| calls.len() > 1) {
        let root = tell_one(root, capture, trace, 0);
        told.is_complete &= root.is_complete;
        told.asked.request.root = Some(Box::new(root.asked));
        told.vcs.extend(root.vcs);
    }
    told
}

fn tell_one(call: &FrontendCall, capture: &Capture, trace: &Trace, depth: usize) -> Told {
    let options = &call.request.options;
    let value = |key: &str| options.get(key).filter(|value| !value.is_empty());
    let context = match value("contextkey") {
        Some(key) => key.as_str(),
        None if value("input:context").is_some() => "input:context",
        None => "context",
    };
    let mut told = Told {
        is_complete: true,
        ..Told::default()
    };
    let Asked { config_source, request } = &mut told.asked;
    call.frontend.clone_into(&mut request.frontend);
    for (key, text) in options {
        let text = conceal(text);
        if let Some(key) = key.strip_prefix("vcs:") {
            if !text.is_empty() {
                told.vcs.insert(key.to_owned(), text);
            }
        } else if key == context && !text.is_empty() {
            *config_source = Origin {
                digest: materials::find(capture, &text),
                uri: text,
                path: std::mem::take(&mut config_source.path),
            };
        } else if key == "filename" && !text.is_empty() {
            config_source.path = text;
        } else if !OF_THE_HOST.contains(&key.as_str()) && !key.starts_with("attest:") {
            request.args.insert(key.clone(), text);
        }
    }
    for (name, definition) in &call.request.inputs {
        match trace.maker(definition).filter(|_| depth < MAX_DEPTH) {
            Some(maker) => {
                let input = tell_one(&maker, capture, trace, depth + 1);
                told.is_complete &= input.is_complete;
                request.inputs.insert(name.clone(), input.asked);
            }
            None => told.is_complete = false,
        }
    }
    told
}

fn lent(lent: &capture::Lent) -> Vec<Lent> {
    let one = |(id, &optional): (&String, &bool)| Lent {
        id: id.clone(),
        optional,
    };
    lent.iter().map(one).collect()
}

fn locals(capture: &Capture) -> Vec<Local> {
    let names = capture.locals.iter();
    names.map(|name| Local { name: name.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_solver::FrontendRequest;
    use cairn_solver::llb::Definition;

    use super::*;

    fn call(frontend: &str, options: &[(&str, &str)]) -> FrontendCall {
        let options = options.iter();
        FrontendCall {
            frontend: frontend.to_owned(),
            request: FrontendRequest {
                options: options
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
                inputs: BTreeMap::new(),
            },
        }
    }

    #[test]
    fn options_have_their_places() {
        let call = call(
            "dockerfile.v0",
            &[
                ("attest:provenance", "mode=max"),
                ("build-arg:HTTP_PROXY", "http://me:secret@proxy:1"),
                ("cache-imports", "[]"),
                ("context", "https://me:secret@example.com/a.git#main"),
                ("filename", "sub/Dockerfile"),
                ("image-resolve-mode", "pull"),
                ("platform", "linux/amd64"),
                ("target", "out"),
                ("vcs:revision", "c0ffee"),
                ("vcs:source", "https://me:secret@example.com/a.git"),
                ("vcs:localdir:context", ""),
            ],
        );
        let mut capture = Capture::default();
        let address = "https://xxxxx@example.com/a.git#main".to_owned();
        capture.git.insert(address.clone(), "c0ffee".to_owned());
        let told = tell(&[Arc::new(call)], &capture, &Trace::default());
        let Asked { config_source, request } = told.asked;
        assert_eq!(
            config_source,
            Origin {
                uri: address,
                digest: [("sha1".to_owned(), "c0ffee".to_owned())].into(),
                path: "sub/Dockerfile".to_owned(),
            }
        );
        let args = [("build-arg:HTTP_PROXY", "http://xxxxx@proxy:1"), ("target", "out")];
        let args = args.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(
            (request.frontend.as_str(), request.args),
            ("dockerfile.v0", args.into())
        );
        let vcs = [("revision", "c0ffee"), ("source", "https://xxxxx@example.com/a.git")];
        assert_eq!(
            told.vcs,
            vcs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        );
        assert!(told.is_complete && request.root.is_none());
    }

    #[test]
    fn what_led_to_a_request_is_told_too() {
        let inner = Arc::new(call("gateway.v0", &[("source", "docker/dockerfile:1")]));
        let outer = Arc::new(call("dockerfile.v0", &[("filename", "Dockerfile")]));
        let mut capture = Capture::default();
        capture.secrets.insert("key".to_owned(), true);
        let told = tell(&[inner, outer], &capture, &Trace::default());
        let request = told.asked.request;
        assert_eq!((request.frontend.as_str(), request.secrets.len()), ("gateway.v0", 1));
        let root = request.root.unwrap();
        assert_eq!(
            (root.request.frontend.as_str(), root.config_source.path.as_str()),
            ("dockerfile.v0", "Dockerfile")
        );
        assert!(root.request.secrets.is_empty());
    }

    #[test]
    fn inputs_from_elsewhere_make_it_incomplete() {
        let mut with_input = call("dockerfile.v0", &[]);
        with_input
            .request
            .inputs
            .insert("base".to_owned(), Definition::default());
        let told = tell(&[Arc::new(with_input)], &Capture::default(), &Trace::default());
        assert!(!told.is_complete && told.asked.request.inputs.is_empty());
        let told = tell(&[], &Capture::default(), &Trace::default());
        assert!(told.is_complete && told.asked.request.frontend.is_empty());
    }
}
