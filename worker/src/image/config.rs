//! Image configs: what a frontend supplied, completed with what was built.

use std::collections::BTreeMap;

use cairn_solver::{Digest, Platform};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::descriptor::Descriptor;
use super::json;

/// Comment of history entries that no instruction accounts for.
const HISTORY_COMMENT: &str = "buildkit.exporter.image.v0";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where inline cache records stand.
const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

/// A layer of an image, with hints for the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// When it was made, if known.
    pub created: Option<Timestamp>,
    /// What made it, for a layer without a history entry.
    pub description: String,
}

/// What else goes into a config.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConfigOptions<'a> {
    /// `SOURCE_DATE_EPOCH`: no time in the config is later, but those of entries that are the base image's.
    pub epoch: Option<Timestamp>,
    /// The config of the base image, if there is one.
    pub base: Option<&'a [u8]>,
    /// Cache records to embed: a JSON document.
    pub inline_cache: Option<&'a [u8]>,
}

/// Why a config cannot be completed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no JSON object, or one of its known fields has a wrong type.
    #[error("malformed image config")]
    Json(#[from] serde_json::Error),
}

type Object = BTreeMap<String, Box<RawValue>>;

/// Completes the config `base` (the frontend's JSON, or nothing) for an image of `layers`, bottom first.
///
/// `rootfs` is replaced, `history` completed, `created` set unless `base` says; os and architecture are filled in
/// when missing. Every other field stays as it is, known or not. The result is compact JSON with sorted
/// keys, in the characters that Docker's tools write.
///
/// # Errors
/// [`ConfigError`] when `base` is malformed.
pub fn complete_config(
    base: Option<&[u8]>,
    platform: &Platform,
    layers: &[ImageLayer],
    options: &ConfigOptions<'_>,
) -> Result<Vec<u8>, ConfigError> {
    let mut config: Object = match base {
        Some(base) if !base.is_empty() => serde_json::from_slice(base)?,
        _ => empty_config()?,
    };
    fill_platform(&mut config, platform)?;
    let history = config
        .get("history")
        .map(|raw| serde_json::from_str::<Option<Vec<Entry>>>(raw.get()))
        .transpose()?;
    let history = history.flatten().unwrap_or_default();
    let inherited = inherited(&history, options.base);
    let history = complete_history(history, inherited, layers, options.epoch);
    let newest = history.iter().rev().find_map(|entry| entry.created);
    config.insert("history".into(), to_raw_value(&history)?);
    config.insert("rootfs".into(), to_raw_value(&RootFs::of(layers))?);
    let created = options.epoch.or(newest.filter(|_| is_absent(&config, "created")));
    // As with other builders, it is there also if nothing is known of it.
    if created.is_some() || !config.contains_key("created") {
        config.insert("created".into(), to_raw_value(&created)?);
    }
    if let Some(records) = options.inline_cache {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, records);
        config.insert(INLINE_CACHE.into(), to_raw_value(&text)?);
    }
    // Raw values keep what they were read with.
    Ok(json::compact_escaped(&serde_json::to_vec(&config)?))
}

fn empty_config() -> Result<Object, ConfigError> {
    let process = serde_json::json!({ "Env": [DEFAULT_PATH], "WorkingDir": "/" });
    Ok([("config".to_owned(), to_raw_value(&process)?)].into())
}

fn fill_platform(config: &mut Object, platform: &Platform) -> Result<(), ConfigError> {
    let has_platform = !is_absent(config, "os") && !is_absent(config, "architecture");
    if has_platform {
        return Ok(());
    }
    for (key, value) in [
        ("os", &platform.os),
        ("architecture", &platform.architecture),
        ("variant", &platform.variant),
        ("os.version", &platform.os_version),
    ] {
        if !value.is_empty() {
            config.insert(key.to_owned(), to_raw_value(value)?);
        }
    }
    Ok(())
}

/// The uncompressed digests of the layers that a config lists, lowest first.
///
/// # Errors
/// If the bytes are no config.
pub fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: Listed,
    }
    #[derive(Deserialize)]
    struct Listed {
        #[serde(default)]
        diff_ids: Vec<Digest>,
    }
    serde_json::from_slice::<Config>(config).map(|config| config.rootfs.diff_ids)
}

/// Whether a field is missing or says nothing.
fn is_absent(config: &Object, key: &str) -> bool {
    config.get(key).is_none_or(|raw| matches!(raw.get(), "null" | "\"\""))
}

#[derive(Serialize)]
struct RootFs<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    diff_ids: Vec<Digest>,
}

