//! What is asked of the kernel about network interfaces.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// `RTM_DELLINK`: an interface is to be removed.
const DELETE_LINK: u16 = 17;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ASK: u16 = 1 | 4;
/// `NLMSG_ERROR`: how it went.
const OUTCOME: u16 = 2;
/// Length of `struct nlmsghdr`, and of that with the `struct ifinfomsg` behind it.
const HEADER: usize = 16;
const LENGTH: usize = HEADER + 16;

/// Removes an interface, in the network of the calling thread.
pub fn delete_interface(index: i32) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // The protocol of routes and interfaces.
        None,
    )?;
    send(&socket, &delete_request(index), SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    outcome(&answer[..length])
}

fn delete_request(index: i32) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[..4].copy_from_slice(&(LENGTH as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&DELETE_LINK.to_ne_bytes());
    message[6..8].copy_from_slice(&ASK.to_ne_bytes());
    // Behind family and type, which do not count.
    message[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
    message
}

fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer
        .get(4..6)
        .and_then(|kind| kind.try_into().ok())
        .map(u16::from_ne_bytes);
    let error = answer.get(HEADER..HEADER + 4).and_then(|error| error.try_into().ok());
    match (kind, error.map(i32::from_ne_bytes)) {
        (Some(OUTCOME), Some(0)) => Ok(()),
        (Some(OUTCOME), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an answer of the kernel that is none",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_cannot_be_removed() {
        let error = delete_interface(i32::MAX).unwrap_err();
        // Without privileges, whether it is there is not even looked at.
        let expected = [rustix::io::Errno::NODEV, rustix::io::Errno::PERM].map(|errno| Some(errno.raw_os_error()));
        assert!(expected.contains(&error.raw_os_error()), "{error}");
    }

    #[test]
    fn answers_are_taken_apart() {
        assert!(outcome(&[]).is_err());
        let mut answer = [0; 20];
        answer[4] = 2;
        assert!(outcome(&answer).is_ok());
        answer[16..].copy_from_slice(&(-19i32).to_ne_bytes());
        assert_eq!(outcome(&answer).unwrap_err().raw_os_error(), Some(19));
    }
}
