//! Keys of ssh hosts, for repositories that are fetched from them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cairn_solver::frontend::Bridge;
use cairn_solver::llb::GitSource;
use tokio::sync::OnceCell;

/// What hosts presented when this request first asked them: the graph says that they have to go on doing so. A host that
/// does not tell is left to whoever fetches from it.
#[derive(Debug, Default)]
pub(crate) struct HostKeys(Mutex<HashMap<String, Arc<OnceCell<String>>>>);

impl HostKeys {
    /// Puts into `source` what its host presented; false if the host is yet to be asked.
    pub(crate) fn fill(&self, source: &mut GitSource) -> bool {
        if !lacks_keys(source) {
            return true;
        }
        let known = self.cell(source);
        if let Some(keys) = known.get() {
            source.known_ssh_hosts.clone_from(keys);
        }
        known.initialized()
    }

    /// Asks the host of `source`, unless it has been or need not be.
    pub(super) async fn ask(&self, bridge: &dyn Bridge, source: &GitSource) {
        if lacks_keys(source) {
            let known = self.cell(source);
            known.get_or_init(|| bridge.host_keys(source)).await;
        }
    }

    fn cell(&self, source: &GitSource) -> Arc<OnceCell<String>> {
        let host = source.repository.split('/').next().unwrap_or_default();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(host.to_owned()).or_default())
    }
}

/// Whether a source is fetched by ssh, and nothing says from whom.
fn lacks_keys(source: &GitSource) -> bool {
    !source.ssh_socket.is_empty() && source.known_ssh_hosts.is_empty()
}
