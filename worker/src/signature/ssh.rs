//! Signatures of ssh keys, as `ssh-keygen -Y sign` and git make them.

use ssh_key::public::KeyData;
use ssh_key::{PublicKey, SshSig};

use super::{MIN_RSA_BITS, SignatureError};

/// How one begins and ends.
pub(super) const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
/// Of a key in hardware: somebody was there.
const TOUCHED: u8 = 1;
/// How long the reader wants lines to be.
const LINE: usize = 70;
/// Most bytes of one, as text.
const MAX_BYTES: usize = 64 << 10;
/// Most keys that are looked at.
const MAX_KEYS: usize = 256;

/// Checks that one of the keys, one a line as in `authorized_keys`, signed the message for this purpose.
pub(super) fn verify(keys: &str, signature: &str, message: &[u8], namespace: &str) -> Result<(), SignatureError> {
    let signature = read(signature).map_err(|problem| SignatureError::Malformed {
        what: "an ssh signature",
        problem,
    })?;
    if signature.version() != SshSig::VERSION {
        return Err(SignatureError::Unsupported("the version of this ssh signature"));
    }
    if signature.namespace() != namespace {
        return Err(SignatureError::Unfit("it was made for another purpose"));
    }
    // Lines with options are not keys: the options may limit what the key is for.
    let mut keys = keys
        .lines()
        .filter_map(|line| PublicKey::from_openssh(line.trim()).ok());
    let key = keys
        .by_ref()
        .take(MAX_KEYS)
        .find(|key| key.key_data() == signature.public_key());
    let key = key.ok_or(SignatureError::NotByKeys)?;
    match key.key_data() {
        KeyData::Rsa(rsa) if bits(rsa.n.as_positive_bytes()) < MIN_RSA_BITS => {
            return Err(SignatureError::Unfit("its key is too short"));
        }
        // The last bytes are flags and a counter.
        KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => match signature.signature_bytes() {
            [.., flags, _, _, _, _] if flags & TOUCHED != 0 => {}
            _ => return Err(SignatureError::Unfit("nobody touched its key")),
        },
        KeyData::Rsa(_) | KeyData::Ed25519(_) | KeyData::Ecdsa(_) => {}
        _ => return Err(SignatureError::Unsupported("the kind of this ssh key")),
    }
    let verified = key.verify(namespace, message, &signature);
    verified.map_err(|_| SignatureError::NotByKeys)
}

/// Reads the one signature in a text. Not all programs break its lines where `ssh-keygen` does.
fn read(text: &str) -> Result<SshSig, &'static str> {
    if text.len() > MAX_BYTES {
        return Err("it is too long");
    }
    let text = text.trim().strip_prefix(BEGIN).ok_or("its beginning is missing")?;
    let text = text.strip_suffix(END).ok_or("its end is missing")?;
    let mut wrapped = String::with_capacity(MAX_BYTES);
    wrapped.push_str(BEGIN);
    for (at, character) in text
        .chars()
        .filter(|character| !character.is_ascii_whitespace())
        .enumerate()
    {
        if at % LINE == 0 {
            wrapped.push('\n');
        }
        wrapped.push(character);
    }
    wrapped.push('\n');
    wrapped.push_str(END);
    SshSig::from_pem(wrapped).map_err(|_| "a part of it is damaged")
}

/// The length of a number without zeros in front.
fn bits(number: Option<&[u8]>) -> usize {
    match number {
        Some([first, rest @ ..]) => (8 - first.leading_zeros() as usize) + rest.len() * 8,
        _ => 0,
    }
}
