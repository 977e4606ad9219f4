//! Which keys of a certificate may sign, and until when.

use pgp::packet::{Packet, PublicKey, PublicSubkey, Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, Tag, VerifyingKey};

use super::strength;
use crate::signature::Demands;

/// Most parts in one certificate, and signatures on one of them.
const MAX_PARTS: usize = 256;

/// Keys that belong together.
#[derive(Debug)]
pub(super) struct Certificate {
    /// Those that may sign, or might have.
    signers: Vec<Signer>,
}

/// A key that may have signed.
#[derive(Debug)]
pub(super) struct Signer {
    key: Key,
    /// When it was made, in seconds since the epoch.
    created: u64,
    /// From then on it may not be used, in seconds since the epoch.
    expires: Option<u64>,
    /// Why it may not be used at all.
    refused: Option<&'static str>,
}

#[derive(Debug)]
enum Key {
    Primary(PublicKey),
    Subkey(PublicSubkey),
}

/// Something in a certificate with the signatures on it; `None` is for what is not known.
struct Part {
    packet: Option<Packet>,
    signatures: Vec<Signature>,
}

impl Certificate {
    /// Reads all certificates in a row of packets.
    pub(super) fn read_all(packets: Vec<Option<Packet>>, now: u64) -> Vec<Self> {
        let mut certificates: Vec<Vec<Part>> = Vec::new();
        for packet in packets {
            match (packet, certificates.last_mut()) {
                (Some(Packet::Signature(signature)), Some(parts)) => {
                    if let Some(part) = parts.last_mut() {
                        part.signatures.push(signature);
                    }
                }
                (packet @ Some(Packet::PublicKey(_)), _) => certificates.push(vec![Part::new(packet)]),
                (packet, Some(parts)) => parts.push(Part::new(packet)),
                // Before the first key there is nothing to belong to.
                (_, None) => {}
            }
        }
        let read = certificates.into_iter().map(|parts| Self::read(parts, now));
        read.flatten().collect()
    }

    /// Whoever of it made a signature with this hash.
    pub(super) fn signer(&self, signature: &Signature, hash: &[u8]) -> Option<&Signer> {
        let (config, bytes) = (signature.config()?, signature.signature()?);
        let made = |signer: &&Signer| match &signer.key {
            Key::Primary(key) => key.verify(config.hash_alg, hash, bytes).is_ok(),
            Key::Subkey(key) => key.verify(config.hash_alg, hash, bytes).is_ok(),
        };
        self.signers.iter().find(made)
    }

    /// `None` without a primary key in front, or if there is too much of anything.
    fn read(mut parts: Vec<Part>, now: u64) -> Option<Self> {
        if parts.len() > MAX_PARTS || parts.iter().any(|part| part.signatures.len() > MAX_PARTS) {
            return None;
        }
        let first = parts.remove(0);
        let Some(Packet::PublicKey(primary)) = &first.packet else {
            return None;
        };
        let own = own_words(primary, &first, &parts, now);
        // Whoever revoked it, and whether that can be verified: somebody did not want it to be used.
        let refused = if first.has(SignatureType::KeyRevocation) {
            Some("its key was revoked")
        } else if let Err(weak) = strength::of_key(primary) {
            Some(weak)
        } else if own.is_empty() {
            Some("nothing that its key says of itself can be verified")
        } else {
            None
        };
        let expires = own.iter().filter_map(|said| expiry(primary, said)).min();
        let is_for_signing = own.iter().all(|said| may_sign(said).unwrap_or(true));
        let mut signers = vec![Signer {
            key: Key::Primary(primary.clone()),
            created: seconds(primary),
            expires,
            refused: refused.or((!is_for_signing).then_some("its key is not for signing")),
        }];
        for part in &parts {
            let Some(Packet::PublicSubkey(key)) = &part.packet else {
                continue;
            };
            let binding = binding(primary, key, part, now);
            let own_expiry = binding.as_ref().ok().and_then(|said| expiry(key, said));
            signers.push(Signer {
                key: Key::Subkey(key.clone()),
                created: seconds(key),
                expires: own_expiry.into_iter().chain(expires).min(),
                refused: refused.or(binding.err()),
            });
        }
        Some(Self { signers })
    }
}

