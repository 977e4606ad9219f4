mod auth;
pub(crate) mod fake;
mod real;
mod referrers;
pub(crate) mod server;

use std::sync::Arc;
use std::time::Duration;

use crate::content::{ContentStore, Durability};
use crate::image::{Descriptor, Document};

use super::*;

fn assert_send<T: Send>(_: T) {}

/// Everything runs in tasks of a server.
#[test]
fn futures_can_be_spawned() {
    let _check = |registry: &Registry,
                  reference: &Reference,
                  blob: &Descriptor,
                  store: &ContentStore,
                  document: &Document,
                  platform: &cairn_solver::Platform| {
        assert_send(registry.resolve(reference, platform, store));
        assert_send(registry.config(reference, blob, store));
        assert_send(registry.fetch_blob(reference, blob, store, None));
        assert_send(registry.push_blob(reference, blob, store, &[String::new()], None));
        assert_send(registry.push_manifest(reference, document));
    };
}

pub(crate) fn temp_store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), Durability::Relaxed).unwrap();
    (dir, store)
}

/// A client that does not wait long.
pub(crate) fn client(hosts: RegistryHosts) -> RegistryClient {
    let retry = RetryPolicy {
        attempts: 3,
        first_pause: Duration::from_millis(1),
        max_pause: Duration::from_millis(20),
    };
    RegistryClient::new(
        hosts,
        ClientOptions {
            retry,
            ..ClientOptions::default()
        },
    )
}

pub(crate) fn anonymous() -> Registry {
    client(RegistryHosts::default()).with_credentials(Arc::new(Anonymous))
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
