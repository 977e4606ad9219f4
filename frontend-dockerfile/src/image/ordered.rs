//! The order of members in a config's text.
//!
//! The digest of an image's config is what users know as the image's id. With the members in the order in which
//! Docker's tools write them (that of the fields in the image specifications), the same image has the same id
//! whichever builder made it.

use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::{Map, Value};

/// A value whose objects have their members in a known order; what the order does not name follows, sorted.
pub(super) struct Ordered<'a> {
    value: &'a Value,
    kind: Kind,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Config,
    Healthcheck,
    RootFs,
    History,
    Other,
}

impl<'a> Ordered<'a> {
    /// A whole image config.
    pub(super) fn image(value: &'a Value) -> Self {
        let kind = Kind::Image;
        Self { value, kind }
    }
}

impl Kind {
    const fn order(self) -> &'static [&'static str] {
        match self {
            Self::Image => &[
                "created",
                "author",
                "architecture",
                "os",
                "os.version",
                "os.features",
                "variant",
                "rootfs",
                "history",
                "config",
            ],
            Self::Config => &[
                "User",
                "ExposedPorts",
                "Env",
                "Entrypoint",
                "Cmd",
                "Volumes",
                "WorkingDir",
                "Labels",
                "StopSignal",
                "ArgsEscaped",
                "Healthcheck",
                "OnBuild",
                "Shell",
            ],
            Self::Healthcheck => &["Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"],
            Self::RootFs => &["type", "diff_ids"],
            Self::History => &["created", "created_by", "author", "comment", "empty_layer"],
            Self::Other => &[],
        }
    }

    /// What the member `key` is; elements of an array are what the array is.
    fn member(self, key: &str) -> Self {
        match (self, key) {
            (Self::Image, "config") => Self::Config,
            (Self::Image, "rootfs") => Self::RootFs,
            (Self::Image, "history") => Self::History,
            (Self::Config, "Healthcheck") => Self::Healthcheck,
            _ => Self::Other,
        }
    }
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Object(members) => object(members, self.kind, serializer),
            Value::Array(items) if self.kind != Kind::Other => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for value in items {
                    list.serialize_element(&Ordered { value, kind: self.kind })?;
                }
                list.end()
            }
            other => other.serialize(serializer),
        }
    }
}

fn object<S: Serializer>(members: &Map<String, Value>, kind: Kind, serializer: S) -> Result<S::Ok, S::Error> {
    let order = kind.order();
    let named = order.iter().filter_map(|key| members.get_key_value(*key));
    let others = members.iter().filter(|(key, _)| !order.contains(&key.as_str()));
    let mut map = serializer.serialize_map(Some(members.len()))?;
    for (key, value) in named.chain(others) {
        let kind = kind.member(key);
        map.serialize_entry(key, &Ordered { value, kind })?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_as_in_the_specifications() {
        let value: Value = serde_json::from_str(
            r#"{"x":{"b":1,"a":2},"os":"linux","config":{"Zed":1,"Labels":{"b":"1","a":"2"},"Cmd":["x"],"Env":["A=b"],
                "Healthcheck":{"Retries":1,"Test":["y"]}},"architecture":"amd64","rootfs":{"diff_ids":[],"type":"layers"},
                "history":[{"empty_layer":true,"comment":"c","created_by":"d","created":"e"}]}"#,
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&Ordered::image(&value)).unwrap(),
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"#.to_owned()
                + r#""history":[{"created":"e","created_by":"d","comment":"c","empty_layer":true}],"#
                + r#""config":{"Env":["A=b"],"Cmd":["x"],"Labels":{"a":"2","b":"1"},"#
                + r#""Healthcheck":{"Test":["y"],"Retries":1},"Zed":1},"x":{"a":2,"b":1}}"#
        );
    }

    #[test]
    fn values_of_the_wrong_kind_are_left_as_they_are() {
        for text in [
            r#"{"rootfs":[],"history":{"created":1,"a":2},"config":null}"#,
            r#"{"history":[1,[{"b":1}]],"config":[{"Cmd":1}]}"#,
            "3",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            let written = serde_json::to_string(&Ordered::image(&value)).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), value);
        }
    }
}
