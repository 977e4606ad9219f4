//! Rows in their binary form: numbers of few bytes, digests and keys as they are rather than as text.
//!
//! Reading trusts nothing: a row that makes no sense is as good as none.

use super::super::Outputs;
use super::super::history::{Evidence, InputEvidence, Known, Millis, Place};
use crate::Digest;
use crate::cache_key::{CacheKey, InputPart, Preimage};
use crate::worker::{ContentSelector, ResultId};

/// The row of a record that was just made: the number of the row of what went into it, the same as its stamp, and its
/// outputs.
pub(super) fn encode_results(number: u64, outputs: &Outputs) -> Vec<u8> {
    let mut row = [number.to_le_bytes(); 2].concat();
    row.number(outputs.len());
    for output in outputs {
        row.option(output.as_ref(), |row, id| row.text(id.as_str()));
    }
    row
}

/// The number of the row of what went into a record; no row has the one that an unreadable record gives.
pub(super) fn known_number(row: &[u8]) -> u64 {
    row.first_chunk().map_or(u64::MAX, |number| u64::from_le_bytes(*number))
}

/// The number that a record got when it was used last; an unreadable one never was.
pub(super) fn stamp(row: &[u8]) -> u64 {
    let stamp = row.get(8..).and_then(<[u8]>::first_chunk);
    stamp.map_or(0, |stamp| u64::from_le_bytes(*stamp))
}

/// The row of a record with another number and stamp.
pub(super) fn restamp(row: &[u8], number: u64, stamp: u64) -> Vec<u8> {
    let outputs = row.get(16..).unwrap_or_default();
    [&number.to_le_bytes()[..], &stamp.to_le_bytes(), outputs].concat()
}

pub(super) fn decode_results(row: &[u8]) -> Option<Outputs> {
    let mut row = Row(row.get(16..)?);
    row.list(|row| row.option(|row| row.text().map(ResultId::new)))
}

/// Bytes of the row of a content key.
pub(super) const CONTENT_ROW: usize = 40;

/// The row of a content key: the digest, and a check of both. Any 32 bytes are a digest, so damage would not show
/// otherwise, and keys would be made of it.
pub(super) fn encode_content(key: &CacheKey, digest: &Digest) -> [u8; CONTENT_ROW] {
    let mut row = [0; CONTENT_ROW];
    let (hash, check) = row.split_at_mut(32);
    hash.copy_from_slice(digest.as_bytes());
    check.copy_from_slice(&content_check(key, digest));
    row
}

pub(super) fn decode_content(key: &CacheKey, row: &[u8; CONTENT_ROW]) -> Option<Digest> {
    let (hash, check) = row.split_first_chunk()?;
    let digest = Digest::from_sha256(*hash);
    (check == content_check(key, &digest)).then_some(digest)
}

fn content_check(key: &CacheKey, digest: &Digest) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(digest.as_bytes());
    let mut check = [0; 8];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// The row of what went into a key, which the row begins with.
pub(super) fn encode_known(key: &CacheKey, known: &Known) -> Vec<u8> {
    let Known { preimage, evidence } = known;
    let mut row = Vec::with_capacity(256);
    row.extend_from_slice(key.as_bytes());
    row.text(&preimage.kind);
    row.number(preimage.fields.len());
    for (name, value) in preimage.fields.iter() {
        row.text(name);
        row.text(value);
    }
    row.number(preimage.inputs.len());
    for input in &preimage.inputs {
        match input {
            InputPart::Identity { key, output } => {
                row.extend_from_slice(&[IDENTITY, KEY]);
                row.extend_from_slice(key.as_bytes());
                row.number(*output);
            }
            InputPart::Content(digests) => {
                row.push(CONTENT);
                row.number(digests.len());
                for digest in digests {
                    row.push(DIGEST);
                    row.extend_from_slice(digest.as_bytes());
                }
            }
        }
    }
    let Evidence {
        name,
        place,
        made_at,
        arguments,
        inputs,
    } = evidence;
    row.text(name);
    row.option(place.as_ref(), |row, place| {
        row.text(&place.file);
        row.number(place.line as usize);
    });
    row.long(made_at.0);
    row.number(arguments.len());
    arguments.iter().for_each(|argument| row.text(argument));
    row.number(inputs.len());
    for input in inputs {
        row.extend_from_slice(input.key.as_bytes());
        row.number(input.selectors.len());
        input.selectors.iter().for_each(|selector| row.selector(selector));
        row.option(input.result.as_ref(), |row, id| row.text(id.as_str()));
    }
    row
}

