//! Output that does not fit into memory.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::*;

/// Files in memory, with the faults of real ones.
#[derive(Debug, Default)]
struct Files {
    is_full: AtomicBool,
    is_unreadable: AtomicBool,
    created: AtomicUsize,
    writes: AtomicUsize,
}

#[derive(Debug)]
struct File {
    files: Arc<Files>,
    bytes: Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Shelf(Arc<Files>);

impl Spools for Shelf {
    fn create(&self) -> io::Result<Arc<dyn Spool>> {
        self.0.created.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(File {
            files: self.0.clone(),
            bytes: Mutex::default(),
        }))
    }
}

impl Spool for File {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.files.writes.fetch_add(1, Ordering::SeqCst);
        let offset = usize::try_from(offset).unwrap();
        let mut bytes = self.bytes.lock();
        assert!(offset <= bytes.len(), "a hole");
        bytes.truncate(offset);
        if self.files.is_full.load(Ordering::SeqCst) {
            bytes.extend_from_slice(&data[..data.len() / 2]);
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        bytes.extend_from_slice(data);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.files.is_unreadable.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is broken"));
        }
        let offset = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.bytes.lock()[offset..offset + buffer.len()]);
        Ok(())
    }
}

fn spilling() -> (Arc<Files>, Arc<EventLog>, VertexProgress) {
    let files = Arc::<Files>::default();
    let log = Arc::new(EventLog::new(Some(Arc::new(Shelf(files.clone())))));
    let progress = VertexProgress::new(VertexDigest::sha256(b"v"), log.clone());
    (files, log, progress)
}

fn text(events: &[Event]) -> Vec<u8> {
    let mut text = Vec::new();
    for event in events {
        if let Event::Log(_, log) = event {
            text.extend_from_slice(&log.data);
        }
    }
    text
}

/// Lines that can be told apart.
fn lines(numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers.flat_map(|n| format!("line {n:010}\n").into_bytes()).collect()
}

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_megabytes_take_little_memory_and_late_readers_see_them_in_order() {
    let (files, log, progress) = spilling();
    let follow = |log: Arc<EventLog>| async move {
        let (mut reader, mut hash, mut bytes, mut statuses) = (log.reader(), blake3::Hasher::new(), 0, Vec::new());
        while let Some(events) = reader.next().await {
            for event in events {
                match event {
                    Event::Log(_, log) => {
                        hash.update(&log.data);
                        bytes += log.data.len();
                    }
                    Event::Status(_, status) => statuses.push((status.id, bytes)),
                    _ => {}
                }
            }
        }
        (hash.finalize(), bytes, statuses)
    };
    let early = tokio::spawn(follow(log.clone()));
    let (mut want, mut written, mut statuses) = (blake3::Hasher::new(), 0, Vec::new());
    let mut late = None;
    let mut most = 0;
    for n in 0..1600_u32 {
        let data = lines(n * 8192..(n + 1) * 8192);
        want.update(&data);
        written += data.len();
        // In pieces of very different sizes.
        let (small, large) = data.split_at(1600);
        for line in small.chunks(16) {
            progress.log(1, Bytes::copy_from_slice(line));
        }
        progress.log(1, Bytes::copy_from_slice(large));
        if n % 100 == 0 {
            let id = format!("status {n}");
            statuses.push((id.clone(), written));
            statuses.push((id.clone(), written));
            drop(progress.begin(id));
        }
        most = most.max(log.bytes_in_memory());
        if n == 800 {
            late = Some(tokio::spawn(follow(log.clone())));
        }
    }
    log.close();
    let want = (want.finalize(), written, statuses);
    assert!(written > 200_000_000);
    assert!(most < 4 * MIB, "{most} bytes in memory");
    assert_eq!(files.created.load(Ordering::SeqCst), 1);
    assert!(files.writes.load(Ordering::SeqCst) < 4000);
    assert_eq!(early.await.unwrap(), want);
    assert_eq!(late.unwrap().await.unwrap(), want);
    assert_eq!(follow(log.clone()).await, want);
}

