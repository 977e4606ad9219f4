//! A receiver against senders, and a sender against receivers, that break the rules.

use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::fsutil::packet::PacketType;
use cairn_proto::fsutil::{Packet, Stat};
use cairn_session::fsutil::{self, LocalTree, ReceiveSummary, Selection, TransferError, TransferLimits};
use cairn_session::mode;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{MemorySink, sample_dir};

fn packet(kind: PacketType) -> Packet {
    Packet {
        r#type: kind.into(),
        ..Default::default()
    }
}

fn file(path: &str) -> Packet {
    let stat = Stat {
        path: path.into(),
        mode: 0o644,
        size: 1,
        ..Default::default()
    };
    Packet {
        stat: Some(stat),
        ..packet(PacketType::PacketStat)
    }
}

fn dir(path: &str) -> Packet {
    let stat = Stat {
        path: path.into(),
        mode: mode::DIR | 0o755,
        ..Default::default()
    };
    Packet {
        stat: Some(stat),
        ..packet(PacketType::PacketStat)
    }
}

fn end_of_list() -> Packet {
    packet(PacketType::PacketStat)
}

fn data(id: u32, data: &'static [u8]) -> Packet {
    Packet {
        id,
        data: Bytes::from_static(data),
        ..packet(PacketType::PacketData)
    }
}

fn limits() -> TransferLimits {
    TransferLimits {
        max_entries: 1000,
        max_bytes: 10 << 20,
        ..TransferLimits::default()
    }
}

async fn receive_from(packets: impl IntoIterator<Item = Packet> + Send) -> Result<ReceiveSummary, TransferError> {
    let packets: Vec<_> = packets.into_iter().map(Ok).collect();
    let (outgoing, mut sent) = mpsc::channel(16);
    let drain = async { while sent.recv().await.is_some() {} };
    let mut sink = MemorySink::default();
    let limits = limits();
    let (result, ()) = tokio::join!(
        fsutil::receive(stream::iter(packets), outgoing, &limits, &mut sink),
        drain
    );
    assert!(sink.is_complete || result.is_err());
    result
}

#[tokio::test]
async fn well_behaved_senders_are_accepted() {
    let packets = [
        dir("d"),
        file("d/f"),
        end_of_list(),
        data(1, b"x"),
        data(1, b""),
        packet(PacketType::PacketFin),
    ];
    let summary = receive_from(packets).await.unwrap();
    assert_eq!((summary.entries, summary.files, summary.content_bytes), (2, 1, 1));
    receive_from([end_of_list(), packet(PacketType::PacketFin)])
        .await
        .unwrap();
}

