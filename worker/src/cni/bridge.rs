//! A network that needs no file: a bridge of the daemon's own.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::CniError;
use super::network::Network;
use crate::sys::netlink;

/// The network's name. BuildKit has the same for its bridge: where both use one, they share its addresses.
const NAME: &str = "buildkit";
/// Where the kernel shows interfaces.
const INTERFACES: &str = "/sys/class/net";
/// Where is noted, beside namespaces, that the bridge is to be removed.
const MARK: &str = "bridge";

/// The name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceName(String);

/// Addresses of a network: the first one and the length of what they have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// A text that is none of a network.
#[derive(Debug, thiserror::Error)]
#[error("expected {0}")]
pub struct InvalidBridge(&'static str);

impl FromStr for InterfaceName {
    type Err = InvalidBridge;

    fn from_str(text: &str) -> Result<Self, InvalidBridge> {
        const MAX: usize = 15;
        let is_plain = |c: char| c.is_ascii_graphic() && !"/:%\"\\".contains(c);
        if text.is_empty() || text.len() > MAX || text == "." || text == ".." || !text.chars().all(is_plain) {
            return Err(InvalidBridge(
                "the name of a network interface, of at most 15 characters",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Subnet {
    type Err = InvalidBridge;

    fn from_str(text: &str) -> Result<Self, InvalidBridge> {
        let parts = text.split_once('/').and_then(|(address, prefix)| {
            let address: IpAddr = address.parse().ok()?;
            Some((address, prefix.parse::<u8>().ok()?))
        });
        let (address, prefix) = parts.ok_or(InvalidBridge("a subnet, such as 10.10.0.0/16"))?;
        let (bits, width) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32u32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        // The network's own address, the bridge's, and at least one more.
        let Some(free) = width.checked_sub(prefix.into()).filter(|free| *free >= 2) else {
            return Err(InvalidBridge("a subnet with room for addresses"));
        };
        if bits & u128::MAX.checked_shr(128 - free).unwrap_or_default() != 0 {
            return Err(InvalidBridge("the first address of a subnet"));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The network of a bridge: its namespaces have addresses of the subnet, reach others with addresses of the host, and
/// are reached by each other alone.
pub(super) fn network(name: &InterfaceName, subnet: &Subnet) -> Result<Network, CniError> {
    let text = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": NAME,
        "plugins": [
            {"type": "loopback"},
            {
                "type": "bridge",
                "bridge": name.0,
                "isDefaultGateway": true,
                "ipMasq": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet.to_string()}]]},
            },
            {"type": "firewall", "ingressPolicy": "same-bridge"},
        ],
    });
    Network::list(&format!("bridge {:?}", name.0), text.to_string().as_bytes())
}

/// A bridge that the daemon made, and removes when it stops.
#[derive(Debug)]
pub(super) struct OwnBridge {
    name: InterfaceName,
    mark: PathBuf,
}

impl OwnBridge {
    /// Notes in `dir` that a bridge is about to be made; `None` if it is there already and somebody else's.
    pub(super) fn claim(name: &InterfaceName, dir: &Path) -> Result<Option<Self>, CniError> {
        let interface = Path::new(INTERFACES).join(&name.0);
        if interface.exists() {
            return match interface.join("bridge").exists() {
                true => Ok(None),
                false => Err(CniError::NotABridge(name.0.clone())),
            };
        }
        let mark = dir.join(MARK);
        std::fs::write(&mark, &name.0).map_err(CniError::io("write", &mark))?;
        Ok(Some(Self {
            name: name.clone(),
            mark,
        }))
    }

    /// One that an earlier daemon made.
    pub(super) fn find(dir: &Path) -> Option<Self> {
        let mark = dir.join(MARK);
        let name = std::fs::read_to_string(&mark).ok()?.parse().ok()?;
        Some(Self { name, mark })
    }

    /// Removes it, unless somebody else has come to use it. Blocks the thread.
    pub(super) fn remove(self) {
        if let Err(error) = self.delete() {
            tracing::warn!(bridge = %self.name, %error, "could not remove a bridge");
        }
        if let Err(error) = std::fs::remove_file(&self.mark) {
            tracing::warn!(path = %self.mark.display(), %error, "could not remove the mark of a bridge");
        }
    }

    fn delete(&self) -> io::Result<()> {
        let interface = Path::new(INTERFACES).join(&self.name.0);
        let ports = match std::fs::read_dir(interface.join("brif")) {
            // It was never made, or is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            ports => ports?,
        };
        if ports.count() > 0 {
            tracing::info!(bridge = %self.name, "a bridge is left to others that use it");
            return Ok(());
        }
        let index = std::fs::read_to_string(interface.join("ifindex"))?;
        netlink::delete_interface(index.trim().parse().map_err(io::Error::other)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_subnets_are_checked() {
        for (name, ok) in [
            ("buildkit0", true),
            ("br-x.1_y", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("0123456789abcdef", false),
        ] {
            assert_eq!(name.parse::<InterfaceName>().is_ok(), ok, "{name}");
        }
        for (subnet, want) in [
            ("10.10.0.0/16", Ok("10.10.0.0/16")),
            ("10.10.0.4/30", Ok("10.10.0.4/30")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("fd00::/64", Ok("fd00::/64")),
            ("::/0", Ok("::/0")),
            ("10.10.0.1/16", Err("the first address")),
            ("fd00::1/64", Err("the first address")),
            ("10.10.0.0/31", Err("room")),
            ("10.10.0.0/33", Err("room")),
            ("10.10.0.0", Err("such as")),
            ("10.10.0.0/x", Err("such as")),
            ("x/16", Err("such as")),
        ] {
            let parsed = subnet.parse::<Subnet>();
            match (parsed, want) {
                (Ok(parsed), Ok(want)) => assert_eq!(parsed.to_string(), want),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{subnet}: {error}"),
                (parsed, _) => panic!("{subnet}: {parsed:?}"),
            }
        }
    }

    #[test]
    fn the_network_names_bridge_and_subnet() {
        let network = network(&"br7".parse().unwrap(), &"10.7.0.0/24".parse().unwrap()).unwrap();
        let programs: Vec<&str> = network.programs().collect();
        assert_eq!(programs, ["loopback", "bridge", "host-local", "firewall"]);
        let request = network.request(&network.plugins[1], None);
        assert_eq!(request["bridge"], "br7");
        assert_eq!(request["ipam"]["ranges"][0][0]["subnet"], "10.7.0.0/24");
    }

    #[test]
    fn what_is_no_bridge_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let error = OwnBridge::claim(&"lo".parse().unwrap(), dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "\"lo\" already exists but is not a bridge");
        assert!(OwnBridge::find(dir.path()).is_none());
        // Names of interfaces of this length are not made by anybody else.
        let own = OwnBridge::claim(&"cairn-no-bridge".parse().unwrap(), dir.path())
            .unwrap()
            .unwrap();
        assert!(OwnBridge::find(dir.path()).is_some());
        own.remove();
        assert!(OwnBridge::find(dir.path()).is_none());
    }
}
