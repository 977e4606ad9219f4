//! Checking who made what was fetched: signatures of OpenPGP and of ssh, against keys that the client names.
//!
//! | module | part |
//! |---|---|
//! | [`openpgp`] | OpenPGP, the part that signatures over files need |
//! | [`ssh`] | what `ssh-keygen -Y sign` makes |
//! | [`git`] | what is signed of a commit or tag |
//!
//! Only verification is here, so there are no secrets to keep, and only what is strong today: RSA from 2048 bits on,
//! Ed25519, and ECDSA on curves of NIST, with SHA-256 and its longer relatives. A key that somebody revoked in whatever way
//! is not used.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod git;
mod openpgp;
mod ssh;
#[cfg(test)]
mod tests;

use std::io::{self, Cursor, Read, Seek};
use std::time::{SystemTime, UNIX_EPOCH};

/// Shortest RSA key that counts.
const MIN_RSA_BITS: usize = 2048;

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    /// There is none.
    #[error("there is no signature")]
    Missing,
    /// A commit is all there is.
    #[error("there is no signed tag")]
    NoTag,
    /// The text is no such thing.
    #[error("failed to read {what}: {problem}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It is of a kind that is not verified here.
    #[error("{0} is not supported by this daemon")]
    Unsupported(&'static str),
    /// No key made it, or something was changed since.
    #[error("none of the keys made the signature")]
    NotByKeys,
    /// A key made it that may not be used, or not any more.
    #[error("the signature does not count: {0}")]
    Unfit(&'static str),
    /// What is signed cannot be read.
    #[error("failed to read what is signed: {0}")]
    Unreadable(io::ErrorKind),
    /// The time is none.
    #[error("the clock of this machine is wrong")]
    Clock,
}

/// What is asked of a signature besides being right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demands {
    /// A key that has expired since does not do.
    pub(crate) reject_expired: bool,
}

/// Seconds since the epoch.
fn now() -> Result<u64, SignatureError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(|since| since.as_secs()).map_err(|_| SignatureError::Clock)
}

/// Checks that one of the OpenPGP keys made one of the signatures over a file; both are in text form. Blocks.
pub(crate) fn verify_file(keys: &str, signature: &str, file: &mut (impl Read + Seek)) -> Result<(), SignatureError> {
    openpgp::verify(keys, signature, file, Demands::default(), now()?)
}

/// Checks a signature in text form over a message, of whichever kind it is. `namespace` is what ssh signatures are for.
fn verify(
    keys: &str,
    signature: &str,
    message: &[u8],
    namespace: &str,
    demands: Demands,
) -> Result<(), SignatureError> {
    if signature.trim_start().starts_with(ssh::BEGIN) {
        ssh::verify(keys, signature, message, namespace)
    } else {
        openpgp::verify(keys, signature, &mut Cursor::new(message), demands, now()?)
    }
}
