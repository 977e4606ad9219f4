//! Which plugins make up a network, as files say it.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::CniError;

/// Largest file.
const MAX_FILE: u64 = 1 << 20;
/// Most plugins of a network.
const MAX_PLUGINS: usize = 32;
/// Longest name of a network or plugin.
const MAX_NAME: usize = 128;
/// Versions of the specification, oldest first. What a plugin prints is passed on as it is, so all are alike here.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The first version in which plugins that undo are told what was done.
const TELLS_DEL: usize = 4;

/// A network: plugins that are called one after the other, each told what those before it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Network {
    pub(super) name: String,
    pub(super) version: String,
    /// What describes it, for messages.
    pub(super) origin: String,
    pub(super) plugins: Vec<Plugin>,
}

/// A plugin with its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plugin {
    /// The file name of the program.
    pub(super) program: String,
    config: Map<String, Value>,
}

/// Whether a file holds a list of plugins.
pub(super) fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conflist")
}

/// The network that is a namespace's own loopback interface.
pub(super) fn loopback() -> Network {
    let plugin = Plugin {
        program: "loopback".to_owned(),
        config: Map::from_iter([("type".to_owned(), Value::from("loopback"))]),
    };
    Network {
        name: "cni-loopback".to_owned(),
        version: "0.3.1".to_owned(),
        origin: "the loopback interface".to_owned(),
        plugins: vec![plugin],
    }
}

impl Network {
    /// Reads a file with a list of plugins.
    pub(super) fn read_list(path: &Path) -> Result<Self, CniError> {
        Self::list(&format!("{path:?}"), &read(path)?)
    }

    /// Reads a file with one plugin.
    pub(super) fn read_single(path: &Path) -> Result<Self, CniError> {
        Self::single(&format!("{path:?}"), &read(path)?)
    }

    /// A network as a list of plugins.
    pub(super) fn list(origin: &str, text: &[u8]) -> Result<Self, CniError> {
        let fail = |message: String| invalid(origin, message);
        let mut list = object(text).map_err(fail)?;
        let plugins = match list.remove("plugins") {
            Some(Value::Array(plugins)) if plugins.is_empty() => return Err(fail("no plugins in the list".to_owned())),
            Some(Value::Array(plugins)) if plugins.len() > MAX_PLUGINS => {
                return Err(fail(format!("more than {MAX_PLUGINS} plugins")));
            }
            Some(Value::Array(plugins)) => plugins,
            Some(_) => return Err(fail("\"plugins\" is no list".to_owned())),
            None => return Err(fail("no list of \"plugins\"".to_owned())),
        };
        let plugins = plugins.into_iter().enumerate().map(|(number, plugin)| match plugin {
            Value::Object(config) => Plugin::new(config),
            _ => Err(format!("plugin {number} is no object")),
        });
        Ok(Self {
            name: name(&list).map_err(fail)?,
            version: version(&list).map_err(fail)?,
            origin: origin.to_owned(),
            plugins: plugins.collect::<Result<_, _>>().map_err(fail)?,
        })
    }

    /// A network of one plugin.
    pub(super) fn single(origin: &str, text: &[u8]) -> Result<Self, CniError> {
        let fail = |message: String| invalid(origin, message);
        let config = object(text).map_err(fail)?;
        if config.contains_key("plugins") && !config.contains_key("type") {
            return Err(fail(
                "the name of a file with a list of plugins ends in .conflist".to_owned(),
            ));
        }
        Ok(Self {
            name: name(&config).map_err(fail)?,
            version: version(&config).map_err(fail)?,
            origin: origin.to_owned(),
            plugins: vec![Plugin::new(config).map_err(fail)?],
        })
    }

    /// Programs that it needs: its plugins, and those that they call for addresses.
    pub(super) fn programs(&self) -> impl Iterator<Item = &str> {
        self.plugins
            .iter()
            .flat_map(|plugin| [Some(plugin.program.as_str()), plugin.addresses()])
            .flatten()
    }

    /// Whether plugins that undo are told what was done.
    pub(super) fn tells_del(&self) -> bool {
        VERSIONS[TELLS_DEL..].contains(&self.version.as_str())
    }

