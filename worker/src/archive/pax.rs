//! PAX extended headers: `length key=value\n` records in front of an entry.
//!
//! See POSIX.1-2001 pax, "pax Extended Header".

use super::entry::{Mtime, Segment};

/// The prefix of extended attributes, as star, GNU tar and Go write them.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// Why a record was not understood.
pub(super) type Problem = &'static str;

/// What an extended header overrides.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseKeys,
}

/// The `GNU.sparse.*` records of all three PAX sparse formats.
#[derive(Debug, Default)]
pub(super) struct SparseKeys {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Format 0.1: all numbers in one record.
    pub(super) map: Option<Vec<u8>>,
    /// Format 0.0: one pair of records per segment.
    pub(super) segments: Vec<Segment>,
    pending_offset: Option<u64>,
}

impl Overrides {
    /// Reads the body of an extended header.
    pub(super) fn parse(mut body: &[u8]) -> Result<Self, Problem> {
        let mut overrides = Self::default();
        while !body.is_empty() {
            let (key, value, rest) = split_record(body)?;
            overrides.set(key, value)?;
            body = rest;
        }
        Ok(overrides)
    }

    /// An empty value means that the record says nothing.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let has_nul =
            matches!(key, b"path" | b"linkpath" | b"uname" | b"gname" | b"GNU.sparse.name") && value.contains(&0);
        if has_nul || key.contains(&0) {
            return Err("NUL in an extended header");
        }
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.retain(|(other, _)| other != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        let text = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = text.map(<[u8]>::to_vec),
            b"linkpath" => self.link = text.map(<[u8]>::to_vec),
            b"size" => self.size = number(text)?,
            b"uid" => self.uid = signed(text)?,
            b"gid" => self.gid = signed(text)?,
            b"mtime" => self.mtime = text.map(parse_time).transpose()?,
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, text)?;
                }
            }
        }
        Ok(())
    }
}

impl SparseKeys {
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Problem> {
        match key {
            b"major" => self.major = number(value)?,
            b"minor" => self.minor = number(value)?,
            b"name" => self.name = value.map(<[u8]>::to_vec),
            b"realsize" | b"size" => self.real_size = number(value)?,
            b"map" => self.map = value.map(<[u8]>::to_vec),
            b"offset" => {
                let offset = number(value)?;
                if offset.is_none() || self.pending_offset.replace(offset.unwrap_or_default()).is_some() {
                    return Err("sparse offset without a length");
                }
            }
            b"numbytes" => match (self.pending_offset.take(), number(value)?) {
                (Some(offset), Some(length)) => self.segments.push(Segment { offset, length }),
                _ => return Err("sparse length without an offset"),
            },
            _ => {}
        }
        Ok(())
    }
}

/// Key, value and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits `length key=value\n` off the front.
fn split_record(body: &[u8]) -> Result<Record<'_>, Problem> {
    const BROKEN: Problem = "broken extended header record";
    let space = body.iter().take(20).position(|b| *b == b' ').ok_or(BROKEN)?;
    let length = number(Some(&body[..space]))?
        .and_then(|n| usize::try_from(n).ok())
        .ok_or(BROKEN)?;
    if length <= space + 1 || length > body.len() {
        return Err(BROKEN);
    }
    let (record, rest) = body.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n").ok_or(BROKEN)?;
    let equals = record
        .iter()
        .position(|b| *b == b'=')
        .filter(|at| *at > 0)
        .ok_or(BROKEN)?;
    Ok((&record[..equals], &record[equals + 1..], rest))
}

/// Decimal digits; anything else, signs included, is refused.
fn number(text: Option<&[u8]>) -> Result<Option<u64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    parse_decimal(text)
        .map(Some)
        .ok_or("broken number in an extended header")
}

pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn signed(text: Option<&[u8]>) -> Result<Option<i64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let value = match text.strip_prefix(b"-") {
        Some(digits) => parse_decimal(digits).and_then(|n| 0_i64.checked_sub_unsigned(n)),
        None => parse_decimal(text).and_then(|n| i64::try_from(n).ok()),
    };
    value.map(Some).ok_or("broken number in an extended header")
}

/// Parses `[-]seconds[.fraction]`; digits past nanoseconds are cut.
fn parse_time(text: &[u8]) -> Result<Mtime, Problem> {
    const BROKEN: Problem = "broken time in an extended header";
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let dot = digits.iter().position(|b| *b == b'.').unwrap_or(digits.len());
    let (whole, fraction) = digits.split_at(dot);
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(BROKEN);
    }
    let seconds = parse_decimal(whole).and_then(|n| i64::try_from(n).ok()).ok_or(BROKEN)?;
    let nanos = (0..9).fold(0, |n, i| n * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    Ok(match (negative, nanos) {
        (false, nanos) => Mtime { seconds, nanos },
        (true, 0) => Mtime {
            seconds: -seconds,
            nanos: 0,
        },
        (true, nanos) => Mtime {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

/// Writes a time the way [`parse_time`] reads it, without needless zeros.
pub(super) fn format_time(time: Mtime) -> String {
    if time.nanos == 0 {
        return time.seconds.to_string();
    }
    let (sign, seconds, nanos) = match time.seconds {
        seconds @ 0.. => ("", seconds.unsigned_abs(), time.nanos),
        seconds => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - time.nanos),
    };
    let fraction = format!("{nanos:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

/// Appends one record. The length counts its own digits.
pub(super) fn push_record(body: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let payload = key.len() + value.len() + 3; // the space, the equals sign, the newline
    let mut length = payload + payload.to_string().len();
    if length.to_string().len() + payload != length {
        length += 1;
    }
    body.extend_from_slice(format!("{length} ").as_bytes());
    body.extend_from_slice(key);
    body.push(b'=');
    body.extend_from_slice(value);
    body.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_at_every_length() {
        for length in 0..1100 {
            let value = vec![b'x'; length];
            let mut body = Vec::new();
            push_record(&mut body, b"path", &value);
            push_record(&mut body, b"SCHILY.xattr.user.a", b"\0=\n");
            let parsed = Overrides::parse(&body).unwrap();
            assert_eq!(parsed.path.unwrap_or_default(), value);
            assert_eq!(parsed.xattrs, [(b"user.a".to_vec(), b"\0=\n".to_vec())]);
        }
    }

    #[test]
    fn broken_records_are_refused() {
        for body in [
            &b"x"[..],
            b"0 a=b\n",
            b"3 \n\n",
            b"6 a=b\n\n",
            b"5 a=b\n",
            b"7 a=b\n",
            b"6 ab c\n",
            b"5 =b\n",
            b"99999999999999999999 a=b\n",
            b"-6 a=b\n",
            b"+6 a=b\n",
            b"10 path=\0\0\n",
            b"11 size=-1\n",
            b"12 size=1e3\n",
            b"12 mtime=.5\n",
            b"23 GNU.sparse.offset=1\n23 GNU.sparse.offset=1\n",
        ] {
            assert!(Overrides::parse(body).is_err(), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn times_round_trip() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1700000000.5", 1_700_000_000, 500_000_000),
            ("1.000000001", 1, 1),
            ("-1", -1, 0),
            ("-0.5", -1, 500_000_000),
            ("-1.25", -2, 750_000_000),
        ] {
            let time = Mtime { seconds, nanos };
            assert_eq!(parse_time(text.as_bytes()).unwrap(), time, "{text}");
            assert_eq!(format_time(time), text);
        }
        assert_eq!(parse_time(b"1.1234567899").unwrap().nanos, 123_456_789);
    }
}
