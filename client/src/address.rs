//! Where a daemon listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a daemon: `unix://PATH` or `tcp://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket at an absolute path.
    Unix(PathBuf),
    /// A TCP port, as `host:port`; spoken to without TLS.
    Tcp(String),
}

/// Why a text is not the address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text does not start with a scheme.
    #[error("daemon address {0:?} has no scheme: unix:///path or tcp://host:port")]
    NoScheme(String),
    /// The scheme is one of other tools, or a typing error.
    #[error("daemon address {address:?} has the unsupported scheme {scheme:?}: unix:// and tcp:// are supported")]
    Scheme {
        /// The text as given.
        address: String,
        /// Its part before `://`.
        scheme: String,
    },
    /// The path of a unix socket is empty or relative.
    #[error("daemon address {0:?} needs an absolute path: unix:///path")]
    Path(String),
    /// The host or the port is missing or malformed.
    #[error("daemon address {0:?} needs a host and a port: tcp://host:port")]
    HostPort(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(AddressError::NoScheme(text.to_owned()));
        };
        match scheme {
            "unix" => {
                let path = PathBuf::from(rest);
                if path.is_absolute() && !rest.contains('\0') {
                    Ok(Self::Unix(path))
                } else {
                    Err(AddressError::Path(text.to_owned()))
                }
            }
            "tcp" => {
                let rest = rest.strip_suffix('/').unwrap_or(rest);
                if is_host_port(rest) {
                    Ok(Self::Tcp(rest.to_owned()))
                } else {
                    Err(AddressError::HostPort(text.to_owned()))
                }
            }
            _ => Err(AddressError::Scheme {
                address: text.to_owned(),
                scheme: scheme.to_owned(),
            }),
        }
    }
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let plain = !host.is_empty() && !host.contains([':', '/', '[', ']', '@', '?', '#', '%']);
    (bracketed || plain)
        && host.chars().all(|c| c.is_ascii_graphic())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host_port) => write!(f, "tcp://{host_port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_daemons_listen_on() {
        for text in [
            "unix:///run/cairn/cairnd.sock",
            "tcp://127.0.0.1:1234",
            "tcp://build.example.org:80",
            "tcp://[::1]:1234",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn refuses_the_rest_with_its_reason() {
        for (text, reason) in [
            ("/run/x.sock", "has no scheme"),
            ("", "has no scheme"),
            ("docker-container://x", "unsupported scheme \"docker-container\""),
            ("unix://x.sock", "absolute path"),
            ("unix://", "absolute path"),
            ("tcp://host", "host and a port"),
            ("tcp://host:0", "host and a port"),
            ("tcp://host:70000", "host and a port"),
            ("tcp://:1234", "host and a port"),
            ("tcp://user@host:1", "host and a port"),
            ("tcp://a b:1", "host and a port"),
            ("tcp://::1:1", "host and a port"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
