//! Keys, signatures and signed objects of any bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::git::{Signers, verify_objects};
use super::{Demands, ssh, verify};

/// Nothing that nobody signed is taken for signed.
pub(crate) fn signature(data: &[u8]) {
    let base64 = STANDARD.encode(data);
    let block = |kind: &str| format!("-----BEGIN {kind}-----\n\n{base64}\n-----END {kind}-----\n");
    let text = String::from_utf8_lossy(data);
    let keys = [
        block("PGP PUBLIC KEY BLOCK"),
        format!("ssh-ed25519 {base64}"),
        text.clone().into_owned(),
    ];
    let signatures = [
        block("PGP SIGNATURE"),
        block("SSH SIGNATURE"),
        format!("{}{text}", ssh::BEGIN),
        text.into_owned(),
    ];
    let demands = Demands::default();
    for keys in &keys {
        for signature in &signatures {
            let verified = verify(keys, signature, b"nobody signed this", "git", demands);
            assert!(verified.is_err(), "{keys}\n{signature}");
        }
        let signers = Signers {
            keys,
            demands,
            require_tag: false,
            ignore_tag: false,
        };
        let verified = verify_objects(signers, "", data, data);
        assert!(verified.is_err(), "{keys}");
    }
}
