//! The source policy of a build: a file in the JSON form that BuildKit's clients read, named by a variable.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use cairn_proto::sourcepolicy::{self as wire, AttrMatch, MatchType, PolicyAction};
use serde::Deserialize;

use crate::error::CliError;
use crate::surroundings::Surroundings;

/// Names the file; the name is the one that other clients know.
const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
/// Largest file.
const MAX_BYTES: u64 = 4 << 20;

/// The policy that the variable names, if it does.
pub(super) fn read(surroundings: &Surroundings) -> Result<Option<wire::Policy>, CliError> {
    let Some(path) = surroundings.variable(VARIABLE).map(|path| surroundings.path(path)) else {
        return Ok(None);
    };
    let text = read_file(&path).map_err(|source| CliError::File {
        action: "read the source policy",
        path: path.clone(),
        source,
    })?;
    let malformed = |reason: String| CliError::Malformed {
        what: format!("the source policy {}", path.display()),
        reason,
    };
    if text.len() as u64 > MAX_BYTES {
        return Err(malformed(format!("it is larger than {MAX_BYTES} bytes")));
    }
    parse(&text).map(Some).map_err(malformed)
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn parse(text: &[u8]) -> Result<wire::Policy, String> {
    let policy: Policy = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok(wire::Policy {
        version: policy.version,
        rules: policy
            .rules
            .into_iter()
            .map(Rule::into_wire)
            .collect::<Result<_, _>>()?,
    })
}

// What is not known is an error: a policy that does less than its author thinks is worse than none.

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    action: Choice,
    selector: Selector,
    updates: Option<Update>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    identifier: String,
    #[serde(default, alias = "matchType")]
    match_type: Choice,
    #[serde(default)]
    constraints: Vec<Constraint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Constraint {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: Choice,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// One of several, by name or by number; the first if it is left out.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Choice {
    Number(i32),
    Name(String),
}

impl Default for Choice {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Choice {
    fn number<T: TryFrom<i32> + Into<i32>>(
        self,
        what: &str,
        by_name: impl Fn(&str) -> Option<T>,
    ) -> Result<i32, String> {
        match self {
            Self::Number(number) => T::try_from(number)
                .map(T::into)
                .map_err(|_| format!("invalid {what} value: {number}")),
            Self::Name(name) => by_name(&name)
                .map(T::into)
                .ok_or_else(|| format!("invalid {what} value: {name:?}")),
        }
    }
}

impl Rule {
    fn into_wire(self) -> Result<wire::Rule, String> {
        let constraints = self.selector.constraints.into_iter().map(|constraint| {
            Ok(wire::AttrConstraint {
                key: constraint.key,
                value: constraint.value,
                condition: constraint.condition.number("condition", AttrMatch::from_str_name)?,
            })
        });
        Ok(wire::Rule {
            action: self.action.number("action", PolicyAction::from_str_name)?,
            selector: Some(wire::Selector {
                identifier: self.selector.identifier,
                match_type: self
                    .selector
                    .match_type
                    .number("match type", MatchType::from_str_name)?,
                constraints: constraints.collect::<Result<_, String>>()?,
            }),
            updates: self.updates.map(|update| wire::Update {
                identifier: update.identifier,
                attrs: update.attrs,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_other_clients_read_them() {
        let text = r#"{"version": 1, "rules": [
            {"action": "DENY", "selector": {"identifier": "docker-image://*"}},
            {"action": 2, "selector": {"identifier": "a", "match_type": "REGEX",
                "constraints": [{"key": "k", "value": "v", "condition": "NOTEQUAL"}]},
             "updates": {"identifier": "b", "attrs": {"http.checksum": "x"}}},
            {"selector": {"matchType": 1}}]}"#;
        let policy = parse(text.as_bytes()).unwrap();
        let [deny, convert, bare] = &policy.rules[..] else {
            panic!("{policy:?}")
        };
        assert_eq!((policy.version, deny.action()), (1, PolicyAction::Deny));
        assert_eq!(convert.action(), PolicyAction::Convert);
        let selector = convert.selector.as_ref().unwrap();
        assert_eq!(selector.match_type(), MatchType::Regex);
        assert_eq!(selector.constraints[0].condition(), AttrMatch::Notequal);
        assert_eq!(convert.updates.as_ref().unwrap().attrs["http.checksum"], "x");
        assert_eq!(bare.selector.as_ref().unwrap().match_type(), MatchType::Exact);
        assert_eq!(bare.action(), PolicyAction::Allow);
    }

    #[test]
    fn what_would_not_be_heeded_is_refused() {
        for (text, want) in [
            ("{", "EOF"),
            (r#"{"rule": []}"#, "unknown field `rule`"),
            (r#"{"rules": [{"action": "DENY"}]}"#, "missing field `selector`"),
            (
                r#"{"rules": [{"action": "REFUSE", "selector": {}}]}"#,
                "invalid action value: \"REFUSE\"",
            ),
            (
                r#"{"rules": [{"action": 7, "selector": {}}]}"#,
                "invalid action value: 7",
            ),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
