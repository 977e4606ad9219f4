use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// A rule on identifiers alone; `into` is for rules that convert.
fn rule(action: Action, kind: MatchKind, identifier: &str, into: Option<&str>) -> Rule {
    Rule {
        action,
        selector: Selector {
            identifier: identifier.to_owned(),
            kind,
            constraints: Vec::new(),
        },
        update: into.map(|into| Update {
            identifier: into.to_owned(),
            attrs: BTreeMap::new(),
        }),
    }
}

fn allow(identifier: &str) -> Rule {
    rule(Action::Allow, MatchKind::Wildcard, identifier, None)
}

fn deny(identifier: &str) -> Rule {
    rule(Action::Deny, MatchKind::Wildcard, identifier, None)
}

fn convert(identifier: &str, into: &str) -> Rule {
    rule(Action::Convert, MatchKind::Wildcard, identifier, Some(into))
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> RawSource {
    let attrs = attrs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    RawSource {
        identifier: identifier.to_owned(),
        attrs: attrs.collect(),
    }
}

fn apply(policies: Vec<Vec<Rule>>, source: &RawSource) -> Result<RawSource, PolicyError> {
    let policies: Vec<_> = policies
        .into_iter()
        .map(|rules| Arc::new(Policy::new(rules).unwrap()))
        .collect();
    let changed = Policy::apply_all(&policies, source)?;
    assert_ne!(changed.as_ref(), Some(source), "what changed nothing is no change");
    Ok(changed.unwrap_or_else(|| source.clone()))
}

/// The identifier that rules leave, or the error's text.
fn outcome(rules: Vec<Rule>, identifier: &str) -> String {
    match apply(vec![rules], &source(identifier, &[])) {
        Ok(source) => source.identifier,
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_last_of_the_rules_that_allow_or_deny_counts() {
    let denied = "source \"a\" denied by policy: source denied by policy";
    for (rules, want) in [
        (vec![], "a"),
        (vec![deny("b")], "a"),
        (vec![deny("a")], denied),
        (vec![deny("a"), allow("a")], "a"),
        (vec![allow("a"), deny("a")], denied),
        (vec![deny("*"), allow("b")], denied),
        (vec![allow("a"), deny("*"), allow("*")], "a"),
    ] {
        assert_eq!(outcome(rules.clone(), "a"), want, "{rules:?}");
    }
    // What one policy allows, another may still deny.
    let both = |first: Rule, second: Rule| apply(vec![vec![first], vec![second]], &source("a", &[]));
    assert_eq!(both(deny("a"), allow("a")), Err(PolicyError::Denied("a".to_owned())));
    assert_eq!(both(allow("a"), deny("a")), Err(PolicyError::Denied("a".to_owned())));
}

#[test]
fn patterns_match_as_their_kind_says() {
    use MatchKind::{Exact, Regex, Wildcard};
    for (kind, pattern, text, want) in [
        (Exact, "a:1", "a:1", true),
        (Exact, "a:*", "a:1", false),
        (Wildcard, "a:*", "a:1", true),
        (Wildcard, "a:*", "a:", true),
        (Wildcard, "a:*", "xa:1", false),
        (Wildcard, "*/a", "x/y/a", true),
        (Wildcard, "*/a", "x/y/ab", false),
        (Wildcard, "a*b*c", "a-b-b-c", true),
        (Wildcard, "a*a", "a", false),
        (Wildcard, "", "", true),
        (Wildcard, "", "a", false),
        // Nothing but the star is special; not even what is in other languages of patterns.
        (Wildcard, "a?c", "abc", false),
        (Wildcard, "a?c", "a?c", true),
        (Wildcard, "a.c", "abc", false),
        (Wildcard, "[a]*", "ab", false),
        (Regex, "b", "abc", true),
        (Regex, "^b", "abc", false),
        (Regex, "^a.c$", "abc", true),
        // Equality counts whatever the pattern is.
        (Regex, "^a+$", "^a+$", true),
    ] {
        let rules = vec![rule(Action::Deny, kind, pattern, None)];
        let is_denied = apply(vec![rules], &source(text, &[])).is_err();
        assert_eq!(is_denied, want, "{kind:?} {pattern} {text}");
    }
}

#[test]
fn conversions_write_what_was_matched() {
    use MatchKind::{Exact, Regex, Wildcard};
    for (kind, pattern, into, text, want) in [
        (Exact, "http://a", "http://b/$1", "http://a", "http://b/$1"),
        (Wildcard, "img:*", "img:${1}-slim", "img:1.2", "img:1.2-slim"),
        (Wildcard, "img:*", "img:$1-slim", "img:1.2", "img:1.2-slim"),
        (Wildcard, "*/img:*", "$2/$1/$0", "a/b/img:1", "1/a/b/a/b/img:1"),
        (Wildcard, "a*b*c", "$1|$2", "axbybzc", "xby|z"),
        (Wildcard, "a:*", "b:$1x$$/${/$", "a:1", "b:$/${/$"),
        (Wildcard, "a:*", "b:$9${name}", "a:1", "b:"),
        (
            Regex,
            r"^(https?)://(?P<host>[^/]+)",
            "${1}://mirror.$host",
            "http://a/b",
            "http://mirror.a/b",
        ),
        (Regex, "o", "0", "foo/o", "f00/0"),
        (Regex, "(x)?a", "b$1", "a", "b"),
    ] {
        let once = Policy::new(vec![rule(Action::Convert, kind, pattern, Some(into))]).unwrap();
        let made = once.judge(&source(text, &[])).unwrap();
        let made = made.map_or_else(|| text.to_owned(), |made| made.identifier);
        assert_eq!(made, want, "{kind:?} {pattern} {into}");
    }
}

#[test]
fn what_was_converted_is_looked_at_from_the_beginning() {
    let rules = vec![deny("c"), convert("a", "b"), convert("b", "c")];
    assert_eq!(
        outcome(rules.clone(), "a"),
        "source \"c\" denied by policy: source denied by policy"
    );
    assert_eq!(outcome(rules, "d"), "d");
    // A change ends the pass, so what denies after it does not see the old source.
    assert_eq!(outcome(vec![convert("a", "b"), deny("a")], "a"), "b");
    // A rule that changes nothing lets those after it have their say.
    assert!(outcome(vec![convert("a", "a"), deny("a")], "a").contains("denied"));
    // The first policy sees what the second one wrote.
    let policies = vec![vec![deny("b")], vec![convert("a", "b")]];
    assert_eq!(
        apply(policies, &source("a", &[])),
        Err(PolicyError::Denied("b".to_owned()))
    );
}

#[test]
fn conversions_come_to_an_end() {
    let chain = |length: usize| (0..length).map(|n| convert(&format!("a{n}"), &format!("a{}", n + 1)));
    assert_eq!(outcome(chain(20).collect(), "a0"), "a20");
    let endless = "too many mutations on a single source: too many operations";
    assert_eq!(outcome(chain(21).collect(), "a0"), endless);
    assert_eq!(outcome(vec![convert("a", "b"), convert("b", "a")], "a"), endless);
    assert_eq!(outcome(vec![convert("*", "x$1")], "a"), endless);
    // What doubles every time is too long long before that.
    let doubling = vec![convert("*", &"$1".repeat(4000))];
    assert!(outcome(doubling, &"a".repeat(100)).contains("more than 8192 bytes"));
}

#[test]
fn attributes_are_tested_and_set() {
    let constraint = |key: &str, condition: Condition, value: &str| Constraint {
        key: key.to_owned(),
        value: value.to_owned(),
        condition,
    };
    use Condition::{Equal, Matches, NotEqual};
    for (constraints, want) in [
        (vec![constraint("k", Equal, "v")], true),
        (vec![constraint("k", Equal, "w")], false),
        (vec![constraint("none", Equal, "")], true),
        (vec![constraint("k", NotEqual, "w")], true),
        (vec![constraint("none", NotEqual, "")], false),
        (vec![constraint("k", Matches, "^[u-w]$")], true),
        (vec![constraint("none", Matches, "^$")], true),
        (vec![constraint("k", Equal, "v"), constraint("k", NotEqual, "v")], false),
    ] {
        let mut rule = deny("a");
        rule.selector.constraints.clone_from(&constraints);
        let is_denied = apply(vec![vec![rule]], &source("a", &[("k", "v")])).is_err();
        assert_eq!(is_denied, want, "{constraints:?}");
    }
    let mut rule = convert("http://a", "");
    rule.update.as_mut().unwrap().attrs = BTreeMap::from([("http.checksum".to_owned(), "new".to_owned())]);
    let before = source("http://a", &[("http.checksum", "old"), ("http.filename", "f")]);
    let after = source("http://a", &[("http.checksum", "new"), ("http.filename", "f")]);
    assert_eq!(apply(vec![vec![rule]], &before), Ok(after));
}

#[test]
fn what_was_said_of_another_kind_of_source_is_left_out() {
    let rules = vec![convert("docker-image://a", "http://a")];
    let before = source("docker-image://a", &[("image.resolvemode", "pull")]);
    assert_eq!(apply(vec![rules], &before), Ok(source("http://a", &[])));
    let rules = vec![convert("http://a", "https://a")];
    let before = source("http://a", &[("http.filename", "f")]);
    assert_eq!(
        apply(vec![rules], &before),
        Ok(source("https://a", &[("http.filename", "f")]))
    );
}

#[test]
fn malformed_rules_are_refused() {
    let broken = |rules: Vec<Rule>| Policy::new(rules).unwrap_err().to_string();
    assert_eq!(
        broken(vec![allow("a"), deny("a**")]),
        "invalid source policy: rule 2: failed to translate wildcard \"a**\" to regexp: invalid wildcard: \"**\""
    );
    let regex = |text: &str| rule(Action::Deny, MatchKind::Regex, text, None);
    assert!(broken(vec![regex("(")]).starts_with("invalid source policy: rule 1: invalid regex \"(\": "));
    for bomb in [
        "(a{1000}){1000}".to_owned(),
        format!("{}a{}", "(".repeat(1000), ")".repeat(1000)),
        "\\pL{5000}".to_owned(),
    ] {
        broken(vec![regex(&bomb)]);
    }
    assert!(broken(vec![deny(&"a".repeat(MAX_TEXT + 1))]).contains("rule 1: a text of more than"));
    assert!(broken(vec![deny("a"); MAX_RULES + 1]).contains("rules: at most"));
    assert!(broken(vec![regex("a"); MAX_EXPRESSIONS + 1]).contains("regular expressions: at most"));
    assert_eq!(
        outcome(vec![rule(Action::Convert, MatchKind::Wildcard, "a", None)], "a"),
        "error mutating source policy: missing destination for convert rule"
    );
}

/// The same pattern as a regular expression.
fn as_regex(wildcard: &str) -> regex::Regex {
    let parts: Vec<String> = wildcard.split('*').map(regex::escape).collect();
    regex::Regex::new(&format!("(?s)^{}$", parts.join("(.*)"))).unwrap()
}

proptest! {
    #[test]
    fn wildcards_are_regular_expressions(pattern in "([*]?[ab]){0,5}[*]?", text in "[ab]{0,12}") {
        let selector = Selector { identifier: pattern.clone(), kind: MatchKind::Wildcard, constraints: Vec::new() };
        let ours = Pattern::new(&selector).unwrap();
        let theirs = as_regex(&pattern);
        prop_assert_eq!(ours.matches(&text), theirs.is_match(&text));
        if let Some(captures) = theirs.captures(&text) {
            let mut want = String::new();
            captures.expand("<$1|$2|$3|$0>", &mut want);
            prop_assert_eq!(ours.replace(&text, "<$1|$2|$3|$0>"), Some(want));
        }
    }

    #[test]
    fn templates_are_those_of_regular_expressions(template in "[$ab12_{}/]{0,12}", text in "[ab]{1,6}") {
        let regex = regex::Regex::new("^(?P<a>a*)(b?)").unwrap();
        // A name in braces holds letters alone.
        prop_assume!(!regex::Regex::new(r"\$\{[^}]*[^A-Za-z0-9_}][^}]*\}|\$\{\}").unwrap().is_match(&template));
        let want = regex.replace_all(&text, template.as_str()).into_owned();
        let selector = Selector { identifier: regex.as_str().to_owned(), kind: MatchKind::Regex, constraints: Vec::new() };
        prop_assert_eq!(Pattern::new(&selector).unwrap().replace(&text, &template), Some(want));
    }

    #[test]
    fn nothing_is_too_much(
        rules in proptest::collection::vec((0..3_u8, 0..3_u8, "\\PC{0,8}", "\\PC{0,8}"), 0..6),
        identifier in "\\PC{0,12}",
    ) {
        let rules = rules.into_iter().map(|(action, kind, selector, into)| {
            let action = [Action::Allow, Action::Deny, Action::Convert][usize::from(action)];
            let kind = [MatchKind::Wildcard, MatchKind::Exact, MatchKind::Regex][usize::from(kind)];
            rule(action, kind, &selector, Some(&into))
        });
        if let Ok(policy) = Policy::new(rules.collect()) {
            let policies = [Arc::new(policy)];
            let given = source(&identifier, &[]);
            if let Ok(Some(changed)) = Policy::apply_all(&policies, &given) {
                prop_assert!(changed.identifier.len() <= MAX_TEXT);
                // What is left stays as it is.
                prop_assert_eq!(Policy::apply_all(&policies, &changed), Ok(None));
            }
        }
    }
}
