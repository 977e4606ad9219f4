//! "Did you mean …?"

/// ` (did you mean <x>?)` for the candidate nearest to `input`, or nothing.
///
/// At most two edits away counts as near; an exact match means that something else is wrong.
pub(crate) fn suggestion<'a>(input: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    cairn_patterns::nearest(input, candidates)
        .map(|candidate| format!(" (did you mean {candidate}?)"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested() {
        assert_eq!(suggestion("coppy", ["copy", "run"]), " (did you mean copy?)");
        assert_eq!(suggestion("copy", ["copie", "copy"]), "");
        assert_eq!(suggestion("zzz", ["copy"]), "");
    }
}
