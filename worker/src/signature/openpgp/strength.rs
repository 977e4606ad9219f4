//! What is strong enough, and what counts at all. rPGP verifies whatever there is.

use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureVersion, SubpacketData};
use pgp::types::{EcdsaPublicParams, EddsaLegacyPublicParams, KeyDetails, KeyVersion, PublicParams};
use rsa::traits::PublicKeyParts as _;

use crate::signature::MIN_RSA_BITS;

/// How much the clock of whoever signs may be ahead of ours, in seconds.
const LEEWAY: u64 = 300;

/// Says what is wrong with a key: only RSA that is long enough, Ed25519, and ECDSA on curves of NIST count.
pub(super) fn of_key(key: &impl KeyDetails) -> Result<(), &'static str> {
    if key.version() != KeyVersion::V4 {
        return Err("its key is of a version that is not supported");
    }
    match key.public_params() {
        PublicParams::RSA(rsa) if rsa.key.n().bits() >= MIN_RSA_BITS => Ok(()),
        PublicParams::RSA(_) => Err("its key is too short"),
        PublicParams::Ed25519(_)
        | PublicParams::EdDSALegacy(EddsaLegacyPublicParams::Ed25519 { .. })
        | PublicParams::ECDSA(
            EcdsaPublicParams::P256 { .. } | EcdsaPublicParams::P384 { .. } | EcdsaPublicParams::P521 { .. },
        ) => Ok(()),
        _ => Err("its key is of a kind that is not supported"),
    }
}

/// Says what is wrong with a signature whatever it is about: an old version, a weak hash, or a condition that is not known.
pub(super) fn of_signature(signature: &Signature) -> Result<(), &'static str> {
    let config = signature
        .config()
        .filter(|config| config.version() == SignatureVersion::V4)
        .ok_or("it is of a version that is not supported")?;
    match config.hash_alg {
        HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512 => {}
        _ => return Err("its hash is too weak or not supported"),
    }
    let is_unknown = config.hashed_subpackets().any(|part| {
        part.is_critical
            && matches!(
                part.data,
                SubpacketData::Experimental(..)
                    | SubpacketData::Other(..)
                    | SubpacketData::Notation(_)
                    | SubpacketData::RegularExpression(_)
            )
    });
    match is_unknown {
        true => Err("it has a condition that is not known"),
        false => Ok(()),
    }
}

/// When a signature was made, in seconds since the epoch; says why it does not count by its own times.
pub(super) fn in_time(signature: &Signature, now: u64) -> Result<u64, &'static str> {
    let created = signature.created().ok_or("it does not say when it was made")?;
    let created = u64::from(created.as_secs());
    if created > now.saturating_add(LEEWAY) {
        return Err("it was made in the future");
    }
    let lifetime = signature.signature_expiration_time();
    // No time at all stands for ever.
    match lifetime.map(|lifetime| u64::from(lifetime.as_secs())) {
        Some(lifetime) if lifetime != 0 && created.saturating_add(lifetime) <= now => Err("it has expired"),
        _ => Ok(created),
    }
}
