//! Where a step stands, so that successive versions of "the same" step find each other.

use crate::index::{Place, SiteId};

/// The sites of a step, the most telling first: its place in its file, what it says, and what it says wherever it is.
///
/// `scope` tells builds of different things apart; the last site is for clients that build the same thing from another
/// directory each time.
pub(super) fn sites(scope: &str, kind: &str, name: &str, place: Option<&Place>) -> [SiteId; 3] {
    let name = unpinned(name);
    let (label, text) = split(&name);
    let file = place.map_or("", |place| place.file.as_str());
    // Without a label there is only the name to go by.
    let position = label.as_deref().unwrap_or(&name);
    [
        site(&["position", scope, kind, file, position]),
        site(&["text", scope, kind, text]),
        site(&["anywhere", kind, label.as_deref().unwrap_or_default(), text]),
    ]
}

/// What a step says, without its number.
pub(super) fn text_of(name: &str) -> String {
    split(&unpinned(name)).1.to_owned()
}

fn site(parts: &[&str]) -> SiteId {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    SiteId(*hasher.finalize().as_bytes())
}

/// Splits `[stage 2/4] RUN make` into `stage 2` and `RUN make`; the total is left out, since it changes with any step.
fn split(name: &str) -> (Option<String>, &str) {
    let whole = (None, name);
    let Some((label, text)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return whole;
    };
    let Some((number, total)) = label.rsplit_once('/') else {
        return whole;
    };
    if total.is_empty() || !total.bytes().all(|byte| byte.is_ascii_digit()) {
        return whole;
    }
    let words: Vec<&str> = number.split_whitespace().collect();
    (Some(words.join(" ")), text)
}

/// A name without the digests that images in it are pinned to.
pub(super) fn unpinned(name: &str) -> String {
    const MARK: &str = "@sha256:";
    const HEX: usize = 64;
    let mut rest = name;
    let mut unpinned = String::with_capacity(name.len());
    while let Some(at) = rest.find(MARK) {
        let (before, mark) = rest.split_at(at);
        let hex = &mark[MARK.len()..];
        unpinned.push_str(before);
        if hex.len() >= HEX && hex.bytes().take(HEX).all(|byte| byte.is_ascii_hexdigit()) {
            rest = &hex[HEX..];
        } else {
            unpinned.push_str(MARK);
            rest = hex;
        }
    }
    unpinned.push_str(rest);
    unpinned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let hex = "a".repeat(64);
        let from = format!("[1/3] FROM docker.io/library/alpine:3@sha256:{hex}");
        for (name, label, text) in [
            ("[2/4] RUN make", Some("2"), "RUN make"),
            ("[builder  2/14] RUN a/b", Some("builder 2"), "RUN a/b"),
            (
                "[linux/amd64 builder 2/4] RUN x",
                Some("linux/amd64 builder 2"),
                "RUN x",
            ),
            ("[internal] load build context", None, "[internal] load build context"),
            ("[a/b] x", None, "[a/b] x"),
            ("make", None, "make"),
            ("[", None, "["),
            (&from, Some("1"), "FROM docker.io/library/alpine:3"),
        ] {
            let name = unpinned(name);
            let (found, rest) = split(&name);
            assert_eq!((found.as_deref(), rest), (label, text), "{name}");
        }
        assert_eq!(unpinned("x@sha256:zz ü"), "x@sha256:zz ü");
    }

    #[test]
    fn a_step_that_moves_is_found_by_what_it_says() {
        let at = |scope: &str, name: &str| sites(scope, "exec", name, None);
        let (here, moved) = (at("s", "[2/3] RUN a"), at("s", "[3/4] RUN a"));
        assert_ne!(here[0], moved[0]);
        assert_eq!(here[1], moved[1]);
        let changed = at("s", "[2/4] RUN b");
        assert_eq!(here[0], changed[0]);
        assert_ne!(here[1], changed[1]);
        let elsewhere = at("t", "[2/3] RUN a");
        assert_ne!(here[0], elsewhere[0]);
        assert_ne!(here[1], elsewhere[1]);
        assert_eq!(here[2], elsewhere[2]);
    }
}
