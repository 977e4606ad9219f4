//! Configs of images that were asked for lately.

use std::collections::VecDeque;

use bytes::Bytes;
use cairn_solver::Platform;
use parking_lot::Mutex;

use crate::registry::Reference;

/// How many configs are kept.
const MAX_CONFIGS: usize = 64;
/// The largest that is kept, in bytes.
const MAX_SIZE: usize = 64 * 1024;

/// Spares builds from reading the same few documents each time. What a digest and a platform lead to never changes, so
/// nothing in here gets old.
#[derive(Default)]
pub(in crate::embedded) struct RecentConfigs(Mutex<VecDeque<Recent>>);

struct Recent {
    /// With a digest.
    reference: Reference,
    platform: Platform,
    config: Bytes,
}

impl RecentConfigs {
    /// The config of the image for `platform` at `reference`, which has a digest.
    pub(super) fn get(&self, reference: &Reference, platform: &Platform) -> Option<Bytes> {
        let mut kept = self.0.lock();
        let is_meant = |recent: &Recent| recent.reference == *reference && recent.platform == *platform;
        let place = kept.iter().position(is_meant)?;
        let recent = kept.remove(place)?;
        let config = recent.config.clone();
        kept.push_back(recent);
        Some(config)
    }

    /// Keeps a config, in place of the one that was not asked for the longest.
    pub(super) fn put(&self, reference: Reference, platform: Platform, config: &Bytes) {
        if config.len() > MAX_SIZE || self.get(&reference, &platform).is_some() {
            return;
        }
        let mut kept = self.0.lock();
        if kept.len() == MAX_CONFIGS {
            kept.pop_front();
        }
        kept.push_back(Recent {
            reference,
            platform,
            // It may be a part of something larger.
            config: Bytes::copy_from_slice(config),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::image::parse_reference;

    fn reference(number: usize) -> Reference {
        let digest = cairn_solver::Digest::sha256(number.to_string().as_bytes());
        parse_reference("a/b").unwrap().with_digest(digest)
    }

    #[test]
    fn what_was_asked_for_lately_is_known_by_digest_and_platform() {
        let (recent, host) = (RecentConfigs::default(), Platform::host());
        let mut other = host.clone();
        other.architecture = "s390x".to_owned();
        recent.put(reference(0), host.clone(), &Bytes::from_static(b"0"));
        assert_eq!(recent.get(&reference(0), &host).unwrap(), "0");
        assert!(recent.get(&reference(0), &other).is_none());
        assert!(recent.get(&reference(1), &host).is_none());
        for number in 1..MAX_CONFIGS {
            recent.put(reference(number), host.clone(), &Bytes::from_static(b"n"));
        }
        // Asked for again, so another one has to go.
        assert!(recent.get(&reference(0), &host).is_some());
        recent.put(reference(MAX_CONFIGS), host.clone(), &Bytes::from_static(b"n"));
        assert!(recent.get(&reference(0), &host).is_some());
        assert!(recent.get(&reference(1), &host).is_none());
        assert_eq!(recent.0.lock().len(), MAX_CONFIGS);
    }

    #[test]
    fn large_ones_are_not_kept() {
        let (recent, host) = (RecentConfigs::default(), Platform::host());
        recent.put(reference(0), host.clone(), &vec![b' '; MAX_SIZE + 1].into());
        assert!(recent.get(&reference(0), &host).is_none());
    }
}
