//! The output of one vertex: bytes in, lines out, the last ones kept.

use std::collections::VecDeque;
use std::time::Duration;

/// Lines kept per vertex; the daemon keeps complete logs.
const MAX_LINES: usize = 200;
/// A line longer than this is cut into several.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Which output of the process a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a vertex's output, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Since the vertex started.
    pub elapsed: Duration,
    /// Where the process wrote it.
    pub stream: LogStream,
    /// The text as the process wrote it: control sequences and all.
    pub text: String,
}

/// The last lines of a vertex's output.
///
/// The outputs of a process are split into lines separately, so that two half lines never become one. A
/// carriage return starts its line anew, as on a terminal: of a progress bar the last state is kept.
#[derive(Debug, Default)]
pub struct Log {
    lines: VecDeque<LogLine>,
    stdout: Partial,
    stderr: Partial,
}

#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    elapsed: Duration,
    returned: bool,
}

impl Log {
    /// Complete lines, oldest first.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &LogLine> {
        self.lines.iter()
    }

    /// Whether nothing was written so far.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.stdout.bytes.is_empty() && self.stderr.bytes.is_empty()
    }

    /// The text of the last `count` lines, the unfinished ones included.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let unfinished = [&self.stderr, &self.stdout];
        let unfinished = unfinished.into_iter().filter(|partial| !partial.bytes.is_empty());
        let unfinished = unfinished.map(Partial::text);
        let finished = self.lines.iter().rev().map(|line| line.text.clone());
        let mut tail: Vec<String> = unfinished.chain(finished).take(count).collect();
        tail.reverse();
        tail
    }

    /// Takes what the process wrote, and returns how many lines it completed.
    pub(super) fn push(&mut self, stream: LogStream, elapsed: Duration, bytes: &[u8]) -> usize {
        let partial = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        let mut completed = 0;
        for byte in bytes {
            if partial.bytes.is_empty() {
                partial.elapsed = elapsed;
            }
            if partial.push(*byte) {
                completed += 1;
                keep(&mut self.lines, partial.take(stream));
            }
        }
        completed
    }

    /// Takes unfinished lines for finished, and returns how many there were.
    pub(super) fn finish(&mut self) -> usize {
        let mut completed = 0;
        for (stream, partial) in [
            (LogStream::Stdout, &mut self.stdout),
            (LogStream::Stderr, &mut self.stderr),
        ] {
            if !partial.bytes.is_empty() {
                completed += 1;
                keep(&mut self.lines, partial.take(stream));
            }
        }
        completed
    }
}

fn keep(lines: &mut VecDeque<LogLine>, line: LogLine) {
    if lines.len() == MAX_LINES {
        lines.pop_front();
    }
    lines.push_back(line);
}

impl Partial {
    /// Takes one byte; true when that made the line complete.
    fn push(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' => return true,
            b'\r' => self.returned = true,
            _ => {
                if std::mem::take(&mut self.returned) {
                    self.bytes.clear();
                }
                self.bytes.push(byte);
            }
        }
        self.bytes.len() >= MAX_LINE_BYTES
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn take(&mut self, stream: LogStream) -> LogLine {
        let line = LogLine {
            elapsed: self.elapsed,
            stream,
            text: self.text(),
        };
        self.bytes.clear();
        self.returned = false;
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &Log) -> Vec<&str> {
        log.lines().map(|line| line.text.as_str()).collect()
    }

    fn push(log: &mut Log, stream: LogStream, bytes: &[u8]) -> usize {
        log.push(stream, Duration::ZERO, bytes)
    }

    #[test]
    fn half_lines_of_two_outputs_do_not_mix() {
        let mut log = Log::default();
        assert_eq!(push(&mut log, LogStream::Stdout, b"one "), 0);
        assert_eq!(push(&mut log, LogStream::Stderr, b"err\n"), 1);
        assert_eq!(push(&mut log, LogStream::Stdout, b"two\nthree"), 1);
        assert_eq!(texts(&log), ["err", "one two"]);
        assert_eq!(log.tail(2), ["one two", "three"]);
        assert_eq!(log.finish(), 1);
        assert_eq!(texts(&log), ["err", "one two", "three"]);
        assert_eq!(log.finish(), 0);
    }

    #[test]
    fn a_carriage_return_starts_the_line_anew() {
        let mut log = Log::default();
        push(&mut log, LogStream::Stdout, b"10%\r50%\r");
        assert_eq!(log.tail(1), ["50%"]);
        push(&mut log, LogStream::Stdout, b"100%\r\nnext\r\n");
        assert_eq!(texts(&log), ["100%", "next"]);
    }

    #[test]
    fn memory_is_bounded_in_lines_and_in_length() {
        let mut log = Log::default();
        push(&mut log, LogStream::Stdout, &vec![b'x'; MAX_LINE_BYTES + 1]);
        assert_eq!(log.lines().count(), 1);
        push(&mut log, LogStream::Stdout, &vec![b'\n'; 10 * MAX_LINES]);
        assert_eq!(log.lines().count(), MAX_LINES);
    }

    #[test]
    fn a_line_has_the_time_of_its_first_byte() {
        let mut log = Log::default();
        log.push(LogStream::Stdout, Duration::from_secs(1), b"a");
        log.push(LogStream::Stdout, Duration::from_secs(2), b"b\n");
        assert_eq!(
            log.lines().next().map(|line| line.elapsed),
            Some(Duration::from_secs(1))
        );
    }
}