impl RootFs<'_> {
    fn of(layers: &[ImageLayer]) -> Self {
        Self {
            kind: "layers",
            diff_ids: layers.iter().map(|layer| layer.diff_id).collect(),
        }
    }
}

/// A history entry; what is not named here is carried along.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    empty_layer: bool,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// How many of the first entries are those of the base image.
fn inherited(history: &[Entry], base: Option<&[u8]>) -> usize {
    #[derive(Deserialize)]
    struct Base {
        #[serde(default)]
        history: Option<Vec<Entry>>,
    }
    // A base whose history cannot be read has none to pass on.
    let base: Option<Base> = base.and_then(|base| serde_json::from_slice(base).ok());
    let theirs = base.and_then(|base| base.history).unwrap_or_default();
    history
        .iter()
        .zip(&theirs)
        .take_while(|(ours, theirs)| ours == theirs)
        .count()
}

/// Gives every layer an entry and every entry a time.
fn complete_history(
    mut history: Vec<Entry>,
    inherited: usize,
    layers: &[ImageLayer],
    epoch: Option<Timestamp>,
) -> Vec<Entry> {
    // More entries with layers than there are layers: the surplus, at the end, has none after all.
    let mut with_layer = 0;
    for entry in &mut history {
        entry.empty_layer |= with_layer == layers.len();
        with_layer += usize::from(!entry.empty_layer);
    }
    history.extend(layers[with_layer..].iter().map(|layer| Entry {
        created: layer.created,
        created_by: Some(layer.description.clone()),
        comment: Some(HISTORY_COMMENT.to_owned()),
        ..Entry::default()
    }));
    if let Some(epoch) = epoch {
        for entry in &mut history[inherited..] {
            entry.created = Some(entry.created.map_or(epoch, |created| created.min(epoch)));
        }
    }
    let mut of_layers = layers.iter();
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        let layer = of_layers.next();
        entry.created = entry.created.or_else(|| layer.and_then(|layer| layer.created));
    }
    fill_times(&mut history);
    history
}