impl Signer {
    /// Says why a signature that the key made does not count.
    pub(super) fn check(&self, signature: &Signature, demands: Demands, now: u64) -> Result<(), &'static str> {
        let created = strength::in_time(signature, now)?;
        match (self.refused, self.expires) {
            (Some(refused), _) => Err(refused),
            _ if created < self.created => Err("it is older than its key"),
            (None, Some(expires)) if created >= expires => Err("its key had expired when it was made"),
            (None, Some(expires)) if demands.reject_expired && now >= expires => Err("its key has expired"),
            (None, _) => Ok(()),
        }
    }
}

impl Part {
    fn new(packet: Option<Packet>) -> Self {
        Self {
            packet,
            signatures: Vec::new(),
        }
    }

    /// Whether there is a signature of that kind, by whoever and however.
    fn has(&self, kind: SignatureType) -> bool {
        self.signatures.iter().any(|signature| signature.typ() == Some(kind))
    }

    /// The latest signature on the part that counts at `now` and that is `good`.
    fn latest(&self, key: &impl KeyDetails, now: u64, good: impl Fn(&Signature) -> bool) -> Option<&Signature> {
        let counting = self.signatures.iter().filter_map(|signature| {
            strength::of_signature(signature).ok()?;
            let created = strength::in_time(signature, now).ok()?;
            (created >= seconds(key) && good(signature)).then_some((created, signature))
        });
        counting
            .max_by_key(|(created, _)| *created)
            .map(|(_, signature)| signature)
    }
}

/// When a key was made, in seconds since the epoch.
fn seconds(key: &impl KeyDetails) -> u64 {
    u64::from(key.created_at().as_secs())
}

/// When a key expires, as a signature says; no time at all stands for never.
fn expiry(key: &impl KeyDetails, said: &Signature) -> Option<u64> {
    let lifetime = said.key_expiration_time()?.as_secs();
    (lifetime != 0).then(|| seconds(key).saturating_add(u64::from(lifetime)))
}

/// Whether a key is for signing, if a signature on it says so or not.
fn may_sign(said: &Signature) -> Option<bool> {
    let mut parts = said.config()?.hashed_subpackets();
    parts.find_map(|part| match &part.data {
        SubpacketData::KeyFlags(flags) => Some(flags.sign()),
        _ => None,
    })
}

/// The signature that makes a subkey a part of its certificate, for signing; says why there is none.
fn binding<'a>(
    primary: &PublicKey,
    key: &PublicSubkey,
    part: &'a Part,
    now: u64,
) -> Result<&'a Signature, &'static str> {
    strength::of_key(key)?;
    if part.has(SignatureType::SubkeyRevocation) || part.has(SignatureType::KeyRevocation) {
        return Err("its key was revoked");
    }
    let is_binding = |signature: &Signature| {
        signature.typ() == Some(SignatureType::SubkeyBinding) && signature.verify_subkey_binding(primary, key).is_ok()
    };
    let bound = part
        .latest(key, now, is_binding)
        .filter(|said| may_sign(said) == Some(true));
    // A key of somebody else could be bound to any other: it has to agree.
    let agreed = bound.filter(|said| {
        said.embedded_signature().is_some_and(|back| {
            strength::of_signature(back).is_ok()
                && strength::in_time(back, now).is_ok()
                && back.verify_primary_key_binding(key, primary).is_ok()
        })
    });
    agreed.ok_or("its key is not for signing")
}

/// The latest that a primary key said of itself directly, and the latest with a name that it still has. Both hold.
fn own_words<'a>(primary: &PublicKey, first: &'a Part, others: &'a [Part], now: u64) -> Vec<&'a Signature> {
    let is_direct =
        |signature: &Signature| signature.typ() == Some(SignatureType::Key) && signature.verify_key(primary).is_ok();
    let direct = first.latest(primary, now, is_direct);
    let named = others.iter().filter_map(|part| {
        if part.has(SignatureType::CertRevocation) {
            return None;
        }
        part.latest(primary, now, |signature| {
            signature.is_certification()
                && match &part.packet {
                    Some(Packet::UserId(name)) => signature.verify_certification(primary, Tag::UserId, name).is_ok(),
                    Some(Packet::UserAttribute(name)) => signature
                        .verify_certification(primary, Tag::UserAttribute, name)
                        .is_ok(),
                    _ => false,
                }
        })
    });
    let named = named.max_by_key(|signature| signature.created().map(|created| created.as_secs()));
    direct.into_iter().chain(named).collect()
}
