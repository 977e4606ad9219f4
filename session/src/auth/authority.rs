//! Keys by which a daemon recognises a user.
//!
//! A daemon may hand a token that one session fetched to another only if both hold the same key. It is an
//! Ed25519 key made from the user's seed, the daemon's salt and the registry host: the same user shows the same
//! key to the same daemon, and keys that different daemons see cannot be linked.

use std::path::PathBuf;

use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use tokio::sync::OnceCell;

use super::seed::{Seed, SeedError};

/// Keeps these keys apart from whatever else may ever be made from the seed.
const PURPOSE: &[u8] = b"cairn token authority v1\0";
const SIGNATURE_LEN: usize = 64;

/// Makes keys, from a seed that is looked for when the first key is wanted.
#[derive(Debug)]
pub(super) struct Authority {
    directory: Option<PathBuf>,
    seed: OnceCell<Seed>,
}

impl Authority {
    /// `directory` is where the seed is kept; without one it lasts as long as the process.
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            seed: OnceCell::new(),
        }
    }

    /// The key for a host, as shown to the daemon of that salt.
    pub(super) async fn key(&self, host: &str, salt: &[u8]) -> Result<AuthorityKey, SeedError> {
        let seed = self.seed.get_or_try_init(|| self.find_seed()).await?;
        AuthorityKey::derive(seed, host, salt)
    }

    async fn find_seed(&self) -> Result<Seed, SeedError> {
        let directory = self.directory.clone();
        let find = move || match directory {
            Some(directory) => Seed::kept_in(&directory),
            None => Seed::random(),
        };
        tokio::task::spawn_blocking(find).await.map_err(|_| SeedError)?
    }
}

/// A key pair; formatting it shows the public half alone.
#[derive(Debug)]
pub(super) struct AuthorityKey(Ed25519KeyPair);

impl AuthorityKey {
    fn derive(seed: &Seed, host: &str, salt: &[u8]) -> Result<Self, SeedError> {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, seed.expose()));
        mac.update(PURPOSE);
        // The length keeps a host and a salt from being read as another pair.
        mac.update(&(host.len() as u64).to_be_bytes());
        mac.update(host.as_bytes());
        mac.update(salt);
        let pair = Ed25519KeyPair::from_seed_unchecked(mac.sign().as_ref());
        pair.map(Self).map_err(|_| SeedError)
    }

    pub(super) fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The signature, then what was signed.
    pub(super) fn sign(&self, payload: &[u8]) -> Vec<u8> {
        [self.0.sign(payload).as_ref(), payload].concat()
    }
}

/// What was signed, if the key of `public` signed it.
pub(super) fn open<'a>(public: &[u8; 32], signed: &'a [u8]) -> Option<&'a [u8]> {
    let (signature, payload) = signed.split_at_checked(SIGNATURE_LEN)?;
    let key = UnparsedPublicKey::new(&ED25519, public);
    key.verify(payload, signature).ok().map(|()| payload)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn public(key: &AuthorityKey) -> [u8; 32] {
        key.public().try_into().unwrap()
    }

    #[tokio::test]
    async fn signs_what_its_public_half_opens() {
        let authority = Authority::new(None);
        let key = authority.key("ghcr.io", b"salt").await.unwrap();
        let signed = key.sign(b"payload");
        assert_eq!(signed.len(), SIGNATURE_LEN + b"payload".len());
        assert_eq!(open(&public(&key), &signed), Some(&b"payload"[..]));
        for at in [0, SIGNATURE_LEN] {
            let mut forged = signed.clone();
            forged[at] ^= 1;
            assert_eq!(open(&public(&key), &forged), None, "{at}");
        }
        assert_eq!(open(&public(&key), &signed[..SIGNATURE_LEN - 1]), None);
        let other = authority.key("quay.io", b"salt").await.unwrap();
        assert_eq!(open(&public(&other), &signed), None);
    }

    #[tokio::test]
    async fn the_same_user_shows_the_same_key_to_the_same_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let here = || Authority::new(Some(dir.path().to_owned()));
        let key = public(&here().key("ghcr.io", b"salt").await.unwrap());
        assert_eq!(public(&here().key("ghcr.io", b"salt").await.unwrap()), key);
        for (host, salt) in [("ghcr.io", &b"tlas"[..]), ("quay.io", b"salt"), ("ghcr.ios", b"alt")] {
            assert_ne!(public(&here().key(host, salt).await.unwrap()), key, "{host}");
        }
        let elsewhere = Authority::new(None).key("ghcr.io", b"salt").await.unwrap();
        assert_ne!(public(&elsewhere), key);
    }

    /// A key that changed would cost every user their shared tokens. The value was worked out by other means.
    #[test]
    fn keys_stay_as_they_are() {
        let key = AuthorityKey::derive(&Seed::fixed(), "ghcr.io", b"salt").unwrap();
        assert_eq!(
            STANDARD.encode(key.public()),
            "tz8viBDTQx7HijbmqskWQoF+aRs6+dDDRpuoOybX8rU="
        );
    }
}
