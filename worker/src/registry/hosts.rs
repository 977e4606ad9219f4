//! Which servers answer for a registry name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// What is configured for registry names: `[registry."host"]` of `buildkitd.toml`.
#[derive(Debug, Clone, Default)]
pub struct RegistryHosts {
    /// By name as it stands in references (`docker.io`, `localhost:5000`); also asked for mirrors' own names.
    pub by_name: BTreeMap<String, RegistryConfig>,
}

/// What is configured for one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// `host[:port][/path]` of servers to pull from first, in order.
    pub mirrors: Vec<String>,
    /// Speak plain http. By default only this machine's own addresses do.
    pub http: Option<bool>,
    /// Do not verify the server's certificate.
    pub insecure: Option<bool>,
    /// PEM files of additional certificate authorities.
    pub ca: Vec<PathBuf>,
    /// Certificates to show to the server.
    pub keypairs: Vec<KeyPair>,
    /// Directories with `*.crt`, `*.cert` and `*.key`, as Docker's `certs.d`.
    pub tls_config_dirs: Vec<PathBuf>,
}

/// A client certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPair {
    /// The private key.
    pub key: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
}

/// How a server's identity is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct TlsSettings {
    pub(super) skip_verify: bool,
    pub(super) ca: Vec<PathBuf>,
    pub(super) keypairs: Vec<KeyPair>,
    pub(super) dirs: Vec<PathBuf>,
}

/// A server that answers for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) is_http: bool,
    /// `host[:port]`.
    pub(super) host: String,
    /// What stands between `/v2/` and the repository: empty, or ending in a slash.
    pub(super) prefix: String,
    /// For a mirror: the registry it is asked in place of.
    pub(super) mirror_of: Option<String>,
    pub(super) tls: TlsSettings,
}

impl Endpoint {
    pub(super) fn base(&self) -> String {
        format!(
            "{}://{}/v2/{}",
            if self.is_http { "http" } else { "https" },
            self.host,
            self.prefix
        )
    }

    /// Whether plain http is acceptable for what belongs to this server, its token server above all.
    pub(super) const fn allows_http(&self) -> bool {
        self.is_http || self.tls.skip_verify
    }
}

impl RegistryHosts {
    /// The servers to pull from, best first.
    pub(super) fn pull_endpoints(&self, registry: &str, insecure: bool) -> Vec<Endpoint> {
        let mirrors = self
            .by_name
            .get(registry)
            .map(|config| config.mirrors.as_slice())
            .unwrap_or_default();
        let mut endpoints = Vec::new();
        for mirror in mirrors {
            let mirror = mirror.trim_end_matches('/');
            let (host, path) = mirror.split_once('/').unwrap_or((mirror, ""));
            let prefix = if path.is_empty() {
                String::new()
            } else {
                format!("{path}/")
            };
            endpoints.extend(self.variants(host, host, false).map(|endpoint| Endpoint {
                prefix: prefix.clone(),
                mirror_of: Some(registry.to_owned()),
                ..endpoint
            }));
        }
        endpoints.extend(self.push_endpoints(registry, insecure));
        endpoints
    }

    /// The registry itself; more than one when both http and unverified https are to be tried.
    pub(super) fn push_endpoints(&self, registry: &str, insecure: bool) -> Vec<Endpoint> {
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            registry => registry,
        };
        self.variants(registry, host, insecure).collect()
    }

    fn variants(&self, name: &str, host: &str, insecure: bool) -> impl Iterator<Item = Endpoint> + use<> {
        let config = self.by_name.get(name).cloned().unwrap_or_default();
        let is_http = config.http.unwrap_or_else(|| insecure || is_this_machine(host));
        let skip_verify = insecure || config.insecure == Some(true);
        let endpoint = move |is_http, skip_verify| Endpoint {
            is_http,
            host: host.to_owned(),
            prefix: String::new(),
            mirror_of: None,
            tls: TlsSettings {
                skip_verify,
                ca: config.ca.clone(),
                keypairs: config.keypairs.clone(),
                dirs: config.tls_config_dirs.clone(),
            },
        };
        let http = is_http.then(|| endpoint(true, skip_verify));
        let https = (skip_verify || !is_http).then(|| endpoint(false, skip_verify));
        // With `insecure` the better protected one comes first.
        if insecure {
            https.into_iter().chain(http)
        } else {
            http.into_iter().chain(https)
        }
    }
}

/// `localhost` and loopback addresses, with or without port.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(entries: &[(&str, RegistryConfig)]) -> RegistryHosts {
        RegistryHosts {
            by_name: entries
                .iter()
                .map(|(name, config)| ((*name).to_owned(), config.clone()))
                .collect(),
        }
    }

    fn bases(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints
            .iter()
            .map(|endpoint| format!("{} {}", endpoint.base(), endpoint.tls.skip_verify))
            .collect()
    }

    #[test]
    fn names_become_servers() {
        let none = RegistryHosts::default();
        for (name, insecure, want) in [
            ("docker.io", false, &["https://registry-1.docker.io/v2/ false"][..]),
            ("example.com:5000", false, &["https://example.com:5000/v2/ false"]),
            ("localhost:5000", false, &["http://localhost:5000/v2/ false"]),
            ("127.0.0.1", false, &["http://127.0.0.1/v2/ false"]),
            ("127.example.com", false, &["https://127.example.com/v2/ false"]),
            (
                "example.com",
                true,
                &["https://example.com/v2/ true", "http://example.com/v2/ true"],
            ),
        ] {
            assert_eq!(bases(&none.push_endpoints(name, insecure)), want, "{name}");
        }
    }

    #[test]
    fn mirrors_come_first_with_their_own_settings() {
        let mirrors = vec!["m.example:5000/hub/".to_owned(), "n.example".to_owned()];
        let configured = hosts(&[
            (
                "docker.io",
                RegistryConfig {
                    mirrors,
                    ..Default::default()
                },
            ),
            (
                "m.example:5000",
                RegistryConfig {
                    http: Some(true),
                    ..Default::default()
                },
            ),
            (
                "n.example",
                RegistryConfig {
                    insecure: Some(true),
                    ..Default::default()
                },
            ),
            (
                "localhost",
                RegistryConfig {
                    http: Some(false),
                    ..Default::default()
                },
            ),
        ]);
        let endpoints = configured.pull_endpoints("docker.io", false);
        assert_eq!(
            bases(&endpoints),
            [
                "http://m.example:5000/v2/hub/ false",
                "https://n.example/v2/ true",
                "https://registry-1.docker.io/v2/ false"
            ]
        );
        assert_eq!(endpoints[0].mirror_of.as_deref(), Some("docker.io"));
        assert_eq!(endpoints[2].mirror_of, None);
        assert_eq!(bases(&configured.push_endpoints("docker.io", false)).len(), 1);
        assert_eq!(
            bases(&configured.push_endpoints("localhost", false)),
            ["https://localhost/v2/ false"]
        );
    }
}
