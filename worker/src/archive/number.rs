//! Numbers in tar headers: octal text, or binary in base 256 for large ones.

/// Parses a numeric header field. `None` when it is not a number or does not fit.
///
/// Octal fields are padded with spaces or NULs on either side and may be empty (zero); a set top bit marks a two's
/// complement big-endian number in the remaining bits (GNU and star).
pub(super) fn parse(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => parse_binary(field),
        _ => parse_octal(field),
    }
}

fn parse_binary(field: &[u8]) -> Option<i64> {
    // Bit 6 of the first byte is the sign.
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, byte) in field.iter().enumerate() {
        let byte = if i == 0 {
            byte & 0x7f | if negative { 0x80 } else { 0 }
        } else {
            *byte
        };
        value = value.checked_mul(256)? | i128::from(byte);
    }
    i64::try_from(value).ok()
}

fn parse_octal(field: &[u8]) -> Option<i64> {
    let is_padding = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !is_padding(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(is_padding).unwrap_or(digits.len())];
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Writes `value` as zero-padded octal text with a closing NUL. The caller has checked with [`fits`].
pub(super) fn write_octal(field: &mut [u8], value: u64) {
    let text = format!("{value:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(text.as_bytes());
}

/// Whether `value` fits octal text in a field of `width` bytes, one of which is the closing NUL.
pub(super) const fn fits(width: u32, value: u64) -> bool {
    value < 1 << ((width - 1) * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_both_notations() {
        let max = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let over = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o7777_7777)),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"0x00001\0", None),
            (b"7777777777777777777777777", None),
            (&[0x80, 0, 0, 0, 0, 0, 1, 0], Some(256)),
            (&[0xff; 12], Some(-1)),
            (&max, Some(i64::MAX)),
            (&over, None),
        ] {
            assert_eq!(parse(field), want, "{field:?}");
        }
    }

    #[test]
    fn octal_round_trips() {
        let mut field = [0; 8];
        write_octal(&mut field, 0o7777777);
        assert_eq!(&field, b"7777777\0");
        assert_eq!(parse(&field), Some(0o7777777));
        assert!(fits(8, 0o7777777));
        assert!(!fits(8, 0o10000000));
        assert!(fits(12, 0o77777777777));
    }
}
