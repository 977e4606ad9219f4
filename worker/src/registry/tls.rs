//! HTTP clients, one per way of checking servers.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Certificate, Client, ClientBuilder, Identity};

use super::error::RegistryError;
use super::hosts::{Endpoint, KeyPair, TlsSettings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest silence in the middle of a transfer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes clients once and keeps them, and with them their connections.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_settings: Mutex<HashMap<(bool, TlsSettings), Client>>,
}

impl Clients {
    pub(super) fn get(&self, endpoint: &Endpoint) -> Result<Client, RegistryError> {
        let key = (endpoint.is_http, endpoint.tls.clone());
        let mut clients = self.by_settings.lock();
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(endpoint)?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Several TLS implementations could be linked in; this one is meant.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only when the program has already chosen one.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

fn base() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("cairn/", env!("CARGO_PKG_VERSION")))
        // Redirects are followed by hand: credentials must not go along.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(Duration::from_secs(60))
}

/// A client for other servers than registries, which are checked by the machine's certificate authorities. On a machine
/// without any, https fails at the handshake.
pub(crate) fn plain_client() -> Result<Client, reqwest::Error> {
    install_crypto();
    base().build().or_else(|_| base().tls_certs_only([]).build())
}

fn build(endpoint: &Endpoint) -> Result<Client, RegistryError> {
    install_crypto();
    let fail = |problem: String| RegistryError::Config {
        host: endpoint.host.clone(),
        problem,
    };
    let files = collect(&endpoint.tls).map_err(fail)?;
    let mut builder = base().tls_danger_accept_invalid_certs(endpoint.tls.skip_verify);
    let mut authorities = Vec::new();
    for path in &files.ca {
        let pem = read(path).map_err(fail)?;
        let certificates = Certificate::from_pem_bundle(&pem);
        authorities.extend(certificates.map_err(|err| fail(format!("{}: {err}", path.display())))?);
    }
    if !authorities.is_empty() {
        builder = builder.tls_certs_merge(authorities);
    }
    // A connection shows one certificate; the first pair is the one.
    if let Some(KeyPair { key, cert }) = files.keypairs.first() {
        let pem = [read(key).map_err(fail)?, b"\n".to_vec(), read(cert).map_err(fail)?].concat();
        let identity = Identity::from_pem(&pem);
        builder = builder.identity(identity.map_err(|err| fail(format!("{}: {err}", cert.display())))?);
    }
    match builder.build() {
        Ok(client) => Ok(client),
        // A machine without any certificate authorities can still speak http; https then fails at the handshake.
        Err(_) if endpoint.is_http => base()
            .tls_certs_only([])
            .build()
            .map_err(|err| fail(format!("failed to set up http: {err}"))),
        Err(err) => Err(fail(format!("failed to set up TLS: {err}"))),
    }
}

struct Files {
    ca: Vec<PathBuf>,
    keypairs: Vec<KeyPair>,
}

/// The configured files, and those in the configured directories in the order of their names.
fn collect(tls: &TlsSettings) -> Result<Files, String> {
    let mut files = Files {
        ca: tls.ca.clone(),
        keypairs: tls.keypairs.clone(),
    };
    for dir in &tls.dirs {
        let listing = fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let listing = match listing {
            Ok(listing) => listing,
            // Directories are commonly configured before anything is put there.
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => continue,
            Err(err) => return Err(format!("failed to list {}: {err}", dir.display())),
        };
        let mut paths: Vec<PathBuf> = listing.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => files.ca.push(path),
                Some("cert") => files.keypairs.push(KeyPair {
                    key: path.with_extension("key"),
                    cert: path,
                }),
                _ => {}
            }
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|err| format!("failed to read {}: {err}", path.display()))
}
