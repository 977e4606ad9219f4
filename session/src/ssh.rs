//! The client's ssh agents, lent to steps of a build.
//!
//! The daemon listens on a socket of its own and opens one stream per connection to it; the client joins each stream
//! to its agent. What passes is the agent protocol (draft-miller-ssh-agent). The client's half lets steps list keys
//! and have things signed, and nothing else: a build cannot add, remove or lock keys of its user.

mod forward;
mod frame;
mod service;

pub use forward::{Lending, check_agent, serve_connections};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use frame::read as read_message;
pub use service::serve;

const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
/// Metadata of a stream: which agent it leads to.
const AGENT_ID: &str = "buildkit.ssh.id";
/// The agent that is meant when none is named.
pub const DEFAULT_AGENT: &str = "default";
