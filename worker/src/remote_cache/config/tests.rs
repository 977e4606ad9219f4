use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::sha256(&[n])
}

#[test]
fn what_refers_to_nothing_is_refused() {
    let layer = |parent: i64| format!(r#"{{"blob":"sha256:aa","parent":{parent}}}"#);
    let record = |rest: &str| format!(r#"{{"digest":"sha256:aa"{rest}}}"#);
    let config = |layers: &[String], records: &[String]| {
        format!(
            r#"{{"layers":[{}],"records":[{}]}}"#,
            layers.join(","),
            records.join(",")
        )
    };
    for (json, fits) in [
        (String::new(), false),
        ("[7]".to_owned(), false),
        ("7".to_owned(), false),
        ("{}".to_owned(), true),
        (r#"{"layers":null,"records":null}"#.to_owned(), true),
        (r#"{"layers":{}}"#.to_owned(), false),
        (config(&[layer(-1), layer(0)], &[]), true),
        (config(&[layer(1)], &[]), false),
        (config(&[layer(-2)], &[]), false),
        (config(&[layer(i64::MAX)], &[]), false),
        (config(&[layer(-1)], &[record(r#","layers":[{"layer":0}]"#)]), true),
        (config(&[layer(-1)], &[record(r#","layers":[{"layer":1}]"#)]), false),
        (config(&[layer(-1)], &[record(r#","layers":[{"layer":-1}]"#)]), false),
        (config(&[], &[record(r#","inputs":[[{"link":0}]]"#)]), true),
        (config(&[], &[record(r#","inputs":[[{"link":1}]]"#)]), false),
        (config(&[], &[record(r#","inputs":null,"layers":null"#)]), true),
        (config(&[], &[record(r#","cairn":{"outputs":[-1]}"#)]), true),
        (config(&[], &[record(r#","cairn":{"outputs":[0]}"#)]), false),
        (
            config(
                &[],
                &[record(
                    r#","cairn":{"contents":[{"output":0,"selector":"x","digest":"y"}]}"#,
                )],
            ),
            false,
        ),
        (config(&[], &[r#"{"layers":[]}"#.to_owned()]), false),
        (
            config(
                &[],
                &[record(
                    r#","chains":[{"layers":[0],"createdAt":"2024-01-01T00:00:00Z"}]"#,
                )],
            ),
            true,
        ),
    ] {
        assert_eq!(CacheConfig::parse(json.as_bytes()).is_ok(), fits, "{json}");
    }
}

#[test]
fn circles_of_layers_are_noticed() {
    let json = r#"{"layers":[{"blob":"a","parent":1},{"blob":"b","parent":0},{"blob":"c","parent":2}],"records":[]}"#;
    let config = CacheConfig::parse(json.as_bytes()).unwrap();
    for tip in 0..3 {
        assert!(matches!(config.chain(tip), Err(ConfigError::Chain(t)) if t == tip));
    }
    let tall = CacheConfig {
        layers: (0..=MAX_CHAIN as i64)
            .map(|n| LayerEntry {
                blob: n.to_string(),
                parent: n - 1,
            })
            .collect(),
        records: Vec::new(),
    };
    assert_eq!(tall.chain(MAX_CHAIN - 1).unwrap().len(), MAX_CHAIN);
    assert!(tall.chain(MAX_CHAIN).is_err());
}

#[test]
fn more_entries_than_any_build_has_are_refused() {
    let layers = vec![r#"{"blob":"a"}"#; MAX_ENTRIES + 1].join(",");
    let error = CacheConfig::parse(format!(r#"{{"layers":[{layers}]}}"#).as_bytes());
    assert!(matches!(error, Err(ConfigError::TooMany(_))));
}

#[test]
fn records_in_images_refer_to_their_layers() {
    let json = br#"[{"digest":"sha256:aa","layers":[{"layer":1}]}]"#;
    let config = CacheConfig::parse_inline(json, 2).unwrap();
    assert_eq!(config.chain(1).unwrap(), [0, 1]);
    assert!(CacheConfig::parse_inline(json, 1).is_err());
    assert_eq!(CacheConfig::parse_inline(b"null", 1).unwrap().records, []);
}

#[test]
fn chains_share_what_they_have_in_common() {
    let mut chains = LayerChains::default();
    assert_eq!(chains.add([]), -1);
    assert_eq!(chains.add([digest(1), digest(2)]), 1);
    assert_eq!(chains.add([digest(1), digest(3)]), 2);
    assert_eq!(chains.add([digest(1)]), 0);
    assert_eq!(chains.add([digest(2)]), 3);
    assert_eq!(chains.into_entries().len(), 4);
}

fn any_record(layers: usize, records: usize) -> impl Strategy<Value = Record> {
    let tips = prop::collection::vec(0..layers.max(1), if layers == 0 { 0..=0 } else { 0..=2 });
    let inputs = prop::collection::vec(prop::collection::vec(("[a-f0-9]{0,8}", 0..records), 0..3), 0..3);
    let outputs = prop::option::of(prop::collection::vec(-1..layers as i64, 0..3));
    let contents = prop::collection::vec((0..3_usize, any::<u8>(), any::<u8>()), 0..3);
    ("[a-z:0-9]{1,20}", tips, inputs, outputs, contents).prop_map(|(name, tips, inputs, outputs, contents)| Record {
        digest: name,
        layers: tips
            .into_iter()
            .map(|layer| Tip {
                layer,
                created_at: None,
            })
            .collect(),
        inputs: inputs
            .into_iter()
            .map(|input| {
                input
                    .into_iter()
                    .map(|(selector, link)| Input { selector, link })
                    .collect()
            })
            .collect(),
        cairn: Some(OwnPart {
            outputs,
            contents: contents
                .into_iter()
                .map(|(output, a, b)| Contents {
                    output,
                    selector: digest(a),
                    digest: digest(b),
                })
                .collect(),
        }),
    })
}

fn any_config() -> impl Strategy<Value = CacheConfig> {
    (0..6_usize, 1..6_usize).prop_flat_map(|(layers, records)| {
        let entries = prop::collection::vec(("[a-z0-9]{1,9}", -1..layers as i64), layers);
        (entries, prop::collection::vec(any_record(layers, records), records)).prop_map(|(entries, records)| {
            CacheConfig {
                layers: entries
                    .into_iter()
                    .map(|(blob, parent)| LayerEntry { blob, parent })
                    .collect(),
                records,
            }
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(config in any_config()) {
        let json = serde_json::to_vec(&config).unwrap();
        prop_assert_eq!(CacheConfig::parse(&json).unwrap(), config);
    }

    #[test]
    fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200), config in any_config(), at in any::<prop::sample::Index>()) {
        let _any_outcome = CacheConfig::parse(&bytes);
        let mut json = serde_json::to_vec(&config).unwrap();
        let at = at.index(json.len());
        json.splice(at..at, bytes.into_iter().take(3));
        if let Ok(config) = CacheConfig::parse(&json) {
            for tip in 0..config.layers.len() {
                let _any_outcome = config.chain(tip);
            }
        }
    }
}