#[tokio::test]
async fn rule_breaking_senders_are_refused() {
    let error = Packet {
        data: "no\nway".into(),
        ..packet(PacketType::PacketErr)
    };
    let rows: Vec<(&str, Vec<Packet>)> = vec![
        ("escape check", vec![file("../x")]),
        ("absolute path", vec![file("/etc/shadow")]),
        ("unclean path", vec![dir("a"), file("a/./b")]),
        ("changes out of order", vec![file("b"), file("a")]),
        ("changes out of order", vec![file("no/parent")]),
        ("invalid file id 7", vec![file("a"), data(7, b"x")]),
        ("invalid file id 0", vec![dir("a"), data(0, b"x")]),
        ("invalid file id 0", vec![file("a"), data(0, b""), data(0, b"again")]),
        ("unexpected packet", vec![end_of_list(), end_of_list()]),
        ("unexpected packet", vec![file("a"), end_of_list(), file("b")]),
        ("unexpected packet", vec![file("a"), packet(PacketType::PacketReq)]),
        ("unexpected packet", vec![file("a"), packet(PacketType::PacketFin)]),
        (
            "unexpected packet",
            vec![end_of_list(), packet(PacketType::PacketFin), file("a")],
        ),
        ("ended early", vec![file("a"), end_of_list()]),
        ("ended early", vec![]),
        ("ended early", vec![end_of_list()]),
        ("error from sender: no\nway", vec![file("a"), error]),
    ];
    for (expected, packets) in rows {
        let error = receive_from(packets).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn endless_senders_are_stopped() {
    let entries = (0..2000).map(|n| file(&format!("{n:06}")));
    assert!(matches!(
        receive_from(entries).await,
        Err(TransferError::TooManyEntries(1000))
    ));

    static CHUNK: [u8; 32 << 10] = [0; 32 << 10];
    let content = [file("a")].into_iter().chain((0..5000).map(|_| data(0, &CHUNK)));
    assert!(matches!(
        receive_from(content).await,
        Err(TransferError::TooManyBytes(_))
    ));

    let packets = [file("a")]
        .into_iter()
        .chain((0..5000).map(|_| data(0, &CHUNK)))
        .map(Ok);
    let (outgoing, _sent) = mpsc::channel(16);
    let packets: Vec<_> = packets.collect();
    let result = fsutil::receive(
        stream::iter(packets),
        outgoing,
        &TransferLimits::default(),
        &mut MemorySink::default(),
    )
    .await;
    assert!(matches!(result, Err(TransferError::FileTooLarge(0))));
}

#[tokio::test]
async fn a_sender_that_does_not_listen_is_still_read() {
    // Nothing is ever taken out of a channel of one, while a thousand requests wait to be put in.
    let (outgoing, _kept) = mpsc::channel(1);
    let packets: Vec<_> = (0..1000)
        .map(|n| file(&format!("{n:06}")))
        .chain([end_of_list()])
        .map(Ok)
        .collect();
    let mut sink = MemorySink::default();
    let result = fsutil::receive(stream::iter(packets), outgoing, &limits(), &mut sink).await;
    assert!(matches!(result, Err(TransferError::EndedEarly)), "{result:?}");
    assert!(sink.is_list_complete);
}

async fn send_to(requests: Vec<Packet>) -> Result<(), TransferError> {
    let dir = sample_dir();
    let tree = Arc::new(LocalTree::new(dir.path(), &Selection::default(), false).unwrap());
    let (outgoing, sent) = mpsc::channel::<Packet>(64);
    let (requesting, incoming) = mpsc::channel(64);
    let receiver = async move {
        let mut sent = ReceiverStream::new(sent);
        while let Some(packet) = sent.next().await {
            if packet.r#type() == PacketType::PacketStat && packet.stat.is_none() {
                for request in &requests {
                    drop(requesting.send(Ok(request.clone())).await);
                }
                break;
            }
        }
        drop(requesting);
        while sent.next().await.is_some() {}
    };
    let send = fsutil::send(ReceiverStream::new(incoming), outgoing, tree, Arc::new(|_| {}));
    let (result, ()) = tokio::join!(send, receiver);
    result.map(drop)
}

#[tokio::test]
async fn rule_breaking_receivers_are_refused() {
    let request = |id| Packet {
        id,
        ..packet(PacketType::PacketReq)
    };
    let error = Packet {
        data: "full".into(),
        ..packet(PacketType::PacketErr)
    };
    let rows: Vec<(&str, Vec<Packet>)> = vec![
        ("invalid file id 0", vec![request(0)]),
        ("invalid file id 9999", vec![request(9999)]),
        ("invalid file id 4", vec![request(4), request(4)]),
        ("error from receiver: full", vec![error]),
        ("unexpected packet", vec![end_of_list()]),
        ("ended early", vec![request(4)]),
    ];
    for (expected, packets) in rows {
        let error = send_to(packets).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    send_to(vec![packet(PacketType::PacketFin)]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn senders_that_say_nothing_more_are_given_up() {
    let patience = limits().max_pause;
    for (name, packets) in [
        ("nothing at all", Vec::new()),
        ("half a list", vec![dir("a"), file("a/b")]),
        ("half a file", vec![file("a"), end_of_list(), data(0, b"x")]),
        (
            "everything but the end",
            vec![file("a"), end_of_list(), data(0, b"x"), data(0, b"")],
        ),
    ] {
        let started = tokio::time::Instant::now();
        let packets = stream::iter(packets.into_iter().map(Ok)).chain(stream::pending());
        let (outgoing, mut sent) = mpsc::channel(16);
        let drain = tokio::spawn(async move { while sent.recv().await.is_some() {} });
        let mut sink = MemorySink::default();
        let received = fsutil::receive(Box::pin(packets), outgoing, &limits(), &mut sink).await;
        assert!(
            matches!(received, Err(TransferError::Stalled(_))),
            "{name}: {received:?}"
        );
        let took = started.elapsed();
        assert!(patience <= took && took < patience * 2, "{name}: {took:?}");
        drain.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_does_not_listen_is_given_up_at_the_end() {
    let packets =
        stream::iter([file("a"), end_of_list(), data(0, b"x"), data(0, b"")].map(Ok)).chain(stream::pending());
    let (outgoing, _full) = mpsc::channel(1);
    outgoing.try_send(Packet::default()).unwrap();
    let mut sink = MemorySink::default();
    let received = fsutil::receive(Box::pin(packets), outgoing, &limits(), &mut sink).await;
    assert!(matches!(received, Err(TransferError::Stalled(_))), "{received:?}");
}
