//! Whether results are for the platforms that were asked for.

use std::collections::BTreeSet;

use cairn_solver::Platform;
use cairn_worker::service::{ExportInput, ExportRefs};

use crate::failure::Failure;
use crate::result_platforms::{listed, unlisted};

/// What users are told if results are not for the platforms in `wanted`, a list with commas; without one, this machine's
/// is meant.
///
/// # Errors
/// If it is not said which result is for which platform.
pub(super) fn findings(wanted: Option<&str>, input: &ExportInput) -> Result<Vec<String>, Failure> {
    let listed = listed(&input.metadata)?;
    let is_map = match &input.refs {
        ExportRefs::Platforms(results) => !results.is_empty(),
        ExportRefs::Single(None) if listed.is_none() => return Ok(Vec::new()),
        ExportRefs::Single(_) => false,
    };
    let made = match listed {
        Some(listed) => listed.into_iter().map(|listed| listed.platform).collect(),
        None if is_map => {
            let message = "build result contains multiple refs without platforms mapping";
            return Err(Failure::unknown(message));
        }
        None => vec![unlisted(&input.metadata)],
    };
    let made: BTreeSet<String> = made.into_iter().map(|made| made.normalized().to_string()).collect();
    Ok(compare(wanted, is_map, &made))
}

fn compare(wanted: Option<&str>, is_map: bool, made: &BTreeSet<String>) -> Vec<String> {
    let host = Platform::host().to_string();
    let (mut asked, mut findings) = (BTreeSet::new(), Vec::new());
    for name in wanted.unwrap_or(&host).split(',') {
        match name.parse::<Platform>() {
            Err(error) => findings.push(format!("Invalid platform result requested {name:?}: {error}")),
            Ok(platform) => {
                if !asked.insert(platform.to_string()) {
                    findings.push(format!("Duplicate platform result requested {name:?}"));
                }
            }
        }
    }
    if !findings.is_empty() || asked == *made {
        return findings;
    }
    let list = |platforms: &BTreeSet<String>| platforms.iter().cloned().collect::<Vec<_>>().join(",");
    vec![match (asked.len(), made.len()) {
        (1, 1) => format!(
            "Requested platform {:?} does not match result platform {:?}",
            wanted.unwrap_or(&host),
            list(made)
        ),
        (2.., _) if !is_map => "Multiple platforms requested but result is not multi-platform".to_owned(),
        _ => format!(
            "Requested platforms {} do not match result platforms {}",
            list(&asked),
            list(made)
        ),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result_platforms::PLATFORMS;

    #[test]
    fn only_what_does_not_match_is_told() {
        let (amd64, arm64) = ("linux/amd64", "linux/arm64");
        for (wanted, is_map, made, want) in [
            (Some(amd64), false, &[amd64][..], &[][..]),
            (Some("x86_64"), false, &[amd64], &[]),
            (Some("linux/arm64,linux/amd64"), true, &[amd64, arm64], &[]),
            (
                Some(amd64),
                false,
                &[arm64],
                &["Requested platform \"linux/amd64\" does not match result platform \"linux/arm64\""],
            ),
            (
                Some("linux/amd64,linux/arm64"),
                false,
                &[amd64],
                &["Multiple platforms requested but result is not multi-platform"],
            ),
            (
                Some(amd64),
                true,
                &[amd64, arm64],
                &["Requested platforms linux/amd64 do not match result platforms linux/amd64,linux/arm64"],
            ),
            (
                Some("linux/amd64,amd64"),
                false,
                &[amd64],
                &["Duplicate platform result requested \"amd64\""],
            ),
        ] {
            let made = made.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(compare(wanted, is_map, &made), want, "{wanted:?}");
        }
        let odd = compare(Some("a/b/c/d"), false, &BTreeSet::new());
        assert!(
            odd[0].starts_with("Invalid platform result requested \"a/b/c/d\": "),
            "{odd:?}"
        );
        let host = Platform::host().to_string();
        assert!(compare(None, false, &[host].into()).is_empty());
    }

    #[test]
    fn what_is_for_which_platform_has_to_be_said() {
        let input = |refs, metadata: &[(&str, &str)]| ExportInput {
            refs,
            metadata: metadata
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned().into()))
                .collect(),
            attestations: std::collections::BTreeMap::new(),
            inline_cache: None,
        };
        let map = || ExportRefs::Platforms([("linux/amd64".to_owned(), None)].into());
        let refused = findings(None, &input(map(), &[])).unwrap_err();
        assert!(refused.message().contains("without platforms mapping"));
        let refused = findings(None, &input(map(), &[(PLATFORMS, "{")])).unwrap_err();
        assert!(refused.message().starts_with("failed to parse platforms"));
        let listed = r#"{"Platforms":[{"ID":"a","Platform":{"architecture":"s390x","os":"linux"}}]}"#;
        let found = findings(Some("linux/amd64"), &input(map(), &[(PLATFORMS, listed)])).unwrap();
        assert!(found[0].ends_with("result platform \"linux/s390x\""), "{found:?}");
        assert!(
            findings(None, &input(ExportRefs::Single(None), &[]))
                .unwrap()
                .is_empty()
        );
    }
}
