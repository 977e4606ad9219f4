//! What is removed when nobody says what.

use std::time::Duration;

use super::{DiskSpace, GcPolicySection};

/// Room for what can be had again easily.
const EASY: u64 = 512_000_000;

/// Policies used when none are written down: first what can be had again easily and was not used for two days, then
/// whatever exceeds the space limits, oldest first. Limits that nobody set have values of their own only if none was set:
/// who says how much is to be kept (`gckeepstorage`) means that nothing else is.
pub(super) fn default_policies(
    reserved: Option<DiskSpace>,
    max: Option<DiskSpace>,
    free: Option<DiskSpace>,
) -> Vec<GcPolicySection> {
    let days = |n: u64| Some(Duration::from_secs(n * 24 * 3600));
    let share = |percent, most| Some(DiskSpace::PercentUpTo(percent, most));
    let is_set = [reserved, max, free].iter().any(Option::is_some);
    let (reserved, max, free) = if is_set {
        (reserved, max, free)
    } else {
        let free = Some(DiskSpace::Percent(20));
        (share(10, 10_000_000_000), share(80, 100_000_000_000), free)
    };
    let limits = GcPolicySection {
        reserved_space: reserved,
        max_used_space: max,
        min_free_space: free,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_usual_values_only_if_none_is_set() {
        let limits = |reserved, max, free| {
            let last = default_policies(reserved, max, free).pop().unwrap();
            let bytes = |space: Option<DiskSpace>| space.map(|space| space.bytes(1_000_000_000_000));
            [last.reserved_space, last.max_used_space, last.min_free_space].map(bytes)
        };
        let gigabytes = |n: u64| Some(n * 1_000_000_000);
        assert_eq!(
            limits(None, None, None),
            [gigabytes(10), gigabytes(100), gigabytes(200)]
        );
        let some = Some(DiskSpace::Bytes(5));
        assert_eq!(limits(some, None, None), [Some(5), None, None]);
        assert_eq!(limits(None, None, some), [None, None, Some(5)]);
        let tenth = Some(DiskSpace::Percent(10));
        assert_eq!(limits(some, tenth, None), [Some(5), gigabytes(100), None]);
    }
}
