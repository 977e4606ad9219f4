//! Putting a namespace into a network, and taking it out.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{CniError, PluginError};
use super::network::{Network, Plugin};
use super::plugin::{self, Call, Verb};

/// A namespace in a network, or about to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// The interface's name in the namespace.
    interface: String,
    pub(super) network: Network,
    /// What the plugins say they have done.
    result: Option<Value>,
}

/// The namespace that plugins are called for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) plugin_dir: &'a Path,
    pub(super) plugin_limit: Duration,
    pub(super) container: &'a str,
    /// `None` if it is gone.
    pub(super) netns: Option<&'a Path>,
    pub(super) arguments: &'a str,
}

/// Puts the namespace into all networks at once.
pub(super) async fn add_all(attachments: &mut [Attachment], target: Target<'_>) -> Result<(), CniError> {
    // Each to its end: what is under way must not be cut off, and what was done is undone afterwards.
    let added = join_all(attachments.iter_mut().map(|attachment| attachment.add(target)));
    added.await.into_iter().collect()
}

/// Takes the namespace out of all networks, the last one first. Tries all; tells of the first that failed.
pub(super) async fn delete_all(attachments: &[Attachment], target: Target<'_>) -> Result<(), CniError> {
    let mut outcome = Ok(());
    for attachment in attachments.iter().rev() {
        let deleted = attachment.delete(target).await;
        outcome = outcome.and(deleted);
    }
    outcome
}

impl Attachment {
    pub(super) fn new(interface: &str, network: Network) -> Self {
        Self {
            interface: interface.to_owned(),
            network,
            result: None,
        }
    }

    /// Whether what was done has to be known to undo it.
    pub(super) fn has_to_be_known(&self) -> bool {
        self.result.is_some() && self.network.tells_del()
    }

    async fn add(&mut self, target: Target<'_>) -> Result<(), CniError> {
        let call = self.call(Verb::Add, target);
        let mut done = None;
        for plugin in &self.network.plugins {
            let request = self.network.request(plugin, done.as_ref());
            let printed = call.make(&plugin.program, &request).await;
            let result = printed.and_then(|printed| plugin::result(&printed));
            done = Some(result.map_err(|cause| self.add_error(plugin, cause))?);
        }
        self.result = done;
        Ok(())
    }

    /// Stops at the first plugin that fails, as the specification has it.
    async fn delete(&self, target: Target<'_>) -> Result<(), CniError> {
        let call = self.call(Verb::Del, target);
        let done = self.result.as_ref().filter(|_| self.network.tells_del());
        for plugin in self.network.plugins.iter().rev() {
            let request = self.network.request(plugin, done);
            let called = call.make(&plugin.program, &request).await;
            called.map_err(|cause| self.delete_error(plugin, cause))?;
        }
        Ok(())
    }

    fn call<'a>(&'a self, verb: Verb, target: Target<'a>) -> Call<'a> {
        Call {
            verb,
            dir: target.plugin_dir,
            limit: target.plugin_limit,
            container: target.container,
            netns: target.netns,
            interface: &self.interface,
            arguments: target.arguments,
        }
    }

    fn add_error(&self, plugin: &Plugin, cause: PluginError) -> CniError {
        CniError::Add {
            plugin: plugin.program.clone(),
            network: self.network.name.clone(),
            origin: self.network.origin.clone(),
            cause: Box::new(cause),
        }
    }

    fn delete_error(&self, plugin: &Plugin, cause: PluginError) -> CniError {
        CniError::Delete {
            plugin: plugin.program.clone(),
            network: self.network.name.clone(),
            origin: self.network.origin.clone(),
            cause: Box::new(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scripts;
    use super::*;

    fn target(scripts: &Scripts) -> Target<'_> {
        Target {
            plugin_dir: scripts.dir(),
            plugin_limit: Duration::from_secs(30),
            container: "c1",
            netns: Some(Path::new("/run/n")),
            arguments: "",
        }
    }

    fn of(version: &str, programs: &[&str]) -> Attachment {
        let plugins: Vec<Value> = programs.iter().map(|name| serde_json::json!({"type": name})).collect();
        let text = serde_json::json!({"cniVersion": version, "name": "n", "plugins": plugins}).to_string();
        Attachment::new("eth0", Network::list("\"/x\"", text.as_bytes()).unwrap())
    }

    #[tokio::test]
    async fn plugins_are_told_of_those_before_and_undo_in_reverse_order() {
        let scripts = Scripts::noting(&["a", "b"]);
        let mut attachments = [of("0.4.0", &["a", "b"])];
        add_all(&mut attachments, target(&scripts)).await.unwrap();
        assert!(attachments[0].has_to_be_known());
        delete_all(&attachments, target(&scripts)).await.unwrap();
        let want = "ADD a eth0 \n\
                    ADD b eth0 \"prevResult\":{\"by\":\"a\"}\n\
                    DEL b eth0 \"prevResult\":{\"by\":\"b\"}\n\
                    DEL a eth0 \"prevResult\":{\"by\":\"b\"}\n";
        assert_eq!(scripts.calls(), want);
    }

    #[tokio::test]
    async fn older_plugins_are_not_told_what_they_undo() {
        let scripts = Scripts::noting(&["a"]);
        let mut attachments = [of("0.3.1", &["a"])];
        add_all(&mut attachments, target(&scripts)).await.unwrap();
        assert!(!attachments[0].has_to_be_known());
        delete_all(&attachments, target(&scripts)).await.unwrap();
        assert_eq!(scripts.calls(), "ADD a eth0 \nDEL a eth0 \n");
    }

    #[tokio::test]
    async fn errors_name_plugin_network_and_file() {
        let scripts = Scripts::new(&[("a", "echo '{\"msg\": \"no\"}'; exit 1"), ("b", "echo hm")]);
        let failed = |mut attachment: Attachment| async {
            let target = target(&scripts);
            let error = add_all(std::slice::from_mut(&mut attachment), target)
                .await
                .unwrap_err();
            (error.to_string(), attachment)
        };
        let (error, attachment) = failed(of("1.0.0", &["a", "b"])).await;
        let want = "CNI setup error: plugin type=\"a\" failed (add) for network \"n\" of \"/x\": no";
        assert_eq!(error, want);
        assert!(!attachment.has_to_be_known());
        let error = delete_all(&[attachment], target(&scripts))
            .await
            .unwrap_err()
            .to_string();
        let want = "CNI teardown error: plugin type=\"a\" failed (delete) for network \"n\" of \"/x\": no";
        assert_eq!(error, want);
        let (error, _) = failed(of("1.0.0", &["b"])).await;
        assert!(error.ends_with("it printed no result, but \"hm\""), "{error}");
    }

    #[tokio::test]
    async fn a_network_that_cannot_be_left_does_not_keep_the_others() {
        let scripts = Scripts::noting(&["a"]);
        let attachments = [of("1.0.0", &["a"]), of("1.0.0", &["missing"])];
        let error = delete_all(&attachments, target(&scripts))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"missing\""), "{error}");
        assert_eq!(scripts.calls(), "DEL a eth0 \n");
    }
}
