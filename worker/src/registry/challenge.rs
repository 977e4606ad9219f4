//! `WWW-Authenticate` headers (RFC 9110, section 11.6.1).

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// What a server wants to see before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Bearer {
        realm: String,
        service: String,
        scope: String,
    },
    Basic,
}

/// The challenge to meet: a bearer token if there is a choice.
pub(super) fn choose(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let challenges: Vec<Challenge> = values.filter_map(parse).collect();
    let bearer = challenges
        .iter()
        .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(challenges.first()).cloned()
}

fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    let mut take = |name: &str| parameters.remove(name).unwrap_or_default();
    let (realm, service, scope) = (take("realm"), take("service"), take("scope"));
    (!realm.is_empty()).then_some(Challenge::Bearer { realm, service, scope })
}

/// `name=value` pairs, values quoted or not. Stops at what it does not understand.
fn parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        let Some((name, rest)) = text.split_once('=') else {
            return parameters;
        };
        let name = name.trim().to_ascii_lowercase();
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => match unquote(quoted) {
                Some(split) => split,
                None => return parameters,
            },
            None => {
                let end = rest.find([',', ' ']).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        parameters.entry(name).or_insert(value);
        text = rest;
    }
}

/// Reads up to the closing quote; gives the value and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        choose(&headers)
    }

    fn bearer(realm: &str, service: &str, scope: &str) -> Option<Challenge> {
        let [realm, service, scope] = [realm, service, scope].map(str::to_owned);
        Some(Challenge::Bearer { realm, service, scope })
    }

    #[test]
    fn challenges_are_read() {
        for (values, want) in [
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#][..],
                bearer("https://a/t", "s", "repository:x:pull,push"),
            ),
            (
                &[r#"bearer service=s , realm="https://a/\"q\"""#],
                bearer(r#"https://a/"q""#, "s", ""),
            ),
            (&[r#"Basic realm="x""#, r#"Bearer realm="r""#], bearer("r", "", "")),
            (&[r#"Basic realm="x""#], Some(Challenge::Basic)),
            (&["Basic"], Some(Challenge::Basic)),
            (&["Bearer"], None),
            (&[r#"Bearer realm="open"#], None),
            (&["Negotiate abc"], None),
            (&[], None),
        ] {
            assert_eq!(choice(values), want, "{values:?}");
        }
    }
}
