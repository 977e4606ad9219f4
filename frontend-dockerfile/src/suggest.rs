//! "Did you mean …?"

/// ` (did you mean <x>?)` for the candidate nearest to `input`, or nothing.
///
/// At most two edits away counts as near; an exact match means that something else is wrong.
pub(crate) fn suggestion<'a>(input: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate == input {
            return String::new();
        }
        let distance = distance(input, candidate);
        if distance <= MAX && best.is_none_or(|(known, _)| distance < known) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| format!(" (did you mean {candidate}?)"))
        .unwrap_or_default()
}

const MAX: usize = 2;
/// Nobody mistypes names this long by two characters.
const MAX_LENGTH: usize = 64;

fn distance(a: &str, b: &str) -> usize {
    if a.len() > MAX_LENGTH || b.len() > MAX_LENGTH {
        return MAX + 1;
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
    fn near_names_are_suggested() {
        assert_eq!(suggestion("coppy", ["copy", "run"]), " (did you mean copy?)");
        assert_eq!(suggestion("copy", ["copie", "copy"]), "");
        assert_eq!(suggestion("zzz", ["copy"]), "");
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
