//! The output of a process, line by line, which others can wait for.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines that were read so far. Clones see the same.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Reads `source` to its end in a thread of its own, which ends with the last writer.
    pub(crate) fn follow(source: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let reader = lines.clone();
        std::thread::spawn(move || reader.read(source));
        lines
    }

    fn read(&self, source: impl Read) {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while matches!(source.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            self.change(|state| state.lines.push(text));
            line.clear();
        }
        self.change(|state| state.ended = true);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.shared.1.notify_all();
    }

    /// Waits until some line, of those from `first` on, fits; returns it, or none at the end or when time is up.
    pub(crate) fn wait_for(&self, first: usize, timeout: Duration, fits: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + timeout;
        let mut state = self.state();
        let mut next = first;
        loop {
            if let Some(line) = state.lines.iter().skip(next).find(|line| fits(line)) {
                return Some(line.clone());
            }
            next = next.max(state.lines.len());
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self
                .shared
                .1
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the end, and returns everything.
    pub(crate) fn all(&self, timeout: Duration) -> Vec<String> {
        let wait = self
            .shared
            .1
            .wait_timeout_while(self.state(), timeout, |state| !state.ended);
        wait.unwrap_or_else(PoisonError::into_inner).0.lines.clone()
    }

    /// What there is now, as one text.
    pub(crate) fn text(&self) -> String {
        self.state().lines.join("\n")
    }

    /// The last few of what there is now, as one text.
    pub(crate) fn tail(&self, count: usize) -> String {
        let state = self.state();
        state.lines[state.lines.len().saturating_sub(count)..].join("\n")
    }
}
