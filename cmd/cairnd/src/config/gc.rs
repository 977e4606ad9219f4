//! What is removed when nobody says what.

use std::time::Duration;

use super::{DiskSpace, GcPolicySection};

/// Room for what can be had again easily.
const EASY: u64 = 512_000_000;

/// Policies used when none are written down: first what can be had again easily and was not used for two days, then
/// whatever exceeds the space limits, oldest first.
pub(super) fn default_policies(
    reserved: Option<DiskSpace>,
    max: Option<DiskSpace>,
    free: Option<DiskSpace>,
) -> Vec<GcPolicySection> {
    let days = |n: u64| Some(Duration::from_secs(n * 24 * 3600));
    let share = |percent, most| Some(DiskSpace::PercentUpTo(percent, most));
    let limits = GcPolicySection {
        reserved_space: reserved.or_else(|| share(10, 10_000_000_000)),
        max_used_space: max.or_else(|| share(80, 100_000_000_000)),
        min_free_space: free.or(Some(DiskSpace::Percent(20))),
        ..GcPolicySection::default()
    };
    vec![
        GcPolicySection {
            filters: vec![
                "type==source.local".to_owned(),
                "type==exec.cachemount".to_owned(),
                "type==source.git.checkout".to_owned(),
            ],
            keep_duration: days(2),
            max_used_space: Some(DiskSpace::Bytes(EASY)),
            ..GcPolicySection::default()
        },
        GcPolicySection {
            keep_duration: days(60),
            ..limits.clone()
        },
        limits.clone(),
        GcPolicySection { all: true, ..limits },
    ]
}
