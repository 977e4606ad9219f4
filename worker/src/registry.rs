//! Pulling from and pushing to OCI registries.
//!
//! [`RegistryClient`] holds what all builds share: configuration, connections, transfer slots. [`Registry`] is it
//! together with one client's [`Credentials`]; tokens never leave it, so no build uses another's.
//!
//! Rules that everything here keeps:
//! - what a digest names is verified before anyone sees it;
//! - credentials are sent to the host they are for, never along a redirect, and a token server must speak https
//!   unless the registry itself does not;
//! - every document, header and number of tries is bounded.
//!
//! Follows the OCI distribution specification and, for tokens, Docker's "Token Authentication".

mod attempts;
mod auth;
mod challenge;
mod client;
mod error;
mod exchange;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hosts;
mod push;
mod referrers;
mod resolve;
mod sources;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

pub use auth::{Anonymous, Credentials, CredentialsError, Secret, Token, TokenRequest, UserPassword};
pub use cairn_solver::Reference;
pub use client::{ClientOptions, Progress, Registry, RegistryClient, RetryPolicy};
pub use error::RegistryError;
pub use hosts::{KeyPair, RegistryConfig, RegistryHosts};
pub use push::Pushed;
pub use resolve::ResolvedImage;
pub(crate) use tls::plain_client;