/// The key that a row is about.
pub(super) fn known_key(row: &[u8]) -> Option<[u8; 32]> {
    row.first_chunk().copied()
}

pub(super) fn decode_known(row: &[u8]) -> Option<Known> {
    let mut row = Row(row.get(32..)?);
    let preimage = Preimage {
        kind: row.text()?.into(),
        fields: row.list(|row| Some((row.text()?, row.text()?)))?.into_iter().collect(),
        inputs: row.list(|row| match row.byte()? {
            IDENTITY => Some(InputPart::Identity {
                key: CacheKey::from_bytes(row.hash_of(KEY)?),
                output: row.number()?,
            }),
            CONTENT => {
                let digest = |row: &mut Row<'_>| row.hash_of(DIGEST).map(Digest::from_sha256);
                row.list(digest).map(InputPart::Content)
            }
            _ => None,
        })?,
    };
    let evidence = Evidence {
        name: row.text()?,
        place: row.option(|row| {
            Some(Place {
                file: row.text()?,
                line: u32::try_from(row.number()?).ok()?,
            })
        })?,
        made_at: Millis(row.long()?),
        arguments: row.list(Row::text)?,
        inputs: row.list(|row| {
            Some(InputEvidence {
                key: CacheKey::from_bytes(row.hash()?),
                selectors: row.list(Row::selector)?,
                result: row.option(|row| row.text().map(ResultId::new))?,
            })
        })?,
    };
    Some(Known { preimage, evidence })
}

const IDENTITY: u8 = 0;
const CONTENT: u8 = 1;

/// What a hash is of.
const KEY: u8 = 1;
const DIGEST: u8 = 2;

const WILDCARD: u8 = 1;
const ALLOW_EMPTY: u8 = 2;
const FOLLOW_LINKS: u8 = 4;
const LINK_TARGETS: u8 = 8;

/// Writing the parts of a row.
trait Write {
    fn long(&mut self, number: u64);
    fn number(&mut self, number: usize);
    fn text(&mut self, text: &str);
    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T));
    fn selector(&mut self, selector: &ContentSelector);
}

