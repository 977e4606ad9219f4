//! Durations and amounts of disk space, in the forms that buildkitd's configuration has.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// An amount of disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskSpace {
    /// Bytes.
    Bytes(u64),
    /// Percent of the file system.
    Percent(u8),
    /// Percent of the file system, but no more than this many bytes.
    PercentUpTo(u8, u64),
}

/// Text that is no duration or amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No duration.
    #[error("{0:?} is no duration: expected something like \"48h\", \"1h30m\" or a number of seconds")]
    Duration(String),
    /// No amount.
    #[error("{0:?} is no amount of disk space: expected something like \"512MB\", \"10%\" or a number of bytes")]
    DiskSpace(String),
}

impl DiskSpace {
    /// Bytes, on a file system of `total` bytes. Shares are rounded up to whole gigabytes, as users expect of them.
    pub fn bytes(self, total: u64) -> u64 {
        const GIGABYTE: u64 = 1_000_000_000;
        match self {
            Self::Bytes(bytes) => bytes,
            Self::PercentUpTo(percent, most) => Self::Percent(percent).bytes(total).min(most),
            Self::Percent(percent) => (total / 100 * u64::from(percent)).div_ceil(GIGABYTE) * GIGABYTE,
        }
    }
}

impl std::str::FromStr for DiskSpace {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || UnitError::DiskSpace(text.to_owned());
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.trim().parse().map_err(|_| fail())?;
            return if percent <= 100 {
                Ok(Self::Percent(percent))
            } else {
                Err(fail())
            };
        }
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let unit = unit
            .strip_suffix("ib")
            .or_else(|| unit.strip_suffix('b'))
            .unwrap_or(&unit);
        let shift = match unit {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            "p" => 50,
            _ => return Err(fail()),
        };
        let number: f64 = number.parse().map_err(|_| fail())?;
        let bytes = number * f64::from(2_u32).powi(shift);
        if (0.0..9e18).contains(&bytes) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range was checked, and fractions of bytes do not matter"
            )]
            return Ok(Self::Bytes(bytes as u64));
        }
        Err(fail())
    }
}

impl<'de> Deserialize<'de> for DiskSpace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(Self::Bytes(bytes)),
            Form::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// Parses a duration of Go's form, such as `1h30m`, or a number of seconds.
///
/// # Errors
/// [`UnitError::Duration`] for anything else, negative ones included.
pub(super) fn duration(text: &str) -> Result<Duration, UnitError> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    go_duration(text).ok_or_else(|| UnitError::Duration(text.to_owned()))
}

/// Parses a duration of Go's form that is not negative.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let letters = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        seconds += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// Deserializes a duration given as text or as a number of seconds.
pub(super) fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(u64),
        Text(String),
    }
    match Option::<Form>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Form::Number(seconds)) => Ok(Some(Duration::from_secs(seconds))),
        Some(Form::Text(text)) => duration(&text).map(Some).map_err(de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (text, want) in [
            ("0", Some(DiskSpace::Bytes(0))),
            ("1024", Some(DiskSpace::Bytes(1024))),
            ("512MB", Some(DiskSpace::Bytes(512 << 20))),
            ("1.5GiB", Some(DiskSpace::Bytes(3 << 29))),
            ("10%", Some(DiskSpace::Percent(10))),
            ("101%", None),
            ("", None),
            ("-1", None),
            ("5 apples", None),
        ] {
            assert_eq!(text.parse().ok(), want, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("48h", Some(48 * 3600)),
            ("1h30m", Some(5400)),
            ("90", Some(90)),
            ("0s", Some(0)),
            ("", None),
            ("h", None),
            ("-1h", None),
            ("1y", None),
        ] {
            assert_eq!(duration(text).ok(), want.map(Duration::from_secs), "{text}");
        }
    }
}
