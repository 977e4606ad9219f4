//! `--chmod`.

/// Permission bits to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// These.
    Octal(u32),
    /// Changes to what is there, such as `u+rwX,go-w`.
    Symbolic(String),
}

/// Reads an octal or symbolic mode.
pub(super) fn parse(text: &str) -> Result<Mode, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let octal = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
        return octal.map(Mode::Octal).ok_or_else(|| {
            format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
        });
    }
    if text.split(',').all(is_clause) {
        Ok(Mode::Symbolic(text.to_owned()))
    } else {
        Err("invalid syntax".to_owned())
    }
}

/// `[ugoa…](+|-|=)[rwxXst…|u|g|o]…`
fn is_clause(text: &str) -> bool {
    let mut ops = text.trim_start_matches(['u', 'g', 'o', 'a']);
    if ops.is_empty() {
        return false;
    }
    while let Some(rest) = ops.strip_prefix(['+', '-', '=']) {
        ops = rest.trim_start_matches(['r', 'w', 'x', 'X', 's', 't', 'u', 'g', 'o']);
    }
    ops.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        assert_eq!(parse("0755"), Ok(Mode::Octal(0o755)));
        for text in ["u=rwX,go=rX", "a-w,g+s", "-w+x", "+x", "go=u"] {
            assert_eq!(parse(text), Ok(Mode::Symbolic(text.to_owned())));
        }
        assert_eq!(
            parse("888").unwrap_err(),
            "invalid chmod parameter: '888'. it should be octal string and between 0 and 07777"
        );
        for text in ["u+z", "u", "", "x", "u+x,"] {
            assert_eq!(parse(text).unwrap_err(), "invalid syntax", "{text}");
        }
    }
}