/// An entry without a time gets that of the one before it; the first such gets that of the next with one, so that it
/// is not dated to the base image's.
fn fill_times(history: &mut [Entry]) {
    let Some(first_gap) = history.iter().position(|entry| entry.created.is_none()) else {
        return;
    };
    let (before, after) = history.split_at(first_gap);
    let next = after.iter().find_map(|entry| entry.created);
    let mut time = next.or_else(|| before.last().and_then(|entry| entry.created));
    for entry in &mut history[first_gap..] {
        match entry.created {
            Some(created) => time = Some(created),
            None => entry.created = time,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn layer(n: u8, created: Option<&str>) -> ImageLayer {
        ImageLayer {
            descriptor: Descriptor::new("layer", Digest::sha256(&[n]), 1),
            diff_id: Digest::sha256(&[n, n]),
            created: created.map(|time| time.parse().unwrap()),
            description: format!("step {n}"),
        }
    }

    fn complete(base: &str, layers: &[ImageLayer], options: &ConfigOptions<'_>) -> Value {
        let platform = "linux/arm/v7".parse().unwrap();
        let base = (!base.is_empty()).then_some(base.as_bytes());
        serde_json::from_slice(&complete_config(base, &platform, layers, options).unwrap()).unwrap()
    }

    const T1: &str = "2024-01-01T00:00:00Z";
    const T2: &str = "2024-02-02T00:00:00.5Z";
    const T3: &str = "2024-03-03T00:00:00Z";

    #[test]
    fn unknown_fields_and_numbers_survive_to_the_byte() {
        let base = r#"{ "os":"linux", "architecture":"amd64", "x.y" : { "n": 1.50e3, "s":"a \" b  \\" }, "config":{"Odd":[1 ,2]} }"#;
        let done = complete_config(Some(base.as_bytes()), &Platform::host(), &[], &ConfigOptions::default()).unwrap();
        assert_eq!(
            String::from_utf8(done).unwrap(),
            r#"{"architecture":"amd64","config":{"Odd":[1,2]},"created":null,"history":[],"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"x.y":{"n":1.50e3,"s":"a \" b  \\"}}"#
        );
    }

    /// The form in which Docker's tools write a config, to the byte: its digest is the image's id.
    #[test]
    fn configs_are_written_as_by_docker_s_tools() {
        let base = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=<b>"],"Cmd":["x","&&"]},
            "history":[{"author":"d & e","created_by":"RUN a > b","created":"2024-01-01T00:00:00Z"}]}"#;
        let layers = [layer(1, None)];
        let done = complete_config(
            Some(base.as_bytes()),
            &Platform::host(),
            &layers,
            &ConfigOptions::default(),
        )
        .unwrap();
        let want = r#"{"architecture":"amd64","config":{"Env":["A=\u003cb\u003e"],"Cmd":["x","\u0026\u0026"]},"#
            .to_owned()
            + r#""created":"2024-01-01T00:00:00Z","history":[{"created":"2024-01-01T00:00:00Z","#
            + r#""created_by":"RUN a \u003e b","author":"d \u0026 e"}],"os":"linux","rootfs":{"type":"layers","diff_ids":[""#
            + &layers[0].diff_id.to_string()
            + r#""]}}"#;
        assert_eq!(String::from_utf8(done).unwrap(), want);
    }

    #[test]
    fn an_empty_config_gets_a_platform_and_a_path() {
        let done = complete("", &[layer(1, Some(T1))], &ConfigOptions::default());
        assert_eq!(
            (&done["os"], &done["architecture"], &done["variant"]),
            (&json!("linux"), &json!("arm"), &json!("v7"))
        );
        assert_eq!(done["config"]["WorkingDir"], "/");
        assert_eq!(done["created"], T1);
        assert_eq!(
            done["history"],
            json!([{"created": T1, "created_by": "step 1", "comment": HISTORY_COMMENT}])
        );
        assert_eq!(done["rootfs"]["diff_ids"], json!([Digest::sha256(&[1, 1])]));
    }

    #[test]
    fn history_and_layers_are_matched() {
        let base = json!({"os": "linux", "architecture": "amd64", "history": [
            {"created": T1, "created_by": "base", "author": "kept"},
            {"created_by": "ENV", "empty_layer": true},
            {"created_by": "RUN"},
            {"created_by": "CMD", "empty_layer": true},
        ]});
        let layers = [layer(1, Some(T3)), layer(2, Some(T2)), layer(3, Some(T3))];
        let done = complete(&base.to_string(), &layers, &ConfigOptions::default());
        let times: Vec<_> = done["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| &entry["created"])
            .collect();
        assert_eq!(times, [T1, T2, T2, T2, T3]);
        assert_eq!(done["history"][0]["author"], "kept");
        assert_eq!(done["history"][4]["comment"], HISTORY_COMMENT);
        assert_eq!(done["created"], T3);
        // Without layers nothing can have one.
        let done = complete(&base.to_string(), &[], &ConfigOptions::default());
        assert!(
            done["history"]
                .as_array()
                .unwrap()
                .iter()
                .all(|entry| entry["empty_layer"] == true)
        );
    }

    #[test]
    fn the_epoch_bounds_every_time() {
        let base = json!({"created": T3, "history": [{"created": T1}, {"created": T3}]});
        let options = ConfigOptions {
            epoch: Some(T2.parse().unwrap()),
            ..ConfigOptions::default()
        };
        let done = complete(
            &base.to_string(),
            &[layer(1, None), layer(2, None), layer(3, None)],
            &options,
        );
        let times: Vec<_> = done["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| &entry["created"])
            .collect();
        assert_eq!(times, [T1, T2, T2]);
        assert_eq!(done["created"], T2);
        let kept = complete(&base.to_string(), &[], &ConfigOptions::default());
        assert_eq!(kept["created"], T3);
        // What the base image says of itself stays.
        let of_base = json!({"history": [{"created": T1}, {"created": T3}, {"created_by": "other"}]}).to_string();
        let options = ConfigOptions {
            base: Some(of_base.as_bytes()),
            ..options
        };
        let done = complete(&base.to_string(), &[layer(1, None), layer(2, None)], &options);
        assert_eq!(done["history"][1]["created"], T3);
        assert_eq!(done["created"], T2);
    }

    #[test]
    fn cache_records_are_embedded() {
        let options = ConfigOptions {
            inline_cache: Some(b"[]"),
            ..ConfigOptions::default()
        };
        assert_eq!(complete("{}", &[], &options)[INLINE_CACHE], "W10=");
    }

    /// CVE-2024-23650: a config of the wrong shape must be an error.
    #[test]
    fn cve_2024_23650_malformed_configs_are_errors() {
        for base in [
            "null",
            "[]",
            "{",
            "{\"history\":1}",
            "{\"history\":[null]}",
            "{\"history\":[{\"created\":5}]}",
        ] {
            let result = complete_config(Some(base.as_bytes()), &Platform::host(), &[], &ConfigOptions::default());
            assert!(result.is_err(), "{base}");
        }
        assert!(complete("{\"history\":null}", &[], &ConfigOptions::default())["history"].is_array());
    }
}
