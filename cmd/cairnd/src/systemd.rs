//! What whoever starts the daemon does for it, in systemd's protocols: sockets opened in advance, and word of its state.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use cairn_worker::sys::inherited;

/// Most sockets that are taken over.
const MAX_SOCKETS: RawFd = 64;

/// Says something to whoever started the daemon, if it wants to know: `READY=1`, `STOPPING=1`.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        use std::os::unix::ffi::OsStrExt as _;
        match path.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.send_to_addr(state.as_bytes(), &SocketAddr::from_abstract_name(name)?),
            None => socket.send_to(state.as_bytes(), &path),
        }
    });
    if let Err(error) = sent {
        tracing::warn!(%error, state, "failed to tell the service manager");
    }
}

/// The sockets called `name` (or with that number) that were opened for this process; all of them for an empty name.
///
/// # Errors
/// If there are none.
pub(crate) fn sockets(name: &str) -> io::Result<Vec<OwnedFd>> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let own = std::process::id().to_string();
    let numbers = choose(
        name,
        (variable("LISTEN_PID") == own)
            .then(|| variable("LISTEN_FDS"))
            .as_deref(),
        &variable("LISTEN_FDNAMES"),
    )
    .map_err(|message| io::Error::new(io::ErrorKind::NotFound, message))?;
    numbers.into_iter().map(inherited::copy).collect()
}

fn choose(name: &str, count: Option<&str>, names: &str) -> Result<Vec<RawFd>, String> {
    let count = count.and_then(|count| count.parse::<RawFd>().ok()).unwrap_or(0);
    if !(1..=MAX_SOCKETS).contains(&count) {
        return Err("no sockets were opened for this process (LISTEN_PID, LISTEN_FDS)".to_owned());
    }
    let all = inherited::FIRST..inherited::FIRST + count;
    let chosen: Vec<RawFd> = if name.is_empty() {
        all.collect()
    } else if let Ok(number) = name.parse::<RawFd>() {
        all.filter(|&fd| fd == number).collect()
    } else {
        let named = all.zip(names.split(':')).filter(|(_, other)| *other == name);
        named.map(|(fd, _)| fd).collect()
    };
    if chosen.is_empty() {
        return Err(format!("no socket {name:?} was opened for this process"));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_chosen_by_name_and_number() {
        let two = Some("2");
        for (name, count, names, want) in [
            ("", two, "", Some(vec![3, 4])),
            ("3", two, "", Some(vec![3])),
            ("5", two, "", None),
            ("2", two, "", None),
            ("b", two, "a:b", Some(vec![4])),
            ("a", two, "a:a", Some(vec![3, 4])),
            ("c", two, "a:b:c", None),
            ("", None, "", None),
            ("", Some("0"), "", None),
            ("", Some("-1"), "", None),
            ("", Some("100000"), "", None),
            ("", Some("x"), "", None),
        ] {
            assert_eq!(choose(name, count, names).ok(), want, "{name:?} {count:?} {names:?}");
        }
    }
}
