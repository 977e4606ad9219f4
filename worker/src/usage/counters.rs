//! The kernel's files, as numbers.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use cairn_solver::usage::{Pressure, Stall};

/// Most bytes of a file that are looked at: there is a line for each processor or disk in some.
const MAX_FILE: u64 = 1 << 20;

/// A file's text; `None` if it cannot be read.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The number after a key, in lines such as `key 1` and `key: 1 kB`. With an empty key, the number that is all there is.
pub(super) fn number(text: &str, key: &str) -> Option<u64> {
    if key.is_empty() {
        return text.trim().parse().ok();
    }
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    let mut words = lines.find_map(|mut words| {
        let name = words.next()?;
        (name.strip_suffix(':').unwrap_or(name) == key).then_some(words)
    })?;
    words.next()?.parse().ok()
}

/// What a file of pressure stall information says; `None` if it does not.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let stall = |who: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(who))?;
        let mut stall = Stall::default();
        for field in line.split_ascii_whitespace() {
            let (name, value) = field.split_once('=')?;
            match name {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total = value.parse().ok()?,
                _ => {}
            }
        }
        Some(stall)
    };
    Some(Pressure {
        some: stall("some ")?,
        // Kernels before 5.13 say nothing of it where processors are concerned.
        full: stall("full ").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_keys() {
        assert_eq!(number("MemTotal:   24684096 kB\nMemFree: 1 kB\n", "MemFree"), Some(1));
        assert_eq!(number("usage_usec 7\nuser_usec 8\n", "user_usec"), Some(8));
        assert_eq!(number("42\n", ""), Some(42));
        for (text, key) in [("", ""), ("max\n", ""), ("a\n", "a"), ("a -1\n", "a"), ("ab 1\n", "a")] {
            assert_eq!(number(text, key), None, "{text:?}");
        }
    }

    #[test]
    fn pressure_is_read_with_and_without_all() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let read = pressure(text).unwrap();
        assert_eq!((read.some.avg10, read.some.total, read.full.total), (1.5, 77, 3));
        let first = text.lines().next().unwrap();
        assert_eq!(pressure(first).unwrap().full, Stall::default());
        for wrong in [
            "",
            "some avg10=x",
            "some avg10",
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=3",
        ] {
            assert_eq!(pressure(wrong), None, "{wrong:?}");
        }
    }
}
