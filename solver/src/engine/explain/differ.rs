//! What differs between two preimages.

use std::collections::BTreeMap;

use super::Cause;
use super::sites::unpinned;
use super::text::{clipped_value, masked};
use crate::cache_key::{InputPart, Preimage};
use crate::index::Known;

/// Something that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// In the step itself.
    Own(Cause),
    /// What a selector finds in an input that counts by content: position of the input, and of the selector.
    Content(usize, usize),
    /// The key of an input that counts by it.
    Input(usize),
}

/// Everything that differs, the most telling first: what the step does, what it reads, what it builds on.
pub(super) fn differences(old: &Known, new: &Known) -> Vec<Difference> {
    let mut found: Vec<Difference> = if new.preimage.kind == "source" {
        source(&old.preimage, new).into_iter().map(Difference::Own).collect()
    } else {
        own(old, new).into_iter().map(Difference::Own).collect()
    };
    let (old, new) = (&old.preimage.inputs, &new.preimage.inputs);
    let mut whole = Vec::new();
    for (position, (old, new)) in old.iter().zip(new).enumerate() {
        match (old, new) {
            (InputPart::Content(old), InputPart::Content(new)) => {
                let differing = old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new);
                found.extend(differing.map(|(selector, _)| Difference::Content(position, selector)));
            }
            (old, new) if old != new => whole.push(Difference::Input(position)),
            _ => {}
        }
    }
    found.extend(whole);
    if old.len() != new.len() {
        found.push(Difference::Own(property(
            "number of inputs",
            Some(&old.len().to_string()),
            Some(&new.len().to_string()),
        )));
    }
    found
}

/// How far two preimages are from each other.
pub(super) fn distance(old: &Known, new: &Known) -> usize {
    differences(old, new).len()
}

fn property(name: &str, old: Option<&str>, new: Option<&str>) -> Cause {
    Cause::Property {
        name: name.to_owned(),
        old: old.map(clipped_value),
        new: new.map(clipped_value),
    }
}

/// The parts of a source by name. Its pin says the same in a way that is not for reading.
fn source(old: &Preimage, new: &Known) -> Vec<Cause> {
    let (old, now): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (old.fields.iter().collect(), new.preimage.fields.iter().collect());
    let mut names: Vec<&str> = old.keys().chain(now.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    let named = now.get("reference").or(now.get("directory")).copied();
    let name = unpinned(named.unwrap_or(&new.evidence.name));
    let differing = names.into_iter().filter(|part| {
        let (old, new) = (old.get(part), now.get(part));
        let same_name = old.zip(new).is_some_and(|(old, new)| unpinned(old) == unpinned(new));
        *part != "pin" && old != new && !same_name
    });
    differing
        .map(|part| Cause::Source {
            name: clipped_value(&name),
            part: part.to_owned(),
            old: old.get(part).map(|value| clipped_value(value)),
            new: now.get(part).map(|value| clipped_value(value)),
        })
        .collect()
}

/// The step's own fields: its command, its variables, and the rest by name.
fn own(old: &Known, new: &Known) -> Vec<Cause> {
    let mut causes = Vec::new();
    let declared = [&old.evidence.arguments[..], &new.evidence.arguments[..]].concat();
    let (old, new) = (&old.preimage, &new.preimage);
    let (before, now) = (by_name(old), by_name(new));
    let (old_args, new_args) = (values(&before, "arg"), values(&now, "arg"));
    if old_args != new_args {
        causes.push(Cause::Command {
            old: clipped_value(&command(&old_args)),
            new: clipped_value(&command(&new_args)),
        });
    }
    causes.extend(variables(&values(&before, "env"), &values(&now, "env"), &declared));
    // In the order of the step's fields, then what is not there any more.
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in new.fields.iter().chain(old.fields.iter()) {
        if !matches!(name, "arg" | "env" | "action") && !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        causes.extend(pairs(name, values(&before, name), values(&now, name)));
    }
    if causes.is_empty() && old.fields != new.fields {
        causes.push(property("order of what it does", None, None));
    }
    causes
}

fn values<'a>(fields: &BTreeMap<&str, Vec<&'a str>>, name: &str) -> Vec<&'a str> {
    fields.get(name).cloned().unwrap_or_default()
}

fn by_name(preimage: &Preimage) -> BTreeMap<&str, Vec<&str>> {
    let mut fields: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in preimage.fields.iter() {
        fields.entry(name).or_default().push(value);
    }
    fields
}

