//! What keys are hashes of: texts, each behind its length.

use std::fmt::Display;
use std::io::Write as _;

use super::CacheKey;

/// Bytes of the length before each text.
const LENGTH: usize = 8;

/// Texts, each behind its length. They are hashed at once: one by one, most of the time would go into their ends.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Texts(Vec<u8>);

impl Texts {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn put(&mut self, text: &str) {
        self.0.extend_from_slice(&length(text.len()));
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Puts a value as it is shown.
    pub(super) fn show(&mut self, value: impl Display) {
        let start = self.0.len() + LENGTH;
        self.0.extend_from_slice(&[0; LENGTH]);
        write!(self.0, "{value}").expect("memory takes what is written");
        let length = length(self.0.len() - start);
        self.0[start - LENGTH..start].copy_from_slice(&length);
    }

    /// Puts a hash in hexadecimal digits, behind the name of its algorithm.
    pub(super) fn put_hash(&mut self, algorithm: &str, hash: &[u8; 32]) {
        let digits = 2 * hash.len();
        self.0.extend_from_slice(&length(algorithm.len() + digits));
        self.0.extend_from_slice(algorithm.as_bytes());
        let start = self.0.len();
        self.0.resize(start + digits, 0);
        hex::encode_to_slice(hash, &mut self.0[start..]).expect("there is room for two digits a byte");
    }

    /// Puts all texts of another.
    pub(super) fn append(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (text, after) = after.split_at_checked(length)?;
            rest = after;
            Some(str::from_utf8(text).expect("only texts are put"))
        })
    }

    /// The hash of all of it.
    pub(super) fn key(&self) -> CacheKey {
        CacheKey(*blake3::hash(&self.0).as_bytes())
    }
}

fn length(bytes: usize) -> [u8; LENGTH] {
    (bytes as u64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn what_is_put_in_other_forms_is_the_same_text() {
        let (key, digest) = (CacheKey([0xa7; 32]), Digest::from_sha256([0x0f; 32]));
        let (mut texts, mut forms) = (Texts::default(), Texts::default());
        for text in ["", "mode", "0644", "ü", &key.to_string(), &digest.to_string()] {
            texts.put(text);
        }
        forms.show("");
        forms.put("mode");
        forms.show(format_args!("0{:o}", 0o644));
        let mut more = Texts::with_capacity(1);
        more.show('ü');
        forms.append(&more);
        forms.put_hash("blake3:", key.as_bytes());
        forms.put_hash("sha256:", digest.as_bytes());
        assert!(texts == forms);
        assert_eq!(texts.key(), forms.key());
        assert!(
            texts
                .iter()
                .eq(["", "mode", "0644", "ü", &*key.to_string(), &*digest.to_string()])
        );
    }
}
