//! What changes a key, and what does not.

mod documented;
mod fields;

use std::collections::BTreeSet;

use super::*;

#[test]
fn moving_text_between_fields_changes_the_key() {
    let with = |fields: &[(&str, &str)]| {
        Preimage {
            kind: "exec".to_owned(),
            fields: fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
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
        kind: "file".to_owned(),
        fields: vec![("copy".to_owned(), "/a".to_owned())],
        inputs: vec![InputPart::Content(vec!["sha256:00".to_owned()])],
    };
    assert_eq!(
        preimage.key().to_string(),
        "blake3:cc1c9051e16055a93e223b817d91ba2d3689fb3bfdc389b905fffd7c168d3eec"
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
