//! Whether two files are the same.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use crate::sys::Metadata;

/// How much of two files is compared at once.
const CHUNK: usize = 128 * 1024;

/// Whether kind, permissions and owner are the same.
pub(super) fn are_alike(a: &Metadata, b: &Metadata) -> bool {
    (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid)
}

/// Whether two files hold the same bytes.
pub(super) fn have_same_content(a: File, b: File) -> io::Result<bool> {
    let [mut a, mut b] = [a, b].map(|file| BufReader::with_capacity(CHUNK, file));
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        a.consume(length);
        b.consume(length);
    }
}
