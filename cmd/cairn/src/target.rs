//! Choosing the daemon that does the work.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use cairn_client::Address;

use crate::args::DaemonArgs;
use crate::error::CliError;
use crate::surroundings::Surroundings;

const SYSTEM_SOCKET: &str = "/run/cairn/cairnd.sock";

/// The daemon to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// One that runs already.
    Remote(Address),
    /// One inside this process.
    Embedded(EmbeddedOptions),
}

/// How to run the daemon inside this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EmbeddedOptions {
    /// The configuration file, when named.
    pub(crate) config: Option<PathBuf>,
    /// The directory of its state, when named.
    pub(crate) root: Option<PathBuf>,
}

impl Target {
    /// Chooses by the arguments, else by the environment, else by who answers at the default socket.
    ///
    /// An address that was asked for is taken as it is: that nobody answers there is found out later, and is
    /// an error.
    pub(crate) fn choose(args: &DaemonArgs, surroundings: &Surroundings) -> Result<Self, CliError> {
        if args.config.is_some() || args.root.is_some() {
            return Ok(Self::Embedded(EmbeddedOptions {
                config: args.config.as_ref().map(|path| surroundings.path(path)),
                root: args.root.as_ref().map(|path| surroundings.path(path)),
            }));
        }
        if let Some(address) = &args.addr {
            return parse("--addr", address);
        }
        for name in ["CAIRN_HOST", "BUILDKIT_HOST"] {
            if let Some(address) = surroundings.variable(name) {
                return parse(name, address);
            }
        }
        let answering = default_sockets(surroundings)
            .into_iter()
            .find(|path| UnixStream::connect(path).is_ok());
        Ok(match answering {
            Some(path) => Self::Remote(Address::Unix(path)),
            None => Self::Embedded(EmbeddedOptions::default()),
        })
    }
}

fn parse(origin: &str, address: &str) -> Result<Target, CliError> {
    let address = address.parse::<Address>();
    address
        .map(Target::Remote)
        .map_err(|error| CliError::usage(format!("{origin}: {error}")))
}

/// Where a daemon listens when nobody says otherwise; the user's own one first.
fn default_sockets(surroundings: &Surroundings) -> Vec<PathBuf> {
    let own = surroundings
        .variable("XDG_RUNTIME_DIR")
        .filter(|_| !surroundings.is_root);
    let own = own.map(|dir| PathBuf::from(dir).join("cairn/cairnd.sock"));
    own.into_iter().chain([PathBuf::from(SYSTEM_SOCKET)]).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Surroundings {
            directory: "/srv".into(),
            variables: variables.iter().map(owned).collect(),
            ..Surroundings::default()
        }
    }

    fn remote(address: &str) -> Target {
        Target::Remote(address.parse().unwrap())
    }

    #[test]
    fn the_argument_wins_over_the_environment() {
        let around = surroundings(&[("CAIRN_HOST", "tcp://c:1"), ("BUILDKIT_HOST", "tcp://b:1")]);
        let args = DaemonArgs {
            addr: Some("tcp://a:1".into()),
            ..DaemonArgs::default()
        };
        assert_eq!(Target::choose(&args, &around).unwrap(), remote("tcp://a:1"));
        let none = DaemonArgs::default();
        assert_eq!(Target::choose(&none, &around).unwrap(), remote("tcp://c:1"));
        let around = surroundings(&[("CAIRN_HOST", ""), ("BUILDKIT_HOST", "tcp://b:1")]);
        assert_eq!(Target::choose(&none, &around).unwrap(), remote("tcp://b:1"));
    }

    #[test]
    fn settings_of_an_own_daemon_ask_for_it() {
        let around = surroundings(&[("CAIRN_HOST", "tcp://c:1")]);
        let args = DaemonArgs {
            root: Some("state".into()),
            ..DaemonArgs::default()
        };
        let expected = EmbeddedOptions {
            root: Some("/srv/state".into()),
            config: None,
        };
        assert_eq!(Target::choose(&args, &around).unwrap(), Target::Embedded(expected));
    }

    #[test]
    fn a_bad_address_names_where_it_came_from() {
        let around = surroundings(&[("BUILDKIT_HOST", "docker-container://x")]);
        let error = Target::choose(&DaemonArgs::default(), &around).unwrap_err();
        assert!(
            error.to_string().starts_with("BUILDKIT_HOST: daemon address"),
            "{error}"
        );
    }

    #[test]
    fn a_default_socket_counts_only_when_somebody_answers() {
        let dir = tempfile::tempdir().unwrap();
        let around = surroundings(&[("XDG_RUNTIME_DIR", dir.path().to_str().unwrap())]);
        let socket = dir.path().join("cairn/cairnd.sock");
        assert_eq!(default_sockets(&around), [socket.clone(), SYSTEM_SOCKET.into()]);
        std::fs::create_dir(dir.path().join("cairn")).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let chosen = Target::choose(&DaemonArgs::default(), &around).unwrap();
        assert_eq!(chosen, Target::Remote(Address::Unix(socket.clone())));
        drop(listener);
        // The file is still there, but nobody listens.
        assert_ne!(
            Target::choose(&DaemonArgs::default(), &around).unwrap(),
            Target::Remote(Address::Unix(socket))
        );
    }
}
