//! Where a daemon listens.

use std::path::PathBuf;

use super::{ConfigError, DEFAULT_ADDRESS};

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
    /// Sockets that the program that started the daemon has opened for it: all of them if empty, or one by its name
    /// or number.
    Inherited(String),
}

/// The address to listen on when none is given.
pub fn default_address() -> Address {
    if !rustix::process::geteuid().is_root()
        && let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR")
    {
        return Address::Unix(PathBuf::from(dir).join("cairn/cairnd.sock"));
    }
    Address::Unix(PathBuf::from(DEFAULT_ADDRESS.trim_start_matches("unix://")))
}

impl std::str::FromStr for Address {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |expected| Err(ConfigError::value("address", text, expected));
        let Some((scheme, rest)) = text.split_once("://") else {
            return fail("expected unix:///path, tcp://host:port or fd://");
        };
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => fail("a unix socket needs an absolute path, as in unix:///run/cairn/cairnd.sock"),
            "tcp" => match rest.rsplit_once(':') {
                Some((_, port)) if port.parse::<u16>().is_ok() => Ok(Self::Tcp(rest.to_owned())),
                _ => fail("a TCP address needs a port, as in tcp://127.0.0.1:1234"),
            },
            "fd" => Ok(Self::Inherited(if rest == "*" {
                String::new()
            } else {
                rest.to_owned()
            })),
            "npipe" => fail("named pipes are not supported"),
            _ => fail("expected unix:///path, tcp://host:port or fd://"),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Inherited(name) => write!(f, "fd://{name}"),
        }
    }
}
