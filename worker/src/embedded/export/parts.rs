//! What is exported, platform by platform.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_solver::worker::{Ref, WorkerError};
use cairn_solver::{Attestation, AttestationSource, Platform};
use jiff::Timestamp;
use serde::Deserialize;

use crate::service::{ExportInput, ExportRefs};

/// Key of a frontend's list of platforms.
const PLATFORMS: &str = "refs.platforms";
/// Key of a config; here and below followed by `/<platform>` where there are several.
const CONFIG: &str = "containerimage.config";
/// Key of the base image's config.
const BASE_CONFIG: &str = "containerimage.base.config";
/// Key of a time for everything that is made, in seconds.
const EPOCH: &str = "source.date.epoch";

/// The result for one platform, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The platform's id.
    pub(super) id: String,
    pub(super) platform: Platform,
    pub(super) result: Option<Ref>,
    /// The image's config.
    pub(super) config: Option<Bytes>,
    /// The base image's config.
    pub(super) base_config: Option<Bytes>,
    /// `SOURCE_DATE_EPOCH`, as the frontend has it.
    pub(super) epoch: Option<Timestamp>,
    pub(super) attestations: Vec<Attestation<AttestationSource>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Platforms {
    #[serde(default)]
    platforms: Vec<Listed>,
}

#[derive(Clone, Deserialize)]
struct Listed {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

/// The parts of `input` in the order in which the frontend lists their platforms; `metadata` are its metadata, with
/// what the client adds to them.
pub(super) fn parts(input: &ExportInput, metadata: &BTreeMap<String, Bytes>) -> Result<Vec<Part>, WorkerError> {
    let listed = listed(metadata)?;
    match &input.refs {
        ExportRefs::Single(result) => {
            if listed.len() > 1 {
                return Err(WorkerError::Invalid(format!(
                    "unable to export multiple platforms without map: one result is said to be for {}",
                    listed.len()
                )));
            }
            let said = metadata.get(CONFIG).and_then(|config| platform_of(config));
            let listed = listed.into_iter().next();
            let platform = said.or_else(|| Some(listed.as_ref()?.platform.clone()));
            let platform = platform.unwrap_or_else(Platform::host);
            let id = listed.map_or_else(|| platform.to_string(), |listed| listed.id);
            Ok(vec![part(id, platform, result.clone(), input, metadata)?])
        }
        ExportRefs::Platforms(results) if listed.is_empty() => {
            let parts = results.iter().map(|(id, result)| {
                let platform = id.parse();
                let platform =
                    platform.map_err(|error| WorkerError::Invalid(format!("result for platform {id:?}: {error}")))?;
                part(id.clone(), platform, result.clone(), input, metadata)
            });
            parts.collect()
        }
        ExportRefs::Platforms(results) => {
            let parts = listed.into_iter().map(|Listed { id, platform }| {
                let result = results
                    .get(&id)
                    .ok_or_else(|| WorkerError::Invalid(format!("failed to find ref for ID {id}")))?;
                part(id, platform, result.clone(), input, metadata)
            });
            parts.collect()
        }
    }
}

fn listed(metadata: &BTreeMap<String, Bytes>) -> Result<Vec<Listed>, WorkerError> {
    let Some(json) = metadata.get(PLATFORMS) else {
        return Ok(Vec::new());
    };
    let parsed: Result<Platforms, _> = serde_json::from_slice(json);
    match parsed {
        Ok(parsed) => Ok(parsed.platforms),
        Err(error) => Err(WorkerError::Invalid(format!(
            "failed to parse platforms passed to exporter: {error}"
        ))),
    }
}

fn part(
    id: String,
    platform: Platform,
    result: Option<Ref>,
    input: &ExportInput,
    metadata: &BTreeMap<String, Bytes>,
) -> Result<Part, WorkerError> {
    let is_single = matches!(input.refs, ExportRefs::Single(_));
    let find = |key: &str| {
        let general = || metadata.get(key).filter(|_| is_single);
        metadata.get(&format!("{key}/{id}")).or_else(general).cloned()
    };
    let config = find(CONFIG);
    let said = config.as_deref().and_then(platform_of);
    let mut platform = platform.normalized();
    // Which build of an operating system an image is for, only its config says.
    if let Some(said) = said.filter(|said| (&said.os, &said.architecture) == (&platform.os, &platform.architecture)) {
        if platform.os_version.is_empty() {
            platform.os_version = said.os_version;
        }
        if platform.os_features.is_empty() {
            platform.os_features = said.os_features;
        }
    }
    let epoch = find(EPOCH).map(|epoch| parse_epoch(&String::from_utf8_lossy(&epoch)));
    Ok(Part {
        platform,
        result,
        base_config: find(BASE_CONFIG),
        config,
        epoch: epoch.transpose()?,
        attestations: input.attestations.get(&id).cloned().unwrap_or_default(),
        id,
    })
}

fn parse_epoch(text: &str) -> Result<Timestamp, WorkerError> {
    let seconds = text.parse().ok();
    let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.ok_or_else(|| WorkerError::Invalid(format!("invalid SOURCE_DATE_EPOCH: {text}")))
}

/// What an image config says the image is for.
fn platform_of(config: &[u8]) -> Option<Platform> {
    let platform: Platform = serde_json::from_slice(config).ok()?;
    let is_said = !platform.os.is_empty() && !platform.architecture.is_empty();
    is_said.then(|| platform.normalized())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, Bytes> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect()
    }

