//! Hashing bytes as they pass by.

use std::io::{self, Read};

use cairn_solver::Digest;
use sha2::{Digest as _, Sha256};

/// A sha256 in the making.
#[derive(Clone, Default)]
pub struct Sha256Hasher {
    hash: Sha256,
    length: u64,
}

impl std::fmt::Debug for Sha256Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sha256Hasher")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Sha256Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How many bytes were seen.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The digest of the bytes seen so far.
    pub fn digest(&self) -> Digest {
        Digest::from_sha256(self.hash.clone().finalize().into())
    }
}

/// A reader that hashes what is read through it.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hasher: Sha256Hasher,
}

impl<R: Read> HashingReader<R> {
    /// Starts hashing at the reader's current position.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256Hasher::new(),
        }
    }

    /// Digest and number of the bytes read so far.
    pub fn finish(self) -> (Digest, u64) {
        (self.hasher.digest(), self.hasher.length())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}
