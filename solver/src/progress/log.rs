//! The record of everything that a build tells.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::spill::{Chunk, Keep, LOG_OVERHEAD, Spill, Spools};
use super::{Event, Log};
use crate::llb::VertexDigest;

/// An append-only record that any number of readers follow from its beginning, each at its own pace.
///
/// It is bounded. Of the output of processes, a first part is kept in memory and the rest in a [`super::Spool`], if
/// there is one. Writers keep their own, tighter limits (output per vertex, one status per action in a tenth of a
/// second); beyond a total that no sound build reaches, output ends with a notice, statuses are reduced to the ends of
/// actions and then left out, and so are warnings. States of vertices are always kept: their number is the graph's.
#[derive(Debug)]
pub struct EventLog {
    record: Mutex<Record>,
    /// Wakes readers whenever there is news.
    news: Notify,
}

#[derive(Debug, Default)]
struct Record {
    entries: Vec<Entry>,
    is_closed: bool,
    spill: Spill,
    /// Bytes of output in `entries`.
    log_bytes: usize,
    /// Bytes of output in all.
    total_bytes: u64,
    statuses: usize,
    warnings: usize,
}

#[derive(Debug)]
enum Entry {
    Event(Event),
    /// Output one after the other, in the spill.
    Spilled {
        from: u64,
        to: u64,
        /// The vertex of the first.
        vertex: VertexDigest,
    },
}

/// Most bytes of output that one log keeps in memory, when there is a place for the rest.
const MEMORY: usize = 1 << 20;
/// Most bytes of output in one log without such a place.
const MAX_MEMORY: usize = 16 << 20;
/// Most bytes of output in one log.
const MAX_SPILLED: u64 = 4 << 30;
/// Number of statuses from which on only ends of actions are kept; no more than twice as many are kept at all.
pub(super) const MAX_STATUSES: usize = 100_000;
/// Most warnings in one log.
pub(super) const MAX_WARNINGS: usize = 10_000;

impl Record {
    /// Keeps what of `event` is within the limits; `false` if that is nothing.
    fn add(&mut self, event: Event) -> bool {
        let is_kept = match &event {
            Event::Log(..) => true,
            Event::Status(_, status) => {
                let is_end = status.completed.is_some();
                let limit = if is_end { 2 * MAX_STATUSES } else { MAX_STATUSES };
                let has_room = self.statuses < limit;
                self.statuses += usize::from(has_room);
                has_room
            }
            Event::Warning(..) => {
                let has_room = self.warnings < MAX_WARNINGS;
                self.warnings += usize::from(has_room);
                has_room
            }
            Event::Vertex(_) => true,
        };
        match event {
            Event::Log(vertex, log) => self.add_log(vertex, log),
            event if is_kept => {
                self.entries.push(Entry::Event(event));
                true
            }
            _ => false,
        }
    }

    fn add_log(&mut self, vertex: VertexDigest, log: Log) -> bool {
        let limit = if self.spill.is_possible() {
            MAX_SPILLED
        } else {
            MAX_MEMORY as u64
        };
        if self.total_bytes > limit {
            return false;
        }
        self.total_bytes += (log.data.len() + LOG_OVERHEAD) as u64;
        let log = if self.total_bytes > limit {
            let data = Bytes::from_static(b"\n[output clipped: the build has written too much]\n");
            Log { data, ..log }
        } else {
            log
        };
        if !self.spill.is_possible() || self.log_bytes + log.data.len() + LOG_OVERHEAD <= MEMORY {
            self.log_bytes += log.data.len() + LOG_OVERHEAD;
            // A copy: what came may be a small part of something large.
            let data = Bytes::copy_from_slice(&log.data);
            self.entries.push(Entry::Event(Event::Log(vertex, Log { data, ..log })));
            return true;
        }
        let start = self.spill.end();
        let is_kept = self.spill.add(vertex, &log);
        self.cover(start, vertex);
        is_kept
    }

    /// Has readers find what was spilled from `start` on.
    fn cover(&mut self, start: u64, vertex: VertexDigest) {
        let end = self.spill.end();
        match self.entries.last_mut() {
            _ if start == end => {}
            Some(Entry::Spilled { to, .. }) if *to == start => *to = end,
            _ => self.entries.push(Entry::Spilled {
                from: start,
                to: end,
                vertex,
            }),
        }
    }

    /// What is to be read at `at`.
    fn look(&self, at: Position) -> Option<Found> {
        match self.entries.get(at.entry)? {
            Entry::Event(_) => {
                let events = self.entries[at.entry..].iter().map_while(|entry| match entry {
                    Entry::Event(event) => Some(event.clone()),
                    Entry::Spilled { .. } => None,
                });
                let events: Vec<Event> = events.collect();
                let next = Position {
                    entry: at.entry + events.len(),
                    done: 0,
                };
                Some(Found::Events(events, next))
            }
            Entry::Spilled { from, to, vertex } => {
                let from = from + at.done;
                if from < *to {
                    return Some(Found::Chunk(self.spill.look(from, *to), *vertex));
                }
                let next = Position {
                    entry: at.entry + 1,
                    done: 0,
                };
                self.look(next)
            }
        }
    }
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    entry: usize,
    /// Bytes of a spilled entry.
    done: u64,
}

enum Found {
    Events(Vec<Event>, Position),
    /// A piece of the output, and a vertex that has written in it.
    Chunk(Chunk, VertexDigest),
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(None)
    }
}

