mod spilled;

use super::log::{MAX_STATUSES, MAX_WARNINGS};
use super::*;

fn progress() -> (Arc<EventLog>, VertexProgress) {
    let log = Arc::<EventLog>::default();
    (log.clone(), VertexProgress::new(VertexDigest::sha256(b"v"), log))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_reader_sees_everything_once_and_in_order() {
    let (log, progress) = progress();
    let readers: Vec<_> = (0..8)
        .map(|n| {
            let mut reader = log.reader();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while let Some(events) = reader.next().await {
                    assert!(!events.is_empty());
                    seen.extend(events);
                    if n % 2 == 0 {
                        seen.extend(reader.ready().await.unwrap_or_default());
                    }
                }
                seen
            })
        })
        .collect();
    let writers: Vec<_> = (0..4_u8)
        .map(|n| {
            let progress = progress.clone();
            tokio::spawn(async move {
                for number in 0..1000_u16 {
                    progress.log(n, number.to_le_bytes().to_vec().into());
                    if number % 64 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    log.close();
    progress.log(1, "too late".into());
    for reader in readers {
        let seen = reader.await.unwrap();
        assert_eq!(seen.len(), 4000);
        let mut next = [0_u16; 4];
        for event in seen {
            let Event::Log(_, log) = event else { panic!("{event:?}") };
            let next = &mut next[usize::from(log.stream)];
            assert_eq!(log.data[..], next.to_le_bytes());
            *next += 1;
        }
    }
    assert!(log.reader().next().await.is_some(), "a late reader sees it all too");
}

#[tokio::test]
async fn a_closed_log_ends_its_readers() {
    let (log, progress) = progress();
    let mut reader = log.reader();
    progress.log(1, "a".into());
    log.close();
    log.close();
    assert_eq!(reader.next().await.map(|events| events.len()), Some(1));
    assert!(reader.next().await.is_none());
    assert!(reader.next().await.is_none());
}

#[test]
fn the_record_is_bounded_whatever_is_written() {
    let (log, progress) = progress();
    let status = |completed| Status {
        id: "s".to_owned(),
        name: String::new(),
        current: 0,
        total: 0,
        timestamp: SystemTime::UNIX_EPOCH,
        started: None,
        completed,
    };
    for _ in 0..2 * MAX_STATUSES {
        progress.status(status(None));
    }
    assert_eq!(log.snapshot().len(), MAX_STATUSES);
    for _ in 0..2 * MAX_STATUSES {
        progress.status(status(Some(SystemTime::UNIX_EPOCH)));
    }
    assert_eq!(log.snapshot().len(), 2 * MAX_STATUSES);
    for _ in 0..2 * MAX_WARNINGS {
        progress.warn(Warning::default());
    }
    assert_eq!(log.snapshot().len(), 2 * MAX_STATUSES + MAX_WARNINGS);
    let chunk = Bytes::from(vec![b'x'; 1 << 20]);
    for _ in 0..100 {
        progress.log(1, chunk.clone());
    }
    let snapshot = log.snapshot();
    assert!(snapshot.len() < 2 * MAX_STATUSES + MAX_WARNINGS + 17);
    let Some(Event::Log(_, last)) = snapshot.last() else {
        panic!("no output")
    };
    assert!(last.data.starts_with(b"\n[output clipped"));
}
