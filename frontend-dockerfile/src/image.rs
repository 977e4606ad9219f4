//! The image config that a stage builds up.
//!
//! Kept as JSON, so that everything a base image's config holds comes through, whether or not this program has a name
//! for it. See the OCI image specification ("Image Configuration") and Docker's additions to it.

mod env;
mod history;
mod ordered;

use std::sync::Arc;

use bytes::Bytes;
use cairn_solver::Platform;
use serde_json::{Map, Value, json};

use crate::instruction::Healthcheck;

use env::EnvList;
use history::History;
use ordered::Ordered;

/// `PATH` of images that do not say otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image config under construction.
#[derive(Debug, Clone)]
pub(crate) struct ImageConfig {
    /// Everything but the environment.
    root: Map<String, Value>,
    env: EnvList,
    /// What joins the history in `root`.
    history: History,
}

/// The config of a base image is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image config: {0}")]
pub(crate) struct ImageConfigError(String);

impl ImageConfig {
    /// The config of an image without anything in it.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let mut image = Self {
            root: Map::new(),
            env: EnvList::default(),
            history: History::default(),
        };
        image
            .root
            .insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": []}));
        image.set_platform(platform);
        image.set_workdir(if platform.os == "windows" { "\\" } else { "/" });
        image.add_default_path(&platform.os);
        image
    }

    /// The config that a stage starts with when it is built from an image with config `bytes`.
    ///
    /// # Errors
    /// If `bytes` is not a JSON object, or the parts that matter are of the wrong type.
    pub(crate) fn from_base(bytes: &[u8]) -> Result<Self, ImageConfigError> {
        let root: Value = serde_json::from_slice(bytes).map_err(|error| ImageConfigError(error.to_string()))?;
        let Value::Object(mut root) = root else {
            return Err(ImageConfigError("not an object".to_owned()));
        };
        root.remove("created");
        for (key, fits) in [
            ("config", Value::is_object as fn(&Value) -> bool),
            ("rootfs", Value::is_object),
            ("history", Value::is_array),
        ] {
            match root.get(key) {
                Some(Value::Null) => drop(root.remove(key)),
                Some(value) if !fits(value) => return Err(ImageConfigError(format!("{key} has the wrong type"))),
                _ => {}
            }
        }
        let env = root
            .get_mut("config")
            .and_then(|config| config.as_object_mut()?.remove("Env"));
        let mut image = Self {
            root,
            env: env.as_ref().map(EnvList::from_json).unwrap_or_default(),
            history: History::default(),
        };
        let os = image.os().to_owned();
        image.add_default_path(&os);
        Ok(image)
    }

    /// The JSON form.
    pub(crate) fn to_json(&self) -> Bytes {
        let mut root = self.root.clone();
        if !self.env.is_empty()
            && let Value::Object(config) = root.entry("config").or_insert_with(|| json!({}))
        {
            config.insert("Env".to_owned(), self.env.to_json());
        }
        let added = self.history.to_json();
        if !added.is_empty()
            && let Value::Array(history) = root.entry("history").or_insert_with(|| json!([]))
        {
            history.extend(added);
        }
        let root = Value::Object(root);
        let text = serde_json::to_vec(&Ordered::image(&root)).expect("strings are keys, and memory has no errors");
        text.into()
    }

    /// About how much memory a copy of it takes. What was added to the history is not copied.
    pub(crate) fn weight(&self) -> usize {
        fn weigh(value: &Value) -> usize {
            match value {
                Value::String(text) => text.len() + 24,
                Value::Array(items) => items.iter().map(weigh).sum::<usize>() + 24,
                Value::Object(members) => members.iter().map(|(key, value)| key.len() + 32 + weigh(value)).sum(),
                _ => 8,
            }
        }
        self.root.values().map(weigh).sum::<usize>() + self.env.weight()
    }

    /// The triggers that the image carries for those built from it.
    pub(crate) fn triggers(&self) -> Vec<String> {
        self.list("OnBuild")
    }

    /// Takes the triggers out.
    pub(crate) fn clear_triggers(&mut self) {
        self.set("OnBuild", Value::Null);
    }

    /// The system that the image is for.
    pub(crate) fn os(&self) -> &str {
        self.root.get("os").and_then(Value::as_str).unwrap_or("linux")
    }

    /// The platform that the image is for, as far as it says so.
    pub(crate) fn platform(&self) -> Platform {
        let text = |key: &str| self.root.get(key).and_then(Value::as_str).unwrap_or_default();
        let features = self.root.get("os.features").and_then(Value::as_array);
        let features = features.into_iter().flatten().filter_map(Value::as_str);
        Platform {
            os_version: text("os.version").to_owned(),
            os_features: features.map(str::to_owned).collect(),
            ..Platform::new(text("os"), text("architecture"), text("variant"))
        }
    }

    /// Whether the config says that there is nothing to pull. Configs of the oldest images do not list their layers, but
    /// have a history of them.
    pub(crate) fn has_no_layers(&self) -> bool {
        let layers = self.root.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids"));
        let lists_none = layers.is_none_or(|layers| layers.is_null() || layers.as_array().is_some_and(Vec::is_empty));
        let makes_layer = |entry: &Value| entry.get("empty_layer").and_then(Value::as_bool) != Some(true);
        let history = self.root.get("history").and_then(Value::as_array);
        lists_none && !history.is_some_and(|entries| entries.iter().any(makes_layer))
    }

    /// Names and values of the environment.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter()
    }

    /// Sets a variable, in place if there is one of that name.
    pub(crate) fn set_env(&mut self, key: &str, value: &str) {
        self.env.set(key, value);
    }

    /// Working directory; empty if none is set.
    pub(crate) fn workdir(&self) -> String {
        self.text("WorkingDir")
    }

    /// Sets the working directory.
    pub(crate) fn set_workdir(&mut self, path: &str) {
        self.set("WorkingDir", path.into());
    }

    /// User; empty if none is set.
    pub(crate) fn user(&self) -> String {
        self.text("User")
    }

    /// Sets the user.
    pub(crate) fn set_user(&mut self, user: &str) {
        self.set("User", user.into());
    }

    /// The shell of shell-form commands, if one is set.
    pub(crate) fn shell(&self) -> Option<Vec<String>> {
        Some(self.list("Shell")).filter(|shell| !shell.is_empty())
    }

    /// Sets the shell.
    pub(crate) fn set_shell(&mut self, shell: &[String]) {
        self.set("Shell", shell.into());
    }

    /// The command; empty if none is set.
    pub(crate) fn cmd(&self) -> Vec<String> {
        self.list("Cmd")
    }

    /// Sets the command. Clients take the mark that goes with it as "already quoted".
    pub(crate) fn set_cmd(&mut self, cmd: &[String]) {
        self.set("Cmd", cmd.into());
        self.set("ArgsEscaped", true.into());
    }

    /// Removes the command.
    pub(crate) fn clear_cmd(&mut self) {
        self.set("Cmd", Value::Null);
    }

    /// The entry point; empty if none is set.
    pub(crate) fn entrypoint(&self) -> Vec<String> {
        self.list("Entrypoint")
    }

    /// Sets the entry point.
    pub(crate) fn set_entrypoint(&mut self, entrypoint: &[String]) {
        self.set("Entrypoint", entrypoint.into());
    }

    /// Sets a label.
    pub(crate) fn set_label(&mut self, key: &str, value: &str) {
        self.insert("Labels", key, value.into());
    }

    /// Adds an exposed port, such as `80/tcp`.
    pub(crate) fn expose(&mut self, port: &str) {
        self.insert("ExposedPorts", port, json!({}));
    }

    /// Adds a volume.
    pub(crate) fn add_volume(&mut self, path: &str) {
        self.insert("Volumes", path, json!({}));
    }

    /// Sets the signal that stops a container.
    pub(crate) fn set_stop_signal(&mut self, signal: &str) {
        self.set("StopSignal", signal.into());
    }

    /// Sets how health is checked; zeros are left out.
    pub(crate) fn set_healthcheck(&mut self, check: &Healthcheck) {
        let mut value = Map::from_iter([("Test".to_owned(), json!(check.test))]);
        for (key, number) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
            ("Retries", check.retries),
        ] {
            if number != 0 {
                value.insert(key.to_owned(), number.into());
            }
        }
        self.set("Healthcheck", value.into());
    }

    /// Adds a trigger.
    pub(crate) fn add_trigger(&mut self, trigger: &str) {
        if let Value::Array(triggers) = self.entry("OnBuild", || json!([]), Value::is_array) {
            triggers.push(trigger.into());
        }
    }

    /// Sets the author.
    pub(crate) fn set_author(&mut self, author: &str) {
        self.root.insert("author".to_owned(), author.into());
    }

    /// Sets the platform that the image is for.
    pub(crate) fn set_platform(&mut self, platform: &Platform) {
        let changed = self.root.get("os").and_then(Value::as_str) != Some(&platform.os)
            || self.root.get("architecture").and_then(Value::as_str) != Some(&platform.architecture);
        self.root.insert("os".to_owned(), platform.os.clone().into());
        self.root
            .insert("architecture".to_owned(), platform.architecture.clone().into());
        for (key, value) in [("variant", &platform.variant), ("os.version", &platform.os_version)] {
            if !value.is_empty() {
                self.root.insert(key.to_owned(), value.clone().into());
            } else if changed {
                self.root.remove(key);
            }
        }
        if !platform.os_features.is_empty() {
            self.root.insert("os.features".to_owned(), json!(platform.os_features));
        }
    }

    /// Has the platform in the form in which equal ones are equal, whatever the base has written.
    pub(crate) fn normalize_platform(&mut self) {
        let normal = self.platform();
        for (key, normal) in [("architecture", normal.architecture), ("variant", normal.variant)] {
            if !normal.is_empty() {
                self.root.insert(key.to_owned(), normal.into());
            } else if key == "variant" {
                self.root.remove(key);
            }
        }
    }

    /// Adds a history entry. `created` is in RFC 3339; without it the exporter fills in a time.
    pub(crate) fn add_history(&mut self, created_by: String, empty_layer: bool, created: Option<Arc<str>>) {
        self.history.add(created_by, empty_layer, created);
    }

    fn add_default_path(&mut self, os: &str) {
        if os != "windows" && !self.env().any(|(key, _)| key == "PATH") {
            self.set_env("PATH", DEFAULT_PATH);
        }
    }

    /// The `config` member; absent only if the base has none.
    fn config(&mut self) -> Option<&mut Map<String, Value>> {
        self.root.entry("config").or_insert_with(|| json!({})).as_object_mut()
    }

    /// Sets a member of `config`; one that is empty is left out, as the image specification has it.
    fn set(&mut self, key: &str, value: Value) {
        let is_empty = match &value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        if let Some(config) = self.config() {
            if is_empty {
                config.remove(key);
            } else {
                config.insert(key.to_owned(), value);
            }
        }
    }

    /// A member of `config`, made anew if it is missing or of the wrong type.
    fn entry(&mut self, key: &str, empty: fn() -> Value, fits: fn(&Value) -> bool) -> &mut Value {
        let config = self.root.entry("config").or_insert_with(|| json!({}));
        let member = &mut config[key];
        if !fits(member) {
            *member = empty();
        }
        member
    }

    fn insert(&mut self, map: &str, key: &str, value: Value) {
        if let Value::Object(members) = self.entry(map, || json!({}), Value::is_object) {
            members.insert(key.to_owned(), value);
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.root.get("config")?.get(key)
    }

    fn text(&self, key: &str) -> String {
        self.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn list(&self, key: &str) -> Vec<String> {
        let items = self
            .get(key)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_of_a_base_survive() {
        let mut image = ImageConfig::from_base(
            br#"{"x":1,"created":"2020-01-01T00:00:00Z","config":{"Y":[1],"Env":["A=1"],"OnBuild":["RUN x"]},"history":[{"z":1}]}"#,
        )
        .unwrap();
        assert_eq!(image.triggers(), ["RUN x"]);
        image.clear_triggers();
        image.set_env("A", "2");
        image.add_history("ENV A=2".to_owned(), true, None);
        let json: Value = serde_json::from_slice(&image.to_json()).unwrap();
        assert_eq!(
            json,
            json!({"x": 1, "config": {"Y": [1], "Env": ["A=2", format!("PATH={DEFAULT_PATH}")]}, "history": [
                {"z": 1},
                {"created_by": "ENV A=2", "comment": "buildkit.dockerfile.v0", "empty_layer": true},
            ]})
        );
    }

    #[test]
    fn layers_are_listed_or_told_of() {
        for (config, want) in [
            (r#"{"rootfs":{"diff_ids":[]}}"#, true),
            (r#"{"rootfs":{"diff_ids":null},"history":[{"empty_layer":true}]}"#, true),
            (r#"{"history":[{"created_by":"x"}]}"#, false),
            (r#"{"rootfs":{"diff_ids":[]},"history":[{"empty_layer":false}]}"#, false),
            (r#"{"rootfs":{"diff_ids":["sha256:00"]}}"#, false),
        ] {
            let image = ImageConfig::from_base(config.as_bytes()).unwrap();
            assert_eq!(image.has_no_layers(), want, "{config}");
        }
    }

    #[test]
    fn platforms_become_normal() {
        for (config, want) in [
            (
                r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#,
                json!(["arm64", null]),
            ),
            (r#"{"os":"linux","architecture":"arm"}"#, json!(["arm", "v7"])),
            (r#"{"os":"linux","architecture":"x86_64"}"#, json!(["amd64", null])),
            (
                r#"{"os":"linux","architecture":"arm","variant":"v6"}"#,
                json!(["arm", "v6"]),
            ),
        ] {
            let mut image = ImageConfig::from_base(config.as_bytes()).unwrap();
            image.normalize_platform();
            let image: Value = serde_json::from_slice(&image.to_json()).unwrap();
            assert_eq!(json!([image["architecture"], image["variant"]]), want, "{config}");
        }
    }

    #[test]
    fn hostile_configs_are_refused_or_survived() {
        for config in [
            "",
            "[]",
            "null",
            r#"{"config":1}"#,
            r#"{"config":[]}"#,
            r#"{"history":{}}"#,
            r#"{"rootfs":1}"#,
        ] {
            assert!(ImageConfig::from_base(config.as_bytes()).is_err(), "{config}");
        }
        let mut image =
            ImageConfig::from_base(br#"{"config":{"Env":{"a":1},"Labels":[1],"User":3,"Shell":"x","Volumes":null}}"#)
                .unwrap();
        image.set_label("a", "b");
        image.add_volume("/v");
        image.set_env("A", "b");
        assert_eq!((image.user(), image.shell()), (String::new(), None));
        assert!(ImageConfig::from_base(br#"{"config":null,"history":null}"#).is_ok());
    }
}
