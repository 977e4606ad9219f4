//! Output of processes on its way to clients, within limits.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use cairn_solver::progress::VertexProgress;
use parking_lot::Mutex;

use crate::executor::{OutputSink, OutputStream};

/// Most bytes of one step that are passed on.
const MAX_SIZE: usize = 2 << 20;
/// Most bytes of one step that are passed on per second, on average since its start.
const MAX_SPEED: usize = 200 << 10;
/// What is passed on of the rest when the step fails.
const TAIL: usize = 256 << 10;

/// Passes output on until a limit is met; says so then, and keeps the end for the case that the step fails.
pub(super) struct LogSink {
    progress: VertexProgress,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    passed: usize,
    /// Set once a limit was met.
    is_clipped: bool,
    tail: VecDeque<(OutputStream, Bytes)>,
    tail_size: usize,
}

impl LogSink {
    pub(super) fn new(progress: VertexProgress) -> Self {
        Self {
            progress,
            started: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// The step ended; if it failed, the end of its output is worth more than the limits.
    pub(super) fn finish(&self, is_failed: bool) {
        let tail = std::mem::take(&mut self.state.lock().tail);
        if is_failed {
            for (stream, data) in tail {
                self.progress.log(stream.number(), data);
            }
        }
    }

    /// Why no more may be passed on.
    fn limit(&self, passed: usize) -> Option<&'static str> {
        // The first second's worth is free, or short steps would be clipped at once.
        let seconds = self.started.elapsed().as_secs() + 1;
        let allowed = MAX_SPEED.saturating_mul(usize::try_from(seconds).unwrap_or(usize::MAX));
        if passed > MAX_SIZE {
            Some("2MiB")
        } else if passed > allowed {
            Some("200KiB/s")
        } else {
            None
        }
    }
}

impl OutputSink for LogSink {
    fn output(&self, stream: OutputStream, data: Bytes) {
        let mut state = self.state.lock();
        if !state.is_clipped {
            match self.limit(state.passed + data.len()) {
                None => {
                    state.passed += data.len();
                    return self.progress.log(stream.number(), data);
                }
                Some(limit) => {
                    state.is_clipped = true;
                    let note = format!("[output clipped, log limit {limit} reached]\n");
                    self.progress.log(OutputStream::Stderr.number(), note.into());
                }
            }
        }
        state.tail_size += data.len();
        state.tail.push_back((stream, data));
        while state.tail_size > TAIL && state.tail.len() > 1 {
            if let Some((_, dropped)) = state.tail.pop_front() {
                state.tail_size -= dropped.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_solver::Digest;
    use cairn_solver::progress::{Event, EventLog};

    use super::*;

    fn logged(events: &EventLog) -> Vec<u8> {
        let logs = events.snapshot().into_iter().filter_map(|event| match event {
            Event::Log(_, log) => Some(log.data),
            _ => None,
        });
        logs.flatten().collect()
    }

    #[test]
    fn floods_are_clipped_and_failures_keep_their_end() {
        let events = Arc::new(EventLog::default());
        let sink = LogSink::new(VertexProgress::new(Digest::sha256(b"v"), events.clone()));
        sink.output(OutputStream::Stdout, Bytes::from_static(b"begin\n"));
        for _ in 0..100 {
            sink.output(OutputStream::Stdout, Bytes::from(vec![b'x'; 64 << 10]));
        }
        sink.output(OutputStream::Stderr, Bytes::from_static(b"the reason\n"));
        let text = logged(&events);
        assert!(text.starts_with(b"begin\n"));
        assert!(text.len() < MAX_SIZE);
        assert!(text.windows(14).any(|window| window == b"output clipped"));
        sink.finish(true);
        let text = logged(&events);
        assert!(text.ends_with(b"the reason\n"));
        assert!(text.len() < MAX_SIZE + TAIL);
    }
}