#[tokio::test]
async fn what_shares_a_log_is_told_apart() {
    let (_, log, first) = spilling();
    let second = VertexProgress::new(VertexDigest::sha256(b"w"), log.clone());
    for n in 0..4_u32 {
        first.log(1, lines(n * 40_000..(n + 1) * 40_000).into());
        second.log(2, lines(n * 40_000..(n + 1) * 40_000).into());
    }
    log.close();
    for (progress, stream) in [(&first, 1), (&second, 2)] {
        let theirs: Vec<Event> = log
            .snapshot()
            .into_iter()
            .filter(|event| matches!(event, Event::Log(vertex, log) if *vertex == progress.vertex() && log.stream == stream))
            .collect();
        assert_eq!(text(&theirs), lines(0..160_000));
    }
}

#[test]
fn a_full_disk_is_told_in_the_log_and_the_log_goes_on_when_there_is_room() {
    let (files, log, progress) = spilling();
    for n in 0..16 {
        progress.log(1, vec![b'a' + n; 128 << 10].into());
    }
    files.is_full.store(true, Ordering::SeqCst);
    for _ in 0..64 {
        progress.log(1, vec![b'-'; 128 << 10].into());
    }
    assert!(log.bytes_in_memory() < 4 * MIB);
    files.is_full.store(false, Ordering::SeqCst);
    for _ in 0..64 {
        progress.log(1, vec![b'+'; 128 << 10].into());
    }
    log.close();
    let text = text(&log.snapshot());
    let before: Vec<u8> = (0..16).flat_map(|n| vec![b'a' + n; 128 << 10]).collect();
    assert!(text.starts_with(&before));
    let rest = String::from_utf8(text[before.len()..].to_vec()).unwrap();
    let parts: Vec<&str> = rest.split('\n').collect();
    let lost = "[output is not kept from here on: no storage space]";
    assert_eq!(
        parts.iter().filter(|part| part.starts_with('[')).count(),
        2,
        "{parts:.100?}"
    );
    assert!(parts.contains(&lost) && parts.contains(&"[output is kept again]"));
    assert!(rest.find(lost) < rest.find("kept again") && rest.ends_with('+'));
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_told_too() {
    let (files, log, progress) = spilling();
    for _ in 0..64 {
        progress.log(1, vec![b'x'; 128 << 10].into());
    }
    progress.warn(Warning::default());
    log.close();
    files.is_unreadable.store(true, Ordering::SeqCst);
    let mut reader = log.reader();
    let mut seen = Vec::new();
    while let Some(events) = reader.next().await {
        seen.extend(events);
    }
    assert!(matches!(seen.last(), Some(Event::Warning(..))));
    let text = String::from_utf8(text(&seen)).unwrap();
    assert_eq!(text.matches("cannot be read: the disk is broken").count(), 1);
}

/// Holds whoever writes until it is let go.
#[derive(Debug)]
struct Slow(Arc<Semaphore>);

impl Spools for Slow {
    fn create(&self) -> io::Result<Arc<dyn Spool>> {
        while self.0.try_acquire().is_err() {
            std::thread::yield_now();
        }
        Err(io::Error::other("slow"))
    }
}

#[test]
fn nobody_waits_for_a_writer_and_memory_stays_bounded() {
    let gate = Arc::new(Semaphore::new(0));
    let log = Arc::new(EventLog::new(Some(Arc::new(Slow(gate.clone())))));
    let progress = VertexProgress::new(VertexDigest::sha256(b"v"), log.clone());
    progress.log(1, vec![b'm'; 1000 << 10].into());
    let held = std::thread::spawn({
        let progress = progress.clone();
        move || progress.log(1, vec![b'h'; 128 << 10].into())
    });
    let all = || text(&log.snapshot());
    while all().len() < 1128 << 10 {
        std::thread::yield_now();
    }
    for _ in 0..64 {
        progress.log(1, vec![b's'; 128 << 10].into());
    }
    progress.warn(Warning::default());
    assert!(matches!(log.snapshot().last(), Some(Event::Warning(..))));
    assert!(log.bytes_in_memory() < 4 * MIB);
    assert!(
        String::from_utf8(all())
            .unwrap()
            .contains("faster than it can be written")
    );
    gate.add_permits(1000);
    held.join().unwrap();
}
