//! `STOPSIGNAL`.

const NAMES: &str = "HUP INT QUIT ILL TRAP ABRT IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CLD CONT STOP TSTP TTIN TTOU URG \
    XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS UNUSED RTMIN RTMAX";

/// Whether `text` is a number other than 0, or the name of a Linux signal with or without `SIG`.
pub(super) fn is_valid(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str| name.strip_prefix(prefix).and_then(|text| text.parse::<u32>().ok());
    NAMES.split_whitespace().any(|known| known == name)
        || offset("RTMIN+").is_some_and(|n| (1..=15).contains(&n))
        || offset("RTMAX-").is_some_and(|n| (1..=14).contains(&n))
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn signals_are_numbers_or_names() {
        for text in ["9", "SIGTERM", "term", "sigrtmin+3", "RTMAX-1"] {
            assert!(is_valid(text), "{text}");
        }
        for text in ["0", "FOO", "", "-1", "RTMIN+99"] {
            assert!(!is_valid(text), "{text}");
        }
    }
}
