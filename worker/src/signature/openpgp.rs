//! Signatures of OpenPGP (RFC 9580, and RFC 4880 before it): version 4, over bytes as they are.
//!
//! rPGP takes packets apart and does the mathematics. What of that counts is decided here.
//!
//! | module | part |
//! |---|---|
//! | [`certificate`] | which keys of a certificate may sign, and until when |
//! | [`strength`] | which keys and hashes are strong, and which signatures count at all |

mod certificate;
mod strength;

use std::io::{self, BufReader, Read, Seek};

use pgp::armor::{BlockType, Dearmor, DearmorOptions};
use pgp::packet::{Packet, PacketParser, Signature, SignatureType};

use super::{Demands, SignatureError};
use certificate::Certificate;

const KEYS: &str = "an OpenPGP key";
const SIGNATURE: &str = "an OpenPGP signature";
const BEGIN: &str = "-----BEGIN PGP ";
/// Most bytes of one block, as text.
const MAX_BLOCK_BYTES: usize = 512 << 10;
/// Most blocks, packets in them, certificates and signatures that are looked at.
const MAX_BLOCKS: usize = 64;
const MAX_PACKETS: usize = 4096;
const MAX_CERTIFICATES: usize = 64;
const MAX_SIGNATURES: usize = 16;

/// Checks that one of the keys made one of the signatures over the message; both are in text form. `now` is the time in
/// seconds since the epoch. Blocks.
pub(super) fn verify(
    keys: &str,
    signature: &str,
    message: &mut (impl Read + Seek),
    demands: Demands,
    now: u64,
) -> Result<(), SignatureError> {
    let certificates = certificates(keys, now)?;
    let mut failure = SignatureError::NotByKeys;
    for signature in signatures(signature)? {
        let checked = hash(&signature, message).and_then(|hash| {
            let by = certificates.iter().find_map(|one| one.signer(&signature, &hash));
            let signer = by.ok_or(SignatureError::NotByKeys)?;
            signer.check(&signature, demands, now).map_err(SignatureError::Unfit)
        });
        match checked {
            Ok(()) => return Ok(()),
            // What is said of a key that did make it tells more.
            Err(error) if failure == SignatureError::NotByKeys => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

/// What a signature is about: the message and what the signature says itself.
fn hash(signature: &Signature, message: &mut (impl Read + Seek)) -> Result<Box<[u8]>, SignatureError> {
    let config = signature.config().filter(|config| config.typ == SignatureType::Binary);
    let config = config.ok_or(SignatureError::Unsupported("the kind of this OpenPGP signature"))?;
    strength::of_signature(signature).map_err(SignatureError::Unfit)?;
    let damaged = |_| SignatureError::Malformed {
        what: SIGNATURE,
        problem: "what it says cannot be hashed",
    };
    let mut hasher = config
        .hash_alg
        .new_hasher()
        .map_err(|_| SignatureError::Unsupported("the hash of this OpenPGP signature"))?;
    message.rewind().map_err(unreadable)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match message.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    let length = config.hash_signature_data(&mut hasher).map_err(damaged)?;
    hasher.update(&config.trailer(length).map_err(damaged)?);
    Ok(hasher.finalize())
}

fn unreadable(error: io::Error) -> SignatureError {
    SignatureError::Unreadable(error.kind())
}

/// The certificates in a text.
fn certificates(text: &str, now: u64) -> Result<Vec<Certificate>, SignatureError> {
    let mut certificates = Vec::new();
    for block in blocks(text, BlockType::PublicKey, KEYS)? {
        certificates.extend(Certificate::read_all(block, now));
    }
    let problem = match certificates.len() {
        0 => "there is none",
        1..=MAX_CERTIFICATES => return Ok(certificates),
        _ => "there are too many",
    };
    Err(SignatureError::Malformed { what: KEYS, problem })
}

/// The signatures in a text.
fn signatures(text: &str) -> Result<Vec<Signature>, SignatureError> {
    let packets = blocks(text, BlockType::Signature, SIGNATURE)?.into_iter().flatten();
    let signatures = packets.filter_map(|packet| match packet {
        Some(Packet::Signature(signature)) => Some(signature),
        _ => None,
    });
    let signatures: Vec<_> = signatures.take(MAX_SIGNATURES + 1).collect();
    let problem = match signatures.len() {
        0 => "there is none",
        1..=MAX_SIGNATURES => return Ok(signatures),
        _ => "there are too many",
    };
    Err(SignatureError::Malformed {
        what: SIGNATURE,
        problem,
    })
}

/// The packets in each block of a kind; `None` stands for one that is not known. What is between blocks does not matter.
fn blocks(text: &str, kind: BlockType, what: &'static str) -> Result<Vec<Vec<Option<Packet>>>, SignatureError> {
    let malformed = |problem| SignatureError::Malformed { what, problem };
    let starts: Vec<_> = text
        .match_indices(BEGIN)
        .map(|(at, _)| at)
        .take(MAX_BLOCKS + 1)
        .collect();
    if starts.len() > MAX_BLOCKS {
        return Err(malformed("there are too many blocks"));
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let mut blocks = Vec::new();
    for (&start, end) in starts.iter().zip(ends) {
        let options = DearmorOptions::new().set_limit(MAX_BLOCK_BYTES);
        let mut armor = Dearmor::with_options(BufReader::new(&text.as_bytes()[start..end]), options);
        armor.read_header().map_err(|_| malformed("its beginning is damaged"))?;
        if armor.typ != Some(kind) {
            continue;
        }
        let mut bytes = Vec::new();
        let read = armor.read_to_end(&mut bytes);
        read.map_err(|_| malformed("it is not text between two lines of dashes"))?;
        blocks.push(packets(&bytes).ok_or_else(|| malformed("a part of it is damaged"))?);
    }
    Ok(blocks)
}

fn packets(bytes: &[u8]) -> Option<Vec<Option<Packet>>> {
    let mut packets = Vec::new();
    for packet in PacketParser::new(bytes) {
        packets.push(match packet {
            Ok(Packet::Marker(_) | Packet::Padding(_) | Packet::Trust(_)) => continue,
            Ok(packet) => Some(packet),
            Err(error) if is_unknown(&error) => None,
            Err(_) => return None,
        });
        if packets.len() > MAX_PACKETS {
            return None;
        }
    }
    Some(packets)
}

/// Whether a packet is of a kind or a version that is not known, and may be.
fn is_unknown(error: &pgp::errors::Error) -> bool {
    match error {
        pgp::errors::Error::Unsupported { .. } => true,
        pgp::errors::Error::InvalidPacketContent { source } => is_unknown(source),
        _ => false,
    }
}
