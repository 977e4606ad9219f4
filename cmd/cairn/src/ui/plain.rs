//! Progress as lines of text, for logs and pipes.
//!
//! Every line begins with the number of its vertex. Lines of one vertex stand together as long as that keeps
//! nobody waiting: a vertex that talks keeps the floor for a moment, then another one has it.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use cairn_client::{Change, Progress, ProgressEvent, Vertex, VertexState, VertexStatus};

use super::text::clean;
use super::view::View;
use crate::quantity;

/// How long a talking vertex keeps others waiting.
const FLOOR: Duration = Duration::from_secs(2);
/// A pause as long as this ends its turn.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a transfer under way is mentioned.
const MENTION: Duration = Duration::from_secs(5);

/// Writes lines as they come.
pub(super) struct PlainView<W> {
    out: W,
    /// Numbers of vertices, in the order of their first line.
    numbers: HashMap<usize, usize>,
    /// Lines not written so far, by vertex.
    waiting: BTreeMap<usize, Vec<String>>,
    /// When vertices that were reported as finished finished.
    finished: HashMap<usize, Option<SystemTime>>,
    /// When parts were mentioned last; none once they were reported as done.
    mentioned: HashMap<(usize, usize), Option<SystemTime>>,
    current: Option<Floor>,
}

/// Who talks.
struct Floor {
    index: usize,
    since: SystemTime,
    last_line: SystemTime,
}

impl Floor {
    fn is_kept(&self, now: SystemTime) -> bool {
        let within = |since, limit| now.duration_since(since).is_ok_and(|passed| passed < limit);
        within(self.since, FLOOR) && within(self.last_line, PAUSE)
    }
}

impl<W: Write> PlainView<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            numbers: HashMap::new(),
            waiting: BTreeMap::new(),
            finished: HashMap::new(),
            mentioned: HashMap::new(),
            current: None,
        }
    }

    fn add(&mut self, vertex: usize, line: String) {
        self.waiting.entry(vertex).or_default().push(line);
    }

    fn add_vertex(&mut self, index: usize, vertex: &Vertex) {
        let end = match vertex.state() {
            VertexState::Pending => return,
            VertexState::Running => {
                self.finished.remove(&index);
                if !self.numbers.contains_key(&index) {
                    self.waiting.entry(index).or_default();
                }
                return;
            }
            VertexState::Cached => "CACHED".to_owned(),
            VertexState::Done => format!("DONE {}", quantity::seconds(vertex.duration(SystemTime::UNIX_EPOCH))),
            VertexState::Failed => format!("ERROR: {}", clean(&vertex.error)),
            VertexState::Cancelled => "CANCELED".to_owned(),
        };
        let completed = vertex.completed();
        if self.finished.insert(index, completed) != Some(completed) {
            self.add(index, end);
        }
    }

    fn add_status(&mut self, index: usize, part: usize, status: &VertexStatus, now: SystemTime) {
        let last = self.mentioned.entry((index, part)).or_insert(Some(now));
        if status.is_done() {
            if last.take().is_some() {
                self.add(index, format!("{} done", status_text(status, now)));
            }
        } else if let Some(at) = last
            && now.duration_since(*at).is_ok_and(|since| since >= MENTION)
        {
            *at = now;
            self.add(index, status_text(status, now));
        }
    }

    fn flush(&mut self, progress: &Progress, now: SystemTime) -> io::Result<()> {
        if let Some(mut floor) = self.current.take() {
            if self.write_waiting(floor.index)? {
                floor.last_line = now;
            }
            let is_over = self.finished.contains_key(&floor.index);
            let is_kept = floor.is_kept(now);
            if !is_over {
                self.current = Some(floor);
            }
            if !is_over && is_kept {
                return Ok(());
            }
        }
        // Who has finished is brief, so it goes first.
        let over: Vec<usize> = self
            .waiting
            .keys()
            .copied()
            .filter(|index| self.finished.contains_key(index))
            .collect();
        for index in over {
            self.give_floor(index, progress, now)?;
        }
        let next = self.waiting.keys().next().copied();
        next.map_or(Ok(()), |index| self.give_floor(index, progress, now))
    }

    fn give_floor(&mut self, index: usize, progress: &Progress, now: SystemTime) -> io::Result<()> {
        if let Some(previous) = self.current.take() {
            let number = self.numbers.get(&previous.index).copied().unwrap_or_default();
            writeln!(self.out, "#{number} ...")?;
        }
        if !self.numbers.is_empty() {
            writeln!(self.out)?;
        }
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(index).or_insert(next);
        writeln!(self.out, "#{number} {}", clean(&progress.vertices()[index].name))?;
        self.write_waiting(index)?;
        if !self.finished.contains_key(&index) {
            self.current = Some(Floor {
                index,
                since: now,
                last_line: now,
            });
        }
        Ok(())
    }

    /// Whether there was anything to write.
    fn write_waiting(&mut self, index: usize) -> io::Result<bool> {
        let lines = self.waiting.remove(&index).unwrap_or_default();
        let number = self.numbers.get(&index).copied().unwrap_or_default();
        for line in &lines {
            writeln!(self.out, "{}", format!("#{number} {line}").trim_end())?;
        }
        Ok(!lines.is_empty())
    }
}

impl<W: Write> View for PlainView<W> {
    fn update(
        &mut self,
        progress: &Progress,
        _: &ProgressEvent,
        changes: &[Change],
        now: SystemTime,
    ) -> io::Result<()> {
        for change in changes {
            match change {
                Change::Log(index, line) => {
                    let seconds = line.elapsed.as_secs_f64();
                    self.add(*index, format!("{seconds:.3} {}", clean(&line.text)));
                }
                Change::Status(index, part) => {
                    let status = &progress.vertices()[*index].statuses[*part];
                    self.add_status(*index, *part, status, now);
                }
                Change::Vertex(_) | Change::Warning(_) => {}
            }
        }
        // After its last lines: that a vertex has finished.
        for change in changes {
            if let Change::Vertex(index) = change {
                self.add_vertex(*index, &progress.vertices()[*index]);
            }
        }
        self.flush(progress, now)
    }

    fn tick(&mut self, progress: &Progress, now: SystemTime) -> io::Result<()> {
        if self.waiting.is_empty() {
            Ok(())
        } else {
            self.flush(progress, now)
        }
    }

    fn finish(&mut self, progress: &Progress, now: SystemTime) -> io::Result<()> {
        while let Some(index) = self.waiting.keys().next().copied() {
            if self.current.as_ref().is_some_and(|floor| floor.index == index) {
                self.write_waiting(index)?;
            } else {
                self.give_floor(index, progress, now)?;
            }
        }
        self.out.flush()
    }
}

fn status_text(status: &VertexStatus, now: SystemTime) -> String {
    let id = clean(&status.id);
    let time = quantity::seconds(status.duration(now));
    match (status.current, status.total) {
        (0, 0) => format!("{id} {time}"),
        (current, 0) => format!("{id} {} {time}", quantity::size(current)),
        (current, total) => {
            format!("{id} {} / {} {time}", quantity::size(current), quantity::size(total))
        }
    }
}

#[cfg(test)]
mod tests;