    fn input(refs: ExportRefs) -> ExportInput {
        ExportInput {
            refs,
            metadata: BTreeMap::new(),
            inline_cache: None,
            attestations: BTreeMap::new(),
        }
    }

    const TWO: &str = r#"{"Platforms":[
        {"ID":"linux/s390x","Platform":{"architecture":"s390x","os":"linux"}},
        {"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}}]}"#;

    #[test]
    fn platforms_come_in_the_frontends_order() {
        let results = ["linux/amd64", "linux/s390x"].map(|id| (id.to_owned(), None));
        let input = input(ExportRefs::Platforms(results.into()));
        let ids = |metadata| -> Vec<String> {
            let parts = parts(&input, &metadata).unwrap();
            parts.into_iter().map(|part| part.id).collect()
        };
        assert_eq!(
            ids(metadata(&[("refs.platforms", TWO)])),
            ["linux/s390x", "linux/amd64"]
        );
        assert_eq!(ids(metadata(&[])), ["linux/amd64", "linux/s390x"]);
    }

    #[test]
    fn facts_of_platforms_do_not_mix() {
        let results = ["linux/amd64", "linux/s390x"].map(|id| (id.to_owned(), None));
        let input = input(ExportRefs::Platforms(results.into()));
        let metadata = metadata(&[
            ("containerimage.config", "general"),
            ("containerimage.config/linux/amd64", "special"),
            ("source.date.epoch/linux/s390x", "60"),
        ]);
        let parts = parts(&input, &metadata).unwrap();
        assert_eq!(parts[0].config.as_deref(), Some(&b"special"[..]));
        assert_eq!((parts[0].epoch, &parts[1].config), (None, &None));
        assert_eq!(parts[1].epoch.unwrap().as_second(), 60);
    }

    #[test]
    fn a_single_result_is_for_what_its_config_says() {
        let input = input(ExportRefs::Single(None));
        let one = r#"{"Platforms":[{"ID":"linux/arm","Platform":{"architecture":"arm","os":"linux"}}]}"#;
        let config = r#"{"os":"windows","architecture":"amd64","os.version":"10"}"#;
        let part = |pairs: &[(&str, &str)]| {
            let part = parts(&input, &metadata(pairs)).unwrap().remove(0);
            (part.id, part.platform.to_string(), part.platform.os_version)
        };
        let host = Platform::host().to_string();
        assert_eq!(part(&[]), (host.clone(), host, String::new()));
        let listed = ("refs.platforms", one);
        assert_eq!(
            part(&[listed]),
            ("linux/arm".into(), "linux/arm/v7".into(), String::new())
        );
        assert_eq!(
            part(&[listed, ("containerimage.config", config)]),
            ("linux/arm".into(), "windows/amd64".into(), "10".into())
        );
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        let single = input(ExportRefs::Single(None));
        let several = input(ExportRefs::Platforms([("linux/amd64".to_owned(), None)].into()));
        let odd = input(ExportRefs::Platforms([("../..".to_owned(), None)].into()));
        for (input, pairs, want) in [
            (
                &single,
                &[("refs.platforms", TWO)][..],
                "unable to export multiple platforms without map: one result is said to be for 2",
            ),
            (
                &single,
                &[("refs.platforms", "1")],
                "failed to parse platforms passed to exporter",
            ),
            (
                &single,
                &[("source.date.epoch", "soon")],
                "invalid SOURCE_DATE_EPOCH: soon",
            ),
            (
                &several,
                &[("refs.platforms", TWO)],
                "failed to find ref for ID linux/s390x",
            ),
            (&odd, &[], "result for platform \"../..\""),
        ] {
            let error = parts(input, &metadata(pairs)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
