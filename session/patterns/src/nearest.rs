//! What was probably meant by a name that is not there.

/// Most edits between a name and what was meant.
const MAX_EDITS: usize = 2;
/// Nobody mistypes names this long by so little.
const MAX_LENGTH: usize = 64;

/// The candidate nearest to `input`, the first of several; at most two edits (Levenshtein) away.
///
/// `None` also if a candidate *is* the input: then something else is wrong.
pub fn nearest<'a>(input: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate == input {
            return None;
        }
        let distance = distance(input, candidate);
        if distance <= MAX_EDITS && best.is_none_or(|(known, _)| distance < known) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn distance(a: &str, b: &str) -> usize {
    if a.len() > MAX_LENGTH || b.len() > MAX_LENGTH {
        return MAX_EDITS + 1;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        assert_eq!(nearest("coppy", ["run", "cop", "copy"]), Some("copy"));
        assert_eq!(nearest("copy", ["copie", "copy"]), None);
        assert_eq!(nearest("zzz", ["copy"]), None);
        assert_eq!(nearest(&"a".repeat(65), [&*"a".repeat(64)]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
