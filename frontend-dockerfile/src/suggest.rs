//! "Did you mean …?"

/// ` (did you mean <x>?)` for the candidate nearest to `input`, or nothing.
///
/// At most two edits away counts as near; an exact match means that something else is wrong. Of a great many candidates
/// only some are looked at.
pub(crate) fn suggestion<'a>(input: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    const MAX_CANDIDATES: usize = 1_000;
    cairn_patterns::nearest(input, candidates.into_iter().take(MAX_CANDIDATES))
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
