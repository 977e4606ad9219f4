//! Registry settings as the worker wants them.

use std::collections::BTreeMap;

use cairn_worker::registry::{RegistryConfig, RegistryHosts};

use crate::config::RegistrySection;

/// Turns the file's sections into the worker's settings.
pub(crate) fn hosts(sections: &BTreeMap<String, RegistrySection>) -> RegistryHosts {
    let hosts = sections.iter().map(|(host, section)| {
        let config = RegistryConfig {
            mirrors: section.mirrors.clone(),
            http: section.http,
            insecure: section.insecure,
            ca: section.ca.clone(),
            ..RegistryConfig::default()
        };
        (host.clone(), config)
    });
    RegistryHosts {
        by_name: hosts.collect(),
    }
}
