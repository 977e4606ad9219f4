//! Any word expands or says why not, to a bounded result, and the same way each time.

use std::collections::BTreeMap;

use cairn_dockerfile::expand::Expander;

/// Checks what holds for every word. The first byte chooses how it is read.
pub(crate) fn check(data: &[u8]) {
    let Some((&how, word)) = data.split_first() else {
        return;
    };
    let word = String::from_utf8_lossy(word);
    let how = match how % 4 {
        0 => Expander::new('\\'),
        1 => Expander::new('`'),
        2 => Expander::heredoc_body(),
        _ => Expander::display('\\'),
    };
    let variables = BTreeMap::from(
        [("v", "foobarbaz"), ("e", ""), ("n", "a\nb"), ("d", "$0${0}$$")].map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    let expanded = how.expand(&word, &variables);
    assert_eq!(expanded, how.expand(&word, &variables));
    match expanded {
        Ok(expanded) => {
            assert!(expanded.value.len() <= Expander::MAX_GROWTH_BYTES + word.len() * (Expander::MAX_DEPTH + 1));
            assert!(expanded.matched.is_disjoint(&expanded.unmatched));
            if !word.contains(['\\', '`', '\'', '"', '$']) {
                assert_eq!(expanded.value, word);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
