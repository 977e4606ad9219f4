//! `--ssh`.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use crate::error::CliError;
use crate::surroundings::Surroundings;

/// Where the running agent says that it is.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// The agents that steps may use: sockets by the id that steps ask for.
pub(super) fn agents(texts: &[String], surroundings: &Surroundings) -> Result<BTreeMap<String, PathBuf>, CliError> {
    let mut agents = BTreeMap::new();
    for text in texts {
        let (id, place) = match text.split_once('=') {
            Some((id, place)) => (id, Some(place)),
            None => (text.as_str(), None),
        };
        let invalid = |reason: &str| CliError::usage(format!("invalid --ssh {text:?}: {reason}"));
        if id.is_empty() {
            return Err(invalid("it has no id"));
        }
        let socket = match place.filter(|place| !place.is_empty()) {
            Some(place) => surroundings.path(place),
            None => match surroundings.variable(AGENT_VARIABLE) {
                Some(socket) => surroundings.path(socket),
                None => return Err(invalid("no agent is running, as SSH_AUTH_SOCK is not set")),
            },
        };
        let kind = std::fs::metadata(&socket).map(|metadata| metadata.file_type());
        if !kind.is_ok_and(|kind| kind.is_socket()) {
            return Err(CliError::usage_hint(
                format!("invalid --ssh {text:?}: {} is no socket of an agent", socket.display()),
                "keys are lent by an agent that holds them: start ssh-agent, and add them with ssh-add",
            ));
        }
        if agents.insert(id.to_owned(), socket).is_some() {
            return Err(CliError::usage(format!("two agents have the id {id:?}")));
        }
    }
    Ok(agents)
}
