//! A client's session: the connection through which a build reaches what is private to whoever started it.
//!
//! A session is a tunnel inside a call to the daemon, in which the client is the server ([`tunnel`]). The
//! daemon finds it by id ([`SessionManager`]) and calls the services in it. Each service is one module with
//! both halves side by side, so that the two ends of a protocol are read together:
//!
//! | module | daemon's half | client's half |
//! |---|---|---|
//! | [`filesync`] | receives directories | sends them |
//! | [`filesend`] | sends build output | writes it |
//! | [`auth`] | asks for registry tokens and credentials | fetches and finds them, by the Docker configuration |
//! | [`secrets`] | asks for secrets | reads them from files and variables |
//! | [`ssh`] | lends sockets to steps | joins them to ssh agents |
//! | [`upload`] | pulls streams | hands them over, each once |
//! | [`exporter`] | asks for exporters once there is a result | adds them |
//! | [`policy`] | asks about sources | decides about them |
//! | [`content`] | reads blobs of OCI layouts | finds them in its directories |
//!
//! [`fsutil`] is the packet protocol under both file services; [`mode`] its mode bits. [`windows`] says how much may be
//! unread.
//!
//! Invariants: nothing here knows builds or stores. Everything that the other side sends is bounded and
//! checked before it is used; every task ends with whoever asked for its work.

pub mod auth;
pub mod content;
mod error;
pub mod exporter;
pub mod filesend;
pub mod filesync;
pub mod fsutil;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod health;
mod manager;
mod metadata_values;
pub mod mode;
mod packets;
pub mod policy;
mod secret;
pub mod secrets;
mod services;
mod session;
pub mod ssh;
pub mod tunnel;
pub mod upload;
pub mod windows;

pub use error::SessionError;
pub use headers::SessionHeaders;
pub use manager::{DEFAULT_MAX_SESSIONS, LOOKUP_TIMEOUT, SessionHandle, SessionManager};
pub use secret::Secret;
pub use services::Services;
pub use session::Session;