    /// What a plugin is to read, given what was done before.
    pub(super) fn request(&self, plugin: &Plugin, previous: Option<&Value>) -> Value {
        let mut config = plugin.config.clone();
        config.insert("name".to_owned(), Value::from(self.name.as_str()));
        config.insert("cniVersion".to_owned(), Value::from(self.version.as_str()));
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        Value::Object(config)
    }
}

impl Plugin {
    fn new(config: Map<String, Value>) -> Result<Self, String> {
        let program = match config.get("type") {
            Some(Value::String(program)) => program.clone(),
            Some(_) => return Err("the \"type\" of a plugin is no text".to_owned()),
            None => return Err("a plugin has no \"type\"".to_owned()),
        };
        let plugin = Self { program, config };
        for program in [Some(plugin.program.as_str()), plugin.addresses()]
            .into_iter()
            .flatten()
        {
            if !is_file_name(program) {
                return Err(format!("the plugin {program:?} is no name of a file"));
            }
        }
        Ok(plugin)
    }

    /// The program that it calls for addresses.
    fn addresses(&self) -> Option<&str> {
        let program = self.config.get("ipam")?.get("type")?.as_str()?;
        // As none at all.
        Some(program).filter(|program| !program.is_empty())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CniError> {
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
        .map_err(|source| CniError::Read {
            path: path.to_owned(),
            source,
        })?;
    if text.len() as u64 > MAX_FILE {
        return Err(invalid(&format!("{path:?}"), format!("more than {MAX_FILE} bytes")));
    }
    Ok(text)
}

fn invalid(origin: &str, message: String) -> CniError {
    CniError::Config {
        origin: origin.to_owned(),
        message,
    }
}

fn object(text: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("not an object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Plugins make file names and rules of the firewall of it.
fn name(config: &Map<String, Value>) -> Result<String, String> {
    let name = match config.get("name") {
        Some(Value::String(name)) => name,
        Some(_) => return Err("the \"name\" of the network is no text".to_owned()),
        None => return Err("the network has no \"name\"".to_owned()),
    };
    let is_name = name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if is_name {
        Ok(name.clone())
    } else {
        Err(format!("{name:?} is no name of a network"))
    }
}

/// The newest known one of those that the network can do with.
fn version(config: &Map<String, Value>) -> Result<String, String> {
    let mut wanted = Vec::new();
    match config.get("cniVersions") {
        Some(Value::Array(versions)) => wanted.extend(versions),
        Some(_) => return Err("\"cniVersions\" is no list".to_owned()),
        None => {}
    }
    wanted.extend(config.get("cniVersion"));
    if wanted.is_empty() {
        return Ok(VERSIONS[0].to_owned());
    }
    let known = VERSIONS
        .iter()
        .rev()
        .find(|known| wanted.iter().any(|wanted| *wanted == **known));
    let shown = || Value::from_iter(wanted.iter().copied().cloned()).to_string();
    match known {
        Some(version) => Ok((*version).to_owned()),
        None => Err(format!(
            "of the versions {} none is known, which are {}",
            shown(),
            VERSIONS.join(", ")
        )),
    }
}

fn is_file_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && c != '/' && c != ':';
    !name.is_empty() && name.len() <= MAX_NAME && name != "." && name != ".." && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_and_a_single_plugin_are_read() {
        let list = br#"{"cniVersion": "0.4.0", "name": "n", "plugins": [
            {"type": "bridge", "name": "other", "ipam": {"type": "host-local"}}, {"type": "tuning"}]}"#;
        let network = Network::list("x", list).unwrap();
        assert_eq!((network.name.as_str(), network.version.as_str()), ("n", "0.4.0"));
        assert_eq!(
            network.programs().collect::<Vec<_>>(),
            ["bridge", "host-local", "tuning"]
        );
        let previous = serde_json::json!({"ips": []});
        let request = network.request(&network.plugins[0], Some(&previous));
        let want = serde_json::json!({
            "type": "bridge", "name": "n", "cniVersion": "0.4.0", "ipam": {"type": "host-local"}, "prevResult": previous,
        });
        assert_eq!(request, want);
        let single = Network::single("x", br#"{"name": "n", "type": "ptp", "ipam": {}}"#).unwrap();
        assert_eq!((single.version.as_str(), single.plugins.len()), ("0.1.0", 1));
        assert_eq!(single.programs().collect::<Vec<_>>(), ["ptp"]);
    }

    #[test]
    fn the_newest_known_version_counts() {
        for (versions, want) in [
            (r#""cniVersion": "0.3.1""#, "0.3.1"),
            (r#""cniVersions": ["0.3.1", "1.0.0", "9.0.0"]"#, "1.0.0"),
            (r#""cniVersions": ["0.3.1"], "cniVersion": "1.1.0""#, "1.1.0"),
        ] {
            let text = format!("{{{versions}, \"name\": \"n\", \"type\": \"t\"}}");
            assert_eq!(Network::single("x", text.as_bytes()).unwrap().version, want);
        }
    }

    #[test]
    fn only_newer_plugins_are_told_what_they_undo() {
        let of = |version: &str| Network {
            version: version.to_owned(),
            ..loopback()
        };
        assert!(!of("0.3.1").tells_del());
        assert!(of("0.4.0").tells_del() && of("1.1.0").tells_del());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, want) in [
            ("", "EOF"),
            ("[]", "not an object"),
            (r#"{"plugins": []}"#, "no plugins in the list"),
            (r#"{"plugins": {}}"#, "is no list"),
            (r#"{"name": "n"}"#, "no list of \"plugins\""),
            (r#"{"name": "n", "plugins": [1]}"#, "plugin 0 is no object"),
            (r#"{"name": "n", "plugins": [{}]}"#, "a plugin has no \"type\""),
            (r#"{"name": "n", "plugins": [{"type": 3}]}"#, "no text"),
            (
                r#"{"name": "n", "plugins": [{"type": "../sh"}]}"#,
                "\"../sh\" is no name of a file",
            ),
            (r#"{"name": "n", "plugins": [{"type": ".."}]}"#, "is no name of a file"),
            (r#"{"name": "n", "plugins": [{"type": ""}]}"#, "is no name of a file"),
            (
                r#"{"name": "n", "plugins": [{"type": "t", "ipam": {"type": "/bin/sh"}}]}"#,
                "\"/bin/sh\" is no name of a file",
            ),
            (r#"{"plugins": [{"type": "t"}]}"#, "no \"name\""),
            (
                r#"{"name": "a/b", "plugins": [{"type": "t"}]}"#,
                "\"a/b\" is no name of a network",
            ),
            (
                r#"{"name": ".a", "plugins": [{"type": "t"}]}"#,
                "is no name of a network",
            ),
            (
                r#"{"cniVersion": "7.0.0", "name": "n", "plugins": [{"type": "t"}]}"#,
                "of the versions [\"7.0.0\"] none is known",
            ),
            (
                r#"{"cniVersion": 1, "name": "n", "plugins": [{"type": "t"}]}"#,
                "none is known",
            ),
            (
                r#"{"cniVersions": 1, "name": "n", "plugins": [{"type": "t"}]}"#,
                "is no list",
            ),
        ] {
            let error = Network::list("\"/x.conflist\"", text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("invalid cni config \"/x.conflist\": "), "{error}");
            assert!(error.contains(want), "{text}: {error}");
        }
        let many = format!(r#"{{"name": "n", "plugins": [{}]}}"#, vec!["{}"; 33].join(","));
        let error = Network::list("x", many.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("more than 32 plugins"), "{error}");
        let error = Network::single("x", br#"{"name": "n", "plugins": []}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains(".conflist"), "{error}");
    }

    #[test]
    fn files_have_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.conf");
        std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
        let error = Network::read_single(&path).unwrap_err().to_string();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
        let error = Network::read_list(&dir.path().join("missing")).unwrap_err().to_string();
        assert!(
            error.contains("failed to read cni config") && error.contains("missing"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_read_has_clean_names(text in r#"\{("name":"[a./]{0,3}",)?"type":"[a./:]{0,3}"\}"#) {
            if let Ok(network) = Network::single("x", text.as_bytes()) {
                prop_assert!(network.programs().all(|program| !program.contains('/') && program != ".."));
                prop_assert!(!network.name.contains('/'));
            }
        }
    }
}
