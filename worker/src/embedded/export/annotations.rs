//! Annotations of images, as clients ask for them.

use std::collections::{BTreeMap, BTreeSet};

use cairn_solver::Platform;

/// Annotations by where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    /// Those of every platform; of no platform's where they are the index's.
    pub(super) general: Levels,
    platforms: BTreeMap<String, Levels>,
}

/// Annotations of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Levels {
    pub(super) index: BTreeMap<String, String>,
    /// Of what refers to the index.
    pub(super) index_descriptor: BTreeMap<String, String>,
    pub(super) manifest: BTreeMap<String, String>,
    /// Of what refers to the manifest.
    pub(super) manifest_descriptor: BTreeMap<String, String>,
}

impl Levels {
    /// Whether anything goes where only OCI's media types have a place.
    fn needs_oci(&self) -> bool {
        !(self.index.is_empty() && self.index_descriptor.is_empty() && self.manifest_descriptor.is_empty())
    }

    fn extend(&mut self, other: &Self) {
        let add = |ours: &mut BTreeMap<String, String>, theirs: &BTreeMap<String, String>| ours.extend(theirs.clone());
        add(&mut self.index, &other.index);
        add(&mut self.index_descriptor, &other.index_descriptor);
        add(&mut self.manifest, &other.manifest);
        add(&mut self.manifest_descriptor, &other.manifest_descriptor);
    }
}

impl Annotations {
    /// Takes a setting if it is an annotation: `annotation[-<level>][[<platform>]].<name>`.
    ///
    /// # Errors
    /// What is wrong with its key.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let Some(rest) = key.strip_prefix("annotation") else {
            return Ok(false);
        };
        if !rest.starts_with(['-', '[', '.']) {
            return Ok(false);
        }
        let malformed = || format!("malformed annotation key {key:?}");
        let (level, rest) = match rest.strip_prefix('-') {
            Some(rest) => {
                let end = rest.find(['[', '.']).ok_or_else(malformed)?;
                rest.split_at(end)
            }
            None => ("manifest", rest),
        };
        let (platform, rest) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (platform, rest) = rest.split_once(']').ok_or_else(malformed)?;
                let platform: Platform = platform
                    .parse()
                    .map_err(|error| format!("annotation key {key:?}: {error}"))?;
                (Some(platform), rest)
            }
            None => (None, rest),
        };
        let name = rest
            .strip_prefix('.')
            .filter(|name| !name.is_empty())
            .ok_or_else(malformed)?;
        let is_of_index = level.starts_with("index");
        let levels = match platform {
            // There is one index, whatever platform is named.
            Some(platform) if !is_of_index => self.platforms.entry(platform.to_string()).or_default(),
            _ => &mut self.general,
        };
        let level = match level {
            "index" => &mut levels.index,
            "index-descriptor" => &mut levels.index_descriptor,
            "manifest" => &mut levels.manifest,
            "manifest-descriptor" => &mut levels.manifest_descriptor,
            other => return Err(format!("unrecognized annotation type {other}")),
        };
        level.insert(name.to_owned(), value.to_owned());
        Ok(true)
    }

    /// Adds others, which win.
    pub(super) fn extend(&mut self, other: &Self) {
        self.general.extend(&other.general);
        for (platform, levels) in &other.platforms {
            self.platforms.entry(platform.clone()).or_default().extend(levels);
        }
    }

    /// Those of one platform's image.
    pub(super) fn of(&self, platform: &Platform) -> Levels {
        let mut levels = self.general.clone();
        if let Some(special) = self.platforms.get(&platform.to_string()) {
            levels.extend(special);
        }
        levels
    }

    /// Whether they have a place only with OCI's media types.
    pub(super) fn need_oci(&self) -> bool {
        self.general.needs_oci() || self.platforms.values().any(Levels::needs_oci)
    }

    /// The platforms named, as far as they are not among `present`.
    pub(super) fn unknown_platforms(&self, present: &BTreeSet<String>) -> Vec<&str> {
        let named = self.platforms.keys();
        named
            .filter(|platform| !present.contains(*platform))
            .map(String::as_str)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_and_platform_has_its_own() {
        let mut annotations = Annotations::default();
        for (key, value) in [
            ("annotation.a.b", "1"),
            ("annotation-manifest.c", "2"),
            ("annotation[linux/amd64].a.b", "3"),
            ("annotation-index.d", "4"),
            ("annotation-index[linux/amd64].g", "7"),
            ("annotation-index-descriptor.e", "5"),
            ("annotation-manifest-descriptor[linux/arm64/v8].f", "6"),
        ] {
            assert_eq!(annotations.take(key, value), Ok(true), "{key}");
        }
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let amd64 = annotations.of(&"linux/amd64".parse().unwrap());
        assert_eq!(amd64.manifest, map(&[("a.b", "3"), ("c", "2")]));
        assert_eq!(amd64.manifest_descriptor, map(&[]));
        let arm64 = annotations.of(&"linux/arm64".parse().unwrap());
        assert_eq!(arm64.manifest, map(&[("a.b", "1"), ("c", "2")]));
        assert_eq!(arm64.manifest_descriptor, map(&[("f", "6")]));
        assert_eq!(annotations.general.index, map(&[("d", "4"), ("g", "7")]));
        assert_eq!(annotations.general.index_descriptor, map(&[("e", "5")]));
        assert!(annotations.need_oci());
        let present = BTreeSet::from(["linux/amd64".to_owned()]);
        assert_eq!(annotations.unknown_platforms(&present), ["linux/arm64"]);
    }

    #[test]
    fn what_is_no_annotation_is_left_and_what_is_a_wrong_one_is_refused() {
        let mut annotations = Annotations::default();
        for key in ["name", "annotations", "annotation", "annotated.x"] {
            assert_eq!(annotations.take(key, ""), Ok(false), "{key}");
        }
        for key in [
            "annotation.",
            "annotation-",
            "annotation-index",
            "annotation[",
            "annotation[linux/amd64]",
            "annotation[linux/amd64]x",
            "annotation[../..].x",
            "annotation-layer.x",
        ] {
            assert!(annotations.take(key, "").is_err(), "{key}");
        }
        assert_eq!(annotations, Annotations::default());
    }
}
