//! Registry settings as the worker wants them.

use std::collections::BTreeMap;

use cairn_worker::registry::{KeyPair, RegistryConfig, RegistryHosts};

use crate::config::{KeyPairSection, RegistrySection};

/// Turns the file's sections into the worker's settings.
pub(crate) fn hosts(sections: &BTreeMap<String, RegistrySection>) -> RegistryHosts {
    let hosts = sections.iter().map(|(host, section)| {
        let config = RegistryConfig {
            mirrors: section.mirrors.clone(),
            http: section.http,
            insecure: section.insecure,
            ca: section.ca.clone(),
            keypairs: section.keypair.iter().map(key_pair).collect(),
            tls_config_dirs: section.tlsconfigdir.clone(),
        };
        (host.clone(), config)
    });
    RegistryHosts {
        by_name: hosts.collect(),
    }
}

fn key_pair(section: &KeyPairSection) -> KeyPair {
    KeyPair {
        key: section.key.clone(),
        cert: section.cert.clone(),
    }
}