impl Write for Vec<u8> {
    fn long(&mut self, mut number: u64) {
        while number > 0x7f {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }

    fn number(&mut self, number: usize) {
        self.long(number as u64);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.extend_from_slice(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn selector(&mut self, selector: &ContentSelector) {
        let ContentSelector {
            path,
            wildcard,
            allow_empty,
            follow_links,
            link_targets,
            include,
            exclude,
        } = selector;
        self.text(path);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        self.push(
            flag(*wildcard, WILDCARD)
                | flag(*allow_empty, ALLOW_EMPTY)
                | flag(*follow_links, FOLLOW_LINKS)
                | flag(*link_targets, LINK_TARGETS),
        );
        for patterns in [include, exclude] {
            self.number(patterns.len());
            patterns.iter().for_each(|pattern| self.text(pattern));
        }
    }
}

/// What is left to read of a row.
struct Row<'a>(&'a [u8]);

impl Row<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn long(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(self.long()?).ok()
    }

    fn hash(&mut self) -> Option<[u8; 32]> {
        let (hash, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*hash)
    }

    fn text(&mut self) -> Option<String> {
        let len = self.number()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    /// A hash that is said to be of this.
    fn hash_of(&mut self, what: u8) -> Option<[u8; 32]> {
        (self.byte()? == what).then(|| self.hash())?
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            _ => read(self).map(Some),
        }
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let len = self.number()?;
        // Every element takes a byte at least, so that a wrong length cannot ask for more memory than the row has.
        if len > self.0.len() {
            return None;
        }
        (0..len).map(|_| read(self)).collect()
    }

    fn selector(&mut self) -> Option<ContentSelector> {
        let path = self.text()?;
        let flags = self.byte()?;
        Some(ContentSelector {
            path,
            wildcard: flags & WILDCARD != 0,
            allow_empty: flags & ALLOW_EMPTY != 0,
            follow_links: flags & FOLLOW_LINKS != 0,
            link_targets: flags & LINK_TARGETS != 0,
            include: self.list(Row::text)?,
            exclude: self.list(Row::text)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        ".{0,20}"
    }

    fn texts() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(text(), 0..4)
    }

    fn result() -> impl Strategy<Value = Option<ResultId>> {
        proptest::option::of(text().prop_map(ResultId::new))
    }

    fn part() -> impl Strategy<Value = InputPart> {
        let digests = proptest::collection::vec(any::<[u8; 32]>().prop_map(Digest::from_sha256), 0..4);
        prop_oneof![
            (any::<[u8; 32]>(), any::<usize>()).prop_map(|(key, output)| InputPart::Identity {
                key: CacheKey::from_bytes(key),
                output,
            }),
            digests.prop_map(InputPart::Content),
        ]
    }

    fn selector() -> impl Strategy<Value = ContentSelector> {
        (text(), any::<(bool, bool, bool, bool)>(), texts(), texts()).prop_map(|(path, flags, include, exclude)| {
            ContentSelector {
                path,
                wildcard: flags.0,
                allow_empty: flags.1,
                follow_links: flags.2,
                link_targets: flags.3,
                include,
                exclude,
            }
        })
    }

    fn input() -> impl Strategy<Value = InputEvidence> {
        let selectors = proptest::collection::vec(selector(), 0..3);
        (any::<[u8; 32]>(), selectors, result()).prop_map(|(key, selectors, result)| InputEvidence {
            key: CacheKey::from_bytes(key),
            selectors,
            result,
        })
    }

    fn known() -> impl Strategy<Value = Known> {
        use proptest::collection::vec;
        let preimage =
            (text(), vec((text(), text()), 0..4), vec(part(), 0..4)).prop_map(|(kind, fields, inputs)| Preimage {
                kind: kind.into(),
                fields: fields.into_iter().collect(),
                inputs,
            });
        let place = proptest::option::of((text(), any::<u32>()).prop_map(|(file, line)| Place { file, line }));
        (preimage, text(), place, any::<u64>(), texts(), vec(input(), 0..3)).prop_map(
            |(preimage, name, place, made_at, arguments, inputs)| Known {
                preimage,
                evidence: Evidence {
                    name,
                    place,
                    made_at: Millis(made_at),
                    arguments,
                    inputs,
                },
            },
        )
    }

    #[test]
    fn a_damaged_content_row_is_as_good_as_none() {
        let key = CacheKey::from_bytes([7; 32]);
        let row = encode_content(&key, &Digest::sha256(b"x"));
        assert_eq!(decode_content(&key, &row), Some(Digest::sha256(b"x")));
        assert_eq!(decode_content(&CacheKey::from_bytes([8; 32]), &row), None);
        for bit in 0..CONTENT_ROW * 8 {
            let mut damaged = row;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_content(&key, &damaged), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn rows_are_read_as_they_were_written(
            known in known(),
            at in any::<u64>(),
            outputs in proptest::collection::vec(result(), 0..4),
        ) {
            let key = CacheKey::from_bytes([7; 32]);
            let row = encode_known(&key, &known);
            prop_assert_eq!(known_key(&row), Some([7; 32]));
            prop_assert_eq!(decode_known(&row), Some(known));
            let row = encode_results(at, &outputs);
            prop_assert_eq!(known_number(&row), at);
            prop_assert_eq!(decode_results(&row), Some(outputs));
        }

        #[test]
        fn damaged_rows_do_no_harm(known in known(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut row = encode_known(&CacheKey::from_bytes([7; 32]), &known);
            let at = at.index(row.len());
            row[at] = byte;
            let _whatever = decode_known(&row);
            let _clipped = decode_results(&row[..at]);
            prop_assert_eq!(decode_known(&row[..0]), None);
        }

        #[test]
        fn anything_may_stand_in_a_row(row in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _known = decode_known(&row);
            let _outputs = decode_results(&row);
        }
    }
}