/// A command as it was written, without the shell that runs it.
fn command(args: &[&str]) -> String {
    match args {
        ["/bin/sh", "-c", script] => (*script).to_owned(),
        args => args.join(" "),
    }
}

fn variables(old: &[&str], new: &[&str], arguments: &[String]) -> Vec<Cause> {
    let split = |env: &[&str]| -> BTreeMap<String, String> {
        let pairs = env.iter().map(|entry| entry.split_once('=').unwrap_or((*entry, "")));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (before, now) = (split(old), split(new));
    let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differing = names.into_iter().filter(|name| before.get(*name) != now.get(*name));
    let mut causes: Vec<Cause> = differing
        .map(|name| Cause::Variable {
            name: clipped_value(name),
            old: before.get(name).map(|value| masked(name, value)),
            new: now.get(name).map(|value| masked(name, value)),
            is_argument: arguments.contains(name),
        })
        .collect();
    // What the user passes comes before what follows from it.
    causes.sort_by_key(|cause| !matches!(cause, Cause::Variable { is_argument: true, .. }));
    causes
}

/// Values of one field that only one side has, matched up in their order.
fn pairs(name: &str, mut old: Vec<&str>, mut new: Vec<&str>) -> Vec<Cause> {
    new.retain(|value| match old.iter().position(|known| known == value) {
        Some(at) => {
            old.remove(at);
            false
        }
        None => true,
    });
    let longest = old.len().max(new.len());
    let name = shown(name);
    (0..longest)
        .map(|at| property(name, old.get(at).copied(), new.get(at).copied()))
        .collect()
}

/// Names of fields as people say them.
fn shown(field: &str) -> &str {
    match field {
        "cwd" => "working directory",
        "copy" => "source path",
        "dest" => "destination",
        "data" => "contents of the file",
        "mkdir" => "directory",
        "mkfile" => "file",
        "rm" => "removed path",
        "secret env" => "secret variable",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Evidence;

    fn known(fields: &[(&str, &str)]) -> Known {
        Known {
            preimage: Preimage {
                kind: "exec".into(),
                fields: fields.iter().copied().collect(),
                inputs: Vec::new(),
            },
            evidence: Evidence {
                arguments: vec!["VERSION".to_owned()],
                ..Evidence::default()
            },
        }
    }

    fn told(old: &[(&str, &str)], new: &[(&str, &str)]) -> Vec<String> {
        let found = differences(&known(old), &known(new));
        let causes = found.into_iter().map(|difference| match difference {
            Difference::Own(cause) => cause.to_string(),
            other => format!("{other:?}"),
        });
        causes.collect()
    }

    #[test]
    fn differences_have_names() {
        let sh = [("arg", "/bin/sh"), ("arg", "-c"), ("arg", "make")];
        let other = [("arg", "/bin/sh"), ("arg", "-c"), ("arg", "make all")];
        assert_eq!(told(&sh, &other), ["command changed: `make` → `make all`"]);
        assert_eq!(
            told(
                &[("env", "VERSION=1.2"), ("env", "A=1")],
                &[("env", "A=2"), ("env", "VERSION=1.3")]
            ),
            ["argument `VERSION` 1.2 → 1.3", "variable `A` 1 → 2"]
        );
        assert_eq!(
            told(&[("env", "A=1")], &[]),
            ["variable `A` is not set any more (was 1)"]
        );
        assert_eq!(told(&[], &[("env", "A=1")]), ["variable `A` is new: 1"]);
        assert_eq!(told(&[("user", "a")], &[("user", "b")]), ["user changed: `a` → `b`"]);
        assert_eq!(told(&[], &[("cwd", "/x")]), ["working directory is new: `/x`"]);
        assert_eq!(
            told(&[("mount", "/a"), ("mount", "/b")], &[("mount", "/b"), ("mount", "/a")]),
            ["order of what it does changed"]
        );
    }

    #[test]
    fn secrets_are_not_told() {
        let changed = told(&[("env", "NPM_TOKEN=hunter2")], &[("env", "NPM_TOKEN=hunter3")]);
        assert_eq!(changed, ["variable `NPM_TOKEN` *** → ***"]);
        let changed = told(&[("env", "URL=https://me:pw@x/")], &[("env", "URL=https://me:qw@y/")]);
        assert_eq!(changed, ["variable `URL` https://***@x/ → https://***@y/"]);
    }
}
