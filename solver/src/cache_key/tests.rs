//! What changes a key, and what does not.

mod documented;
mod fields;

use std::collections::BTreeSet;

use super::*;
use crate::Digest;

#[test]
fn moving_text_between_fields_changes_the_key() {
    let with = |fields: &[(&str, &str)]| {
        Preimage {
            kind: "exec".into(),
            fields: fields.iter().copied().collect(),
            inputs: Vec::new(),
        }
        .key()
    };
    let keys = [
        with(&[("arg", "ab")]),
        with(&[("arg", "a"), ("arg", "b")]),
        with(&[("arg", "a"), ("env", "b")]),
        with(&[("arga", "b")]),
    ];
    for (i, a) in keys.iter().enumerate() {
        for b in &keys[i + 1..] {
            assert_ne!(a, b);
        }
    }
}

#[test]
fn keys_are_stable_across_releases() {
    let preimage = Preimage {
        kind: "file".into(),
        fields: [("copy", "/a")].into_iter().collect(),
        inputs: vec![InputPart::Content(vec![Digest::from_sha256([0; 32])])],
    };
    assert_eq!(
        preimage.key().to_string(),
        "blake3:835074d17e6bda53935f3f7cfb7d87ff428a35d2f3db0876cfe53eaa5981cba3"
    );
}

#[test]
fn content_keys_differ_by_everything_that_is_selected() {
    let selector = ContentSelector::default();
    let input = CacheKey::from_bytes([1; 32]);
    let result = ResultId::new("r");
    let mut keys = vec![
        content_key(&input, 0, Some(&result), &selector),
        content_key(&CacheKey::from_bytes([2; 32]), 0, Some(&result), &selector),
        content_key(&input, 1, Some(&result), &selector),
        content_key(&input, 0, Some(&ResultId::new("q")), &selector),
        content_key(&input, 0, None, &selector),
    ];
    let changes: [fn(&mut ContentSelector); 6] = [
        |selector| selector.path = "/a".to_owned(),
        |selector| selector.wildcard = true,
        |selector| selector.allow_empty = true,
        |selector| selector.follow_links = true,
        |selector| selector.include.push("a".to_owned()),
        |selector| selector.exclude.push("a".to_owned()),
    ];
    for change in changes {
        let mut selector = selector.clone();
        change(&mut selector);
        keys.push(content_key(&input, 0, Some(&result), &selector));
    }
    let distinct: BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}
