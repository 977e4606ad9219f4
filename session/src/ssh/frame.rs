//! Messages of the agent protocol, as far as telling them apart goes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Largest message, as agents have it.
const MAX_MESSAGE: usize = 256 << 10;
/// Bytes before a message that say how long it is.
const HEADER: usize = 4;
/// `SSH_AGENT_FAILURE`, as a whole message.
pub(super) const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;

/// Reads one message with its length; `None` at the end.
///
/// # Errors
/// If it is longer than a message may be, or ends before its end.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut message = vec![0; HEADER];
    let first = from.read(&mut message[..1]).await?;
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut message[1..]).await?;
    let length = message.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    if length == 0 || length > MAX_MESSAGE {
        let reason = format!("an ssh agent message of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    message.resize(HEADER + length, 0);
    from.read_exact(&mut message[HEADER..]).await?;
    Ok(Some(message))
}

/// Whether a request only uses keys, and changes nothing of the agent.
pub(super) fn only_uses_keys(request: &[u8]) -> bool {
    matches!(request.get(HEADER), Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_told_apart_and_bounded() {
        let whole = [0, 0, 0, 2, 11, 0];
        let mut two = [&whole[..], &FAILURE[..]].concat();
        let mut from = two.as_slice();
        assert_eq!(read(&mut from).await.unwrap().unwrap(), whole);
        assert_eq!(read(&mut from).await.unwrap().unwrap(), FAILURE);
        assert!(read(&mut from).await.unwrap().is_none());
        two.truncate(3);
        for malformed in [&two[..], &[0, 0, 0, 0], &[0, 4, 0, 1, 11], &[255; 9], &[0, 0, 0, 9, 1]] {
            read(&mut &malformed[..]).await.unwrap_err();
        }
    }

    #[test]
    fn requests_that_change_the_agent_are_told() {
        for (kind, harmless) in [
            (11, true),
            (13, true),
            (17, false),
            (19, false),
            (22, false),
            (27, false),
        ] {
            assert_eq!(only_uses_keys(&[0, 0, 0, 1, kind]), harmless, "{kind}");
        }
        assert!(!only_uses_keys(&[0, 0, 0, 0]));
    }
}
