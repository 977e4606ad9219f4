//! How much a sender may send, and how long it may pause.

use std::time::Duration;

/// Bounds of one transfer. The defaults are far beyond any real build context.
#[derive(Debug, Clone)]
pub struct TransferLimits {
    /// Entries in the list.
    pub max_entries: u32,
    /// Bytes of packets altogether.
    pub max_bytes: u64,
    /// Time without a packet, while something is still to come.
    pub max_pause: Duration,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            max_entries: 5_000_000,
            max_bytes: 4 << 40,
            // Looking through a directory of which nearly everything is excluded sends nothing for a while.
            max_pause: Duration::from_secs(10 * 60),
        }
    }
}

/// How many bytes of content a file of the announced size may have: it can grow while it is read, but not for ever.
pub(crate) fn max_content(size: i64) -> u64 {
    size.unsigned_abs().saturating_mul(2).saturating_add(64 << 20)
}
