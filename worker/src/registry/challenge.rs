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

/// What a server says was wrong with the token that it was shown (RFC 6750, section 3.1).
pub(super) fn problem(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    let mut problems = values.filter_map(|value| {
        let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
        let is_bearer = scheme.eq_ignore_ascii_case("bearer");
        is_bearer.then(|| parameters(rest).remove("error")).flatten()
    });
    problems.find(|problem| !problem.is_empty())
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

    #[test]
    fn what_was_wrong_with_a_token_is_read() {
        for (value, want) in [
            (
                r#"Bearer realm="r",error="insufficient_scope""#,
                Some("insufficient_scope"),
            ),
            (r#"bearer realm="r",error=invalid_token"#, Some("invalid_token")),
            (r#"Bearer realm="r",error="""#, None),
            (r#"Basic realm="r",error="x""#, None),
            ("Bearer", None),
        ] {
            let headers = [(WWW_AUTHENTICATE, value.parse().unwrap())].into_iter().collect();
            assert_eq!(problem(&headers).as_deref(), want, "{value}");
        }
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