impl EventLog {
    /// A log that keeps in `spools` what is too much for memory.
    pub fn new(spools: Option<Arc<dyn Spools>>) -> Self {
        Self {
            record: Mutex::new(Record {
                spill: Spill::new(spools),
                ..Record::default()
            }),
            news: Notify::new(),
        }
    }

    /// Appends an event. After [`EventLog::close`] it is dropped.
    pub fn push(&self, event: Event) {
        self.push_all([event]);
    }

    /// Appends events that readers see together.
    pub fn push_all(&self, events: impl IntoIterator<Item = Event>) {
        let mut record = self.record.lock();
        if record.is_closed {
            return;
        }
        let events = events.into_iter();
        if events.size_hint().0 > 1 {
            // No more than is needed: the first and the last news of very many vertices are most of a large record.
            record.entries.reserve_exact(events.size_hint().0);
        }
        let mut is_news = false;
        for event in events {
            is_news |= record.add(event);
        }
        let mut keep = record.spill.keep();
        drop(record);
        if is_news {
            self.news.notify_waiters();
        }
        // Others go on reading and writing meanwhile. What they write is kept by whoever keeps already.
        while let Some(todo) = keep {
            keep = self.keep(todo);
        }
    }

    fn keep(&self, todo: Keep) -> Option<Keep> {
        let outcome = todo.run();
        let mut record = self.record.lock();
        let start = record.spill.end();
        if let Some(vertex) = record.spill.kept(outcome) {
            record.cover(start, vertex);
            self.news.notify_waiters();
        }
        record.spill.keep()
    }

    /// Ends the log: readers finish once they have seen everything.
    pub fn close(&self) {
        self.close_with(|_| Vec::new());
    }

    /// Ends the log with the events that `last` makes of those before that are no output; nothing comes in between.
    pub(crate) fn close_with(&self, last: impl FnOnce(&mut dyn Iterator<Item = &Event>) -> Vec<Event>) {
        let mut record = self.record.lock();
        if record.is_closed {
            return;
        }
        let last = last(&mut record.entries.iter().filter_map(|entry| match entry {
            Entry::Event(event) => Some(event),
            Entry::Spilled { .. } => None,
        }));
        record.entries.extend(last.into_iter().map(Entry::Event));
        record.is_closed = true;
        drop(record);
        self.news.notify_waiters();
    }

    /// A reader that begins with the first event.
    pub fn reader(self: &Arc<Self>) -> EventReader {
        EventReader {
            log: self.clone(),
            at: Position::default(),
        }
    }

    /// Everything so far, in memory at once. Reads files: not for async code, unless the log has no place for them.
    pub fn snapshot(self: &Arc<Self>) -> Vec<Event> {
        let mut reader = self.reader();
        let mut events = Vec::new();
        while let Some(more) = reader.ready_blocking() {
            events.extend(more);
        }
        events
    }

    /// Bytes of output that are kept in memory.
    #[cfg(test)]
    pub(super) fn bytes_in_memory(&self) -> usize {
        let record = self.record.lock();
        record.log_bytes + record.spill.bytes_in_memory() + record.entries.len() * size_of::<Entry>()
    }
}

/// Follows an [`EventLog`].
#[derive(Debug)]
pub struct EventReader {
    log: Arc<EventLog>,
    at: Position,
}

impl EventReader {
    /// The next events, at least one; `None` once the log is closed and read.
    ///
    /// # Cancel safety
    /// Cancel safe: events are taken only when returned.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        let log = self.log.clone();
        loop {
            // Made first: it is woken by whatever comes after this.
            let news = log.news.notified();
            let is_closed = log.record.lock().is_closed;
            if let Some(events) = self.ready().await {
                return Some(events);
            }
            if is_closed {
                return None;
            }
            news.await;
        }
    }

    /// The next events, without waiting for any to be written; `None` if all are read.
    ///
    /// # Cancel safety
    /// Cancel safe: events are taken only when returned.
    pub async fn ready(&mut self) -> Option<Vec<Event>> {
        match self.look()? {
            Found::Events(events, next) => {
                self.at = next;
                Some(events)
            }
            Found::Chunk(chunk, vertex) => {
                let read = tokio::task::spawn_blocking(move || chunk.read(vertex)).await;
                match read {
                    Ok((events, len)) => {
                        self.at.done += len;
                        Some(events)
                    }
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // The runtime ends, and readers with it.
                    Err(_) => None,
                }
            }
        }
    }

    /// The same for code that may block.
    pub fn ready_blocking(&mut self) -> Option<Vec<Event>> {
        match self.look()? {
            Found::Events(events, next) => {
                self.at = next;
                Some(events)
            }
            Found::Chunk(chunk, vertex) => {
                let (events, len) = chunk.read(vertex);
                self.at.done += len;
                Some(events)
            }
        }
    }

    fn look(&mut self) -> Option<Found> {
        let record = self.log.record.lock();
        // Past a spilled entry that is read, unless more may be added to it.
        while let Some(Entry::Spilled { from, to, .. }) = record.entries.get(self.at.entry)
            && from + self.at.done == *to
            && self.at.entry + 1 < record.entries.len()
        {
            self.at = Position {
                entry: self.at.entry + 1,
                done: 0,
            };
        }
        record.look(self.at)
    }
}
