//! Output of processes on its way to clients, within limits.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use cairn_solver::progress::VertexProgress;
use parking_lot::Mutex;

use crate::executor::{OutputSink, OutputStream};

/// How much of the output of one step is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogLimits {
    /// Most bytes in all.
    size: Option<usize>,
    /// Most bytes per second, on average since its start.
    speed: Option<usize>,
}

impl LogLimits {
    /// What the environment says, in the words of buildkitd: a number of bytes, or -1 for no limit.
    pub(super) fn from_env() -> Self {
        let read = |name: &str, default| {
            let value = std::env::var(name).unwrap_or_default();
            parse_limit(&value, default).unwrap_or_else(|| {
                tracing::warn!("{name}={value:?} is no number of bytes; the default is used");
                Some(default)
            })
        };
        Self {
            size: read("BUILDKIT_STEP_LOG_MAX_SIZE", MAX_SIZE),
            speed: read("BUILDKIT_STEP_LOG_MAX_SPEED", MAX_SPEED),
        }
    }
}

/// A limit as it is written; `None` if it is none.
fn parse_limit(text: &str, default: usize) -> Option<Option<usize>> {
    match text {
        "" => Some(Some(default)),
        "-1" => Some(None),
        text => text.parse().ok().map(Some),
    }
}

/// Most bytes of one step that are passed on, unless told otherwise.
const MAX_SIZE: usize = 2 << 20;
/// Most bytes of one step that are passed on per second, unless told otherwise.
const MAX_SPEED: usize = 200 << 10;
/// What is passed on of the rest when the step fails.
const TAIL: usize = 256 << 10;

/// Passes output on as far as the limits allow; says so where some is left out, and keeps the end of that for the case that
/// the step fails.
pub(super) struct LogSink {
    progress: VertexProgress,
    limits: LogLimits,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of the output, passed on or not.
    written: usize,
    /// Whether the last of it was not passed on.
    is_clipping: bool,
    /// The end of what was not passed on since then.
    tail: VecDeque<(OutputStream, Bytes)>,
    tail_size: usize,
}

impl LogSink {
    pub(super) fn new(progress: VertexProgress, limits: LogLimits) -> Self {
        Self {
            progress,
            limits,
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

    /// How much may have been written by now, and what says so.
    fn limit(&self) -> Option<(usize, String)> {
        // The first second's worth is free, or short steps would be clipped at once.
        let seconds = usize::try_from(self.started.elapsed().as_secs() + 1).unwrap_or(usize::MAX);
        let by_speed = self.limits.speed.map(|speed| (speed.saturating_mul(seconds), speed));
        match (self.limits.size, by_speed) {
            (Some(size), Some((allowed, _))) if allowed > size => Some((size, in_words(size))),
            (_, Some((allowed, speed))) => Some((allowed, format!("{}/s", in_words(speed)))),
            (size, None) => size.map(|size| (size, in_words(size))),
        }
    }
}

/// Bytes in the largest unit that fits, as clients know it.
fn in_words(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units
        .into_iter()
        .find(|&(unit, _)| bytes >= unit && bytes.is_multiple_of(unit));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

impl OutputSink for LogSink {
    fn output(&self, stream: OutputStream, mut data: Bytes) {
        let mut state = self.state.lock();
        let before = state.written;
        state.written = before.saturating_add(data.len());
        let limit = self.limit().filter(|(allowed, _)| state.written > *allowed);
        let Some((allowed, name)) = limit else {
            // A step that was too fast for a while is heard again: what it says now is worth more than what it said then.
            *state = State {
                written: state.written,
                ..State::default()
            };
            return self.progress.log(stream.number(), data);
        };
        let mut passed = data.split_to(allowed.saturating_sub(before).min(data.len())).to_vec();
        if !state.is_clipping {
            state.is_clipping = true;
            passed.extend_from_slice(format!("\n[output clipped, log limit {name} reached]\n").as_bytes());
        }
        if !passed.is_empty() {
            self.progress.log(stream.number(), passed.into());
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

    fn logged(events: &Arc<EventLog>) -> Vec<u8> {
        let logs = events.snapshot().into_iter().filter_map(|event| match event {
            Event::Log(_, log) => Some(log.data),
            _ => None,
        });
        logs.flatten().collect()
    }

    const LIMITS: LogLimits = LogLimits {
        size: Some(MAX_SIZE),
        speed: Some(MAX_SPEED),
    };

    #[test]
    fn limits_are_numbers_or_none() {
        assert_eq!(parse_limit("", 7), Some(Some(7)));
        assert_eq!(parse_limit("-1", 7), Some(None));
        assert_eq!(parse_limit("0", 7), Some(Some(0)));
        assert_eq!(parse_limit("123", 7), Some(Some(123)));
        for bad in ["-2", "1M", " 1", "99999999999999999999"] {
            assert_eq!(parse_limit(bad, 7), None);
        }
        let words = [MAX_SIZE, MAX_SPEED, 1000].map(in_words);
        assert_eq!(words, ["2MiB", "200KiB", "1000B"]);
    }

    #[test]
    fn without_limits_everything_is_passed_on() {
        let events = Arc::new(EventLog::default());
        let limits = LogLimits {
            size: None,
            speed: None,
        };
        let sink = LogSink::new(VertexProgress::new(Digest::sha256(b"v"), events.clone()), limits);
        for _ in 0..50 {
            sink.output(OutputStream::Stdout, Bytes::from(vec![b'x'; 64 << 10]));
        }
        assert_eq!(logged(&events).len(), 50 * (64 << 10));
    }

    #[test]
    fn a_step_that_was_too_fast_for_a_while_is_heard_again() {
        let events = Arc::new(EventLog::default());
        let limits = LogLimits {
            size: Some(1 << 20),
            speed: Some(100),
        };
        let mut sink = LogSink::new(VertexProgress::new(Digest::sha256(b"v"), events.clone()), limits);
        sink.output(OutputStream::Stdout, Bytes::from(vec![b'x'; 130]));
        let clipped = [&[b'x'; 100][..], b"\n[output clipped, log limit 100B/s reached]\n"].concat();
        assert_eq!(logged(&events), clipped);
        sink.output(OutputStream::Stdout, Bytes::from_static(b"unheard"));
        assert_eq!(logged(&events), clipped);
        sink.started -= std::time::Duration::from_secs(5);
        sink.output(OutputStream::Stdout, Bytes::from_static(b"heard"));
        sink.finish(true);
        assert_eq!(logged(&events), [&clipped[..], b"heard"].concat());
    }

    #[test]
    fn floods_are_clipped_and_failures_keep_their_end() {
        let events = Arc::new(EventLog::default());
        let sink = LogSink::new(VertexProgress::new(Digest::sha256(b"v"), events.clone()), LIMITS);
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
