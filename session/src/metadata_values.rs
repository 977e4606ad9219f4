//! Repeated text values in gRPC metadata, which itself can hold nothing but printable ASCII.
//!
//! If any value of a key needs it, all values of that key are URL-query-escaped and `<key>-encoded: 1` says so.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

/// What query escaping leaves alone.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Appends `values` under `key`.
///
/// # Panics
/// If `key` is not a valid metadata key; keys are constants of this crate.
pub(crate) fn insert(metadata: &mut MetadataMap, key: &'static str, values: &[String]) {
    let plain = values
        .iter()
        .all(|value| value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    let name = AsciiMetadataKey::from_static(key);
    for value in values {
        let text = if plain {
            AsciiMetadataValue::try_from(value.as_str())
        } else {
            AsciiMetadataValue::try_from(utf8_percent_encode(value, ESCAPED).to_string())
        };
        if let Ok(text) = text {
            metadata.append(name.clone(), text);
        }
    }
    if !plain {
        let marker = AsciiMetadataKey::from_bytes(format!("{key}-encoded").as_bytes());
        metadata.insert(
            marker.expect("keys of this crate are valid"),
            AsciiMetadataValue::from_static("1"),
        );
    }
}

/// Reads the values of `key`; those that are no text are dropped, as no path or pattern can be meant by them.
pub(crate) fn read(metadata: &MetadataMap, key: &str) -> Vec<String> {
    let encoded = metadata
        .get(format!("{key}-encoded"))
        .is_some_and(|value| value.as_bytes() == b"1");
    let values = metadata.get_all(key).iter().filter_map(|value| value.to_str().ok());
    if encoded {
        values.filter_map(unescape).collect()
    } else {
        values.map(str::to_owned).collect()
    }
}

fn unescape(value: &str) -> Option<String> {
    let spaced = value.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive() {
        for values in [vec!["a", "b c", "!x/**"], vec!["ä", "plain", "50%+1 \n"], vec![]] {
            let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
            let mut metadata = MetadataMap::new();
            insert(&mut metadata, "include-patterns", &values);
            assert_eq!(read(&metadata, "include-patterns"), values);
        }
    }

    #[test]
    fn plain_values_stay_readable() {
        let mut metadata = MetadataMap::new();
        insert(&mut metadata, "dir-name", &["my dir".to_owned()]);
        assert_eq!(metadata.get("dir-name").unwrap(), "my dir");
        assert!(metadata.get("dir-name-encoded").is_none());
    }

    #[test]
    fn understands_plus_as_space() {
        let mut metadata = MetadataMap::new();
        metadata.insert("k", "a+b%C3%A4".parse().unwrap());
        metadata.insert("k-encoded", "1".parse().unwrap());
        assert_eq!(read(&metadata, "k"), ["a bä"]);
    }
}
