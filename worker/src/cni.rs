//! Networks of processes, as the Container Network Interface has them: programs (plugins) that connect a network
//! namespace to whatever they are configured for.
//!
//! | module | part |
//! |---|---|
//! | `network` | which plugins make up a network, as files say it |
//! | `bridge` | a network that needs no file |
//! | `plugin` | calling one plugin |
//! | `attachment` | putting a namespace into networks, and taking it out |
//! | `namespace` | a namespace of our own, with the record of what it is in |
//! | `pool` | namespaces in use and ready for use |
//! | `leftovers` | what a killed daemon left |
//!
//! Invariants: a namespace is written down before the first plugin is called for it, with all that taking it out of its
//! networks needs, so that a later daemon can do so under any configuration. No plugin is waited for forever, and
//! nothing it prints is kept beyond a limit. Follows the CNI specification, and BuildKit's `util/network/cniprovider`
//! in what plugins are called with.

mod attachment;
mod bridge;
mod error;
mod leftovers;
mod namespace;
mod network;
mod plugin;
mod pool;
#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::bridge::{InterfaceName, Subnet};
pub use self::error::CniError;
pub(crate) use self::leftovers::clear;
pub(crate) use self::pool::{Lease, Namespaces};

use self::attachment::Attachment;
use self::network::Network;

/// How long a plugin may take.
const PLUGIN_LIMIT: Duration = Duration::from_secs(60);
/// How long a namespace that exceeds the wanted number is kept for a next process.
const KEEP: Duration = Duration::from_secs(5 * 60);

/// Which network processes get that do not ask for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkConfig {
    /// The host's.
    Host,
    /// None but a loopback interface.
    None,
    /// One made by plugins.
    Cni(CniConfig),
    /// One made by plugins if there is a file that describes it, else the host's.
    Auto(CniConfig),
}

impl NetworkConfig {
    /// What `Auto` means at this moment; anything else is itself.
    pub(crate) fn resolve(self) -> Self {
        match self {
            Self::Auto(config) if config.source.is_there() => Self::Cni(config),
            Self::Auto(_) => Self::Host,
            known => known,
        }
    }

    /// The name by which clients know it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Host | Self::Auto(_) => "host",
            Self::None => "none",
            Self::Cni(_) => "cni",
        }
    }
}

/// A network made by plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// What the network is.
    pub source: NetworkSource,
    /// Where the plugins are.
    pub plugin_dir: PathBuf,
    /// How many namespaces are to be there, in use or ready for use; more are made when they are needed.
    pub pool_size: usize,
}

/// What a network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkSource {
    /// What a file says: a list of plugins if its name ends in `.conflist`, else a single one.
    File(PathBuf),
    /// A bridge of the daemon's own, behind which addresses of the host are used to reach others.
    Bridge {
        /// Its name.
        name: InterfaceName,
        /// Addresses of those connected to it.
        subnet: Subnet,
    },
}

impl NetworkSource {
    fn is_there(&self) -> bool {
        match self {
            Self::File(path) => path.exists(),
            Self::Bridge { .. } => true,
        }
    }
}

/// How namespaces are set up, decided.
#[derive(Clone, Debug)]
struct Setup {
    attachments: Vec<Attachment>,
    plugin_dir: PathBuf,
    plugin_limit: Duration,
}

impl Setup {
    /// Reads the configuration, and looks whether the plugins are there.
    fn read(config: &CniConfig) -> Result<Self, CniError> {
        let attachments = match &config.source {
            NetworkSource::File(path) => of_file(path)?,
            NetworkSource::Bridge { name, subnet } => vec![Attachment::new("eth0", bridge::network(name, subnet)?)],
        };
        let setup = Self {
            attachments,
            plugin_dir: config.plugin_dir.clone(),
            plugin_limit: PLUGIN_LIMIT,
        };
        plugin::check_dir(&setup.plugin_dir)?;
        for attachment in &setup.attachments {
            for name in attachment.network.programs() {
                plugin::check(&setup.plugin_dir, name, &attachment.network.origin)?;
            }
        }
        Ok(setup)
    }
}

/// The interfaces' names are those they have with BuildKit, which counts the loopback interface where a file has a list.
fn of_file(path: &Path) -> Result<Vec<Attachment>, CniError> {
    let (network, interface) = match network::is_list(path) {
        true => (Network::read_list(path)?, "eth1"),
        false => (Network::read_single(path)?, "eth0"),
    };
    Ok(vec![
        Attachment::new("lo", network::loopback()),
        Attachment::new(interface, network),
    ])
}
