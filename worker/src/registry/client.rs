//! The client: what is shared, and what belongs to one user.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::auth::{Credentials, TokenCache};
use super::error::RegistryError;
use super::hosts::{Endpoint, RegistryHosts};
use super::tls::Clients;

/// Told how many bytes of how many have been transferred.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// How many blobs are transferred at once. By default 8.
    pub max_transfers: usize,
    /// When to try again.
    pub retry: RetryPolicy,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            max_transfers: 8,
            retry: RetryPolicy::default(),
        }
    }
}

/// How often, and how soon, a failed request is repeated.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// How many tries in all. By default 5.
    pub attempts: u32,
    /// The pause before the second try; it doubles from then on. By default 200 ms.
    pub first_pause: Duration,
    /// The longest pause, also when the server asks for more. By default 20 s.
    pub max_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(200),
            max_pause: Duration::from_secs(20),
        }
    }
}

impl RetryPolicy {
    /// How long to wait before another try, after `failures` of them in a row; `None` to give up. A server that
    /// cannot be reached is given up at once while there are others to ask.
    pub(super) fn pause_after(&self, error: &RegistryError, failures: u32, is_last: bool) -> Option<Duration> {
        let is_worth_it = error.is_transient() && (is_last || !error.is_unreachable());
        (is_worth_it && failures < self.attempts).then(|| self.pause(failures, error.retry_after()))
    }

    /// Doubles with every failure; longer when the server asks for it, within bounds.
    pub(super) fn pause(&self, failures: u32, asked_for: Option<Duration>) -> Duration {
        let own = self.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(16));
        own.max(asked_for.unwrap_or_default()).min(self.max_pause)
    }
}

/// What all users share. Clones are handles on the same client.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hosts: RegistryHosts,
    clients: Clients,
    transfers: Semaphore,
    options: ClientOptions,
}

/// Registries as one user sees them. Clones share tokens.
#[derive(Clone)]
pub struct Registry {
    pub(super) client: RegistryClient,
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) tokens: Arc<TokenCache>,
    insecure: bool,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

impl RegistryClient {
    /// Makes a client; nothing is connected yet.
    pub fn new(hosts: RegistryHosts, options: ClientOptions) -> Self {
        let transfers = Semaphore::new(options.max_transfers.max(1));
        Self {
            shared: Arc::new(Shared {
                hosts,
                clients: Clients::default(),
                transfers,
                options,
            }),
        }
    }

    /// Registries as seen with these credentials.
    pub fn with_credentials(&self, credentials: Arc<dyn Credentials>) -> Registry {
        Registry {
            client: self.clone(),
            credentials,
            tokens: Arc::default(),
            insecure: false,
        }
    }

    pub(super) fn http(&self, endpoint: &Endpoint) -> Result<reqwest::Client, RegistryError> {
        self.shared.clients.get(endpoint)
    }

    pub(super) fn retry(&self) -> RetryPolicy {
        self.shared.options.retry
    }

    /// A slot for moving one blob.
    pub(super) async fn transfer_slot(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.shared.transfers.acquire().await.ok()
    }
}

impl Registry {
    /// The same, but unverified https and plain http will do (`registry.insecure=true`).
    #[must_use]
    pub fn insecure(&self) -> Self {
        Self {
            insecure: true,
            ..self.clone()
        }
    }

    pub(super) fn pull_endpoints(&self, registry: &str) -> Vec<Endpoint> {
        self.client.shared.hosts.pull_endpoints(registry, self.insecure)
    }

    pub(super) fn push_endpoints(&self, registry: &str) -> Vec<Endpoint> {
        self.client.shared.hosts.push_endpoints(registry, self.insecure)
    }
}
