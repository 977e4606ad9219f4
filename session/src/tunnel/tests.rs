use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;

/// The other end of a daemon's tunnel, as a client sees it.
struct Client {
    sends: mpsc::Sender<Bytes>,
    receives: mpsc::Receiver<Bytes>,
    _channel: Channel,
}

async fn open() -> Client {
    let (sends, incoming) = mpsc::channel(MESSAGES);
    let (outgoing, receives) = mpsc::channel(MESSAGES);
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
    let io = TunnelIo::new(incoming, outgoing, CancellationToken::new());
    let channel = connect(io).await.unwrap();
    Client {
        sends,
        receives,
        _channel: channel,
    }
}

/// An empty frame of settings.
fn settings() -> Bytes {
    Bytes::from_static(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
}

/// Types and flags of the frames behind the preface.
fn frames(message: &[u8]) -> Vec<(u8, u8)> {
    let mut rest = message
        .strip_prefix(PREFACE)
        .expect("a message that begins with the preface");
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, _, _, _, _, behind @ ..] = rest {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        frames.push((*kind, *flags));
        rest = &behind[len..];
    }
    assert!(rest.is_empty());
    frames
}

#[tokio::test(start_paused = true)]
async fn a_client_that_speaks_is_answered_in_one_message() {
    let mut client = open().await;
    let early = tokio::time::timeout(OPENING / 2, client.receives.recv()).await;
    assert!(early.is_err(), "the daemon spoke first: {early:?}");
    client.sends.send(settings()).await.unwrap();
    let opened = Instant::now();
    let message = client.receives.recv().await.unwrap();
    assert_eq!(opened.elapsed(), Duration::ZERO);
    assert_eq!(
        frames(&message),
        [(SETTINGS, 0), (WINDOW_UPDATE, 0), (SETTINGS, ACK)],
        "{message:?}"
    );
    drop(client.sends);
    assert_eq!(
        client.receives.recv().await,
        None,
        "nothing follows to a client that leaves"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_at_once_is_told_nothing() {
    let mut client = open().await;
    drop(client.sends);
    assert_eq!(client.receives.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_is_spoken_to() {
    let mut client = open().await;
    let message = client.receives.recv().await.unwrap();
    assert_eq!(frames(&message), [(SETTINGS, 0), (WINDOW_UPDATE, 0)]);
    client.sends.send(settings()).await.unwrap();
    let message = client.receives.recv().await.unwrap();
    assert_eq!(message, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0].as_slice());
}
