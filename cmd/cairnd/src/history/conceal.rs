//! Passwords in what clients say of a build.

/// What stands for something that is not written down.
const CONCEALED: &str = "xxxxx";

/// The same text without what stands before the host of an address in it: credentials belong into no file.
///
/// Values are whole addresses (a context, a proxy) as well as texts with addresses in them (lists of arguments).
pub(crate) fn conceal(text: &str) -> String {
    let mut concealed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        concealed.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | ',');
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        rest = &after[authority.len()..];
        match authority.rsplit_once('@') {
            // The name of an ssh user is part of the address, and no secret.
            Some((user, host)) if user.contains(':') || !before.ends_with("ssh://") => {
                concealed.push_str(CONCEALED);
                concealed.push('@');
                concealed.push_str(host);
            }
            _ => concealed.push_str(authority),
        }
    }
    concealed.push_str(rest);
    concealed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_addresses_are_left_out() {
        for (text, want) in [
            ("", ""),
            ("plain text", "plain text"),
            ("https://example.com/a@b", "https://example.com/a@b"),
            ("https://user:pass@example.com/a#b", "https://xxxxx@example.com/a#b"),
            ("https://token@example.com", "https://xxxxx@example.com"),
            ("https://a@b@example.com/", "https://xxxxx@example.com/"),
            ("ssh://git@example.com/a", "ssh://git@example.com/a"),
            ("ssh://git:pw@example.com/a", "ssh://xxxxx@example.com/a"),
            ("git@example.com:a", "git@example.com:a"),
            ("a=http://u:p@x,b=http://v:q@y", "a=http://xxxxx@x,b=http://xxxxx@y"),
            ("http://u:pä@ö", "http://xxxxx@ö"),
            ("://", "://"),
            ("://@", "://xxxxx@"),
        ] {
            assert_eq!(conceal(text), want, "{text}");
        }
    }
}
