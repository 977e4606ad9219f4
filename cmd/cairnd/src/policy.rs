//! Source policies of clients: the rules that they send, and those among them that decide while the build runs.

mod session;

use std::sync::Arc;

use cairn_proto::sourcepolicy::{self as wire, AttrMatch, MatchType, PolicyAction};
use cairn_solver::policy::{Action, Condition, Constraint, MatchKind, Policy, Rule, Selector, Update};

pub(crate) use self::session::SessionJudge;
use crate::failure::Failure;

/// Most policies of one request.
const MAX_POLICIES: usize = 16;

/// Gets policies from the wire ready for use.
///
/// # Errors
/// If one is malformed, or holds more than this daemon accepts.
pub(crate) async fn from_wire(policies: Vec<wire::Policy>) -> Result<Vec<Arc<Policy>>, Failure> {
    if policies.iter().all(|policy| policy.rules.is_empty()) {
        return Ok(Vec::new());
    }
    if policies.len() > MAX_POLICIES {
        return Err(Failure::unknown(format!(
            "invalid source policies: at most {MAX_POLICIES} are accepted"
        )));
    }
    let ready = tokio::task::spawn_blocking(move || policies.into_iter().map(policy).collect());
    ready
        .await
        .map_err(|error| Failure::unknown(format!("internal error: reading source policies: {error}")))?
}

fn policy(policy: wire::Policy) -> Result<Arc<Policy>, Failure> {
    let rules: Vec<Rule> = policy.rules.into_iter().map(rule).collect::<Result<_, _>>()?;
    let policy = Policy::new(rules).map_err(|error| Failure::unknown(error.to_string()))?;
    Ok(Arc::new(policy))
}

fn rule(rule: wire::Rule) -> Result<Rule, Failure> {
    let selector = rule
        .selector
        .ok_or_else(|| Failure::unknown("invalid nil selector in policy"))?;
    let unknown = |what: &str, number: i32| Failure::unknown(format!("source policy: unknown {what}: {number}"));
    let kind = match MatchType::try_from(selector.match_type) {
        Ok(MatchType::Wildcard) => MatchKind::Wildcard,
        Ok(MatchType::Exact) => MatchKind::Exact,
        Ok(MatchType::Regex) => MatchKind::Regex,
        Err(_) => return Err(unknown("match type", selector.match_type)),
    };
    let constraints = selector.constraints.into_iter().map(|constraint| {
        let condition = match AttrMatch::try_from(constraint.condition) {
            Ok(AttrMatch::Equal) => Condition::Equal,
            Ok(AttrMatch::Notequal) => Condition::NotEqual,
            Ok(AttrMatch::Matches) => Condition::Matches,
            Err(_) => return Err(unknown("attr condition", constraint.condition)),
        };
        Ok(Constraint {
            key: constraint.key,
            value: constraint.value,
            condition,
        })
    });
    Ok(Rule {
        action: match PolicyAction::try_from(rule.action) {
            Ok(PolicyAction::Allow) => Action::Allow,
            Ok(PolicyAction::Deny) => Action::Deny,
            Ok(PolicyAction::Convert) => Action::Convert,
            Err(_) => return Err(unknown("action", rule.action)),
        },
        selector: Selector {
            identifier: selector.identifier,
            kind,
            constraints: constraints.collect::<Result<_, _>>()?,
        },
        update: rule.updates.map(|update| Update {
            identifier: update.identifier,
            attrs: update.attrs,
        }),
    })
}

/// Policies of clients: what they make of a source is bounded, and is not made into something else by them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(data: &[u8]) {
    use cairn_solver::RawSource;
    use cairn_solver::policy::MAX_TEXT;
    use prost::Message as _;

    let Ok(wire) = wire::Policy::decode(data) else { return };
    let Ok(policy) = policy(wire) else { return };
    let source = RawSource {
        identifier: "docker-image://docker.io/library/alpine:latest".to_owned(),
        attrs: [("image.resolvemode".to_owned(), "pull".to_owned())].into(),
    };
    let policies = [policy];
    if let Ok(Some(changed)) = Policy::apply_all(&policies, &source) {
        assert!(changed.identifier.len() <= MAX_TEXT, "an identifier without bounds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_no_policy_can_be_is_refused() {
        let selector = || wire::Selector {
            identifier: "a".to_owned(),
            ..wire::Selector::default()
        };
        let rule = |change: fn(&mut wire::Rule)| {
            let mut rule = wire::Rule {
                selector: Some(selector()),
                ..wire::Rule::default()
            };
            change(&mut rule);
            rule
        };
        for (rule, want) in [
            (rule(|rule| rule.selector = None), "invalid nil selector in policy"),
            (rule(|rule| rule.action = 7), "source policy: unknown action: 7"),
            (
                rule(|rule| rule.selector.as_mut().unwrap().match_type = 7),
                "source policy: unknown match type: 7",
            ),
            (
                rule(|rule| {
                    let selector = rule.selector.as_mut().unwrap();
                    selector.constraints.push(wire::AttrConstraint {
                        condition: -1,
                        ..Default::default()
                    });
                }),
                "source policy: unknown attr condition: -1",
            ),
            (
                rule(|rule| rule.selector.as_mut().unwrap().identifier = "**".to_owned()),
                "invalid source policy: rule 1: failed to translate wildcard \"**\" to regexp: invalid wildcard: \"**\"",
            ),
        ] {
            let policy = wire::Policy {
                version: 1,
                rules: vec![rule],
            };
            let failure = from_wire(vec![policy]).await.unwrap_err();
            assert_eq!(failure.message(), want);
        }
        let one = wire::Policy {
            version: 1,
            rules: vec![rule(|_| ())],
        };
        assert!(from_wire(vec![one.clone(); MAX_POLICIES + 1]).await.is_err());
        assert_eq!(from_wire(vec![one, wire::Policy::default()]).await.unwrap().len(), 2);
        assert!(from_wire(vec![wire::Policy::default()]).await.unwrap().is_empty());
    }
}
