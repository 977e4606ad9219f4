//! Progress as a picture that is redrawn in place.

use std::io::{self, Write as _};
use std::time::{Duration, Instant, SystemTime};

use cairn_client::{Change, Progress, ProgressEvent};
use console::Term;

use super::view::View;
use crate::ui::Theme;

mod frame;

use frame::{Frame, Size};

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const CUT_LINES: &str = "\x1b[?7l";
const WRAP_LINES: &str = "\x1b[?7h";
/// For terminals that do not tell.
const USUAL_SIZE: Size = Size { rows: 24, columns: 80 };

/// Draws on standard error.
pub(super) struct TtyView {
    terminal: Term,
    theme: Theme,
    started: Instant,
    /// Lines on the screen that the next picture replaces.
    drawn: usize,
    cursor_hidden: bool,
}

impl TtyView {
    pub(super) fn new(theme: Theme, started: Instant) -> Self {
        Self {
            terminal: Term::stderr(),
            theme,
            started,
            drawn: 0,
            cursor_hidden: false,
        }
    }

    fn frame<'a>(&self, progress: &'a Progress, now: SystemTime) -> Frame<'a> {
        // Some that are none say that they have no room at all.
        let told = self
            .terminal
            .size_checked()
            .filter(|(rows, columns)| *rows > 0 && *columns > 0);
        let size = told.map_or(USUAL_SIZE, |(rows, columns)| Size {
            rows: usize::from(rows),
            columns: usize::from(columns),
        });
        Frame {
            progress,
            now,
            elapsed: self.elapsed(),
            size,
            theme: self.theme,
        }
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes everything at once, so that no half picture is seen.
    fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        // A line that took two would be counted as one.
        let mut picture = format!("\r{CUT_LINES}");
        if !self.cursor_hidden {
            picture.push_str(HIDE_CURSOR);
        }
        if self.drawn > 0 {
            picture.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            picture.push_str(line);
            picture.push_str(CLEAR_LINE);
            picture.push('\n');
        }
        picture.push_str(CLEAR_BELOW);
        picture.push_str(WRAP_LINES);
        self.cursor_hidden = true;
        self.drawn = lines.len();
        self.terminal.write_all(picture.as_bytes())
    }
}

impl View for TtyView {
    fn update(&mut self, _: &Progress, _: &ProgressEvent, _: &[Change], _: SystemTime) -> io::Result<()> {
        // Drawn with the next tick: a busy build must not keep the terminal busy.
        Ok(())
    }

    fn tick(&mut self, progress: &Progress, now: SystemTime) -> io::Result<()> {
        let lines = self.frame(progress, now).live();
        self.draw(&lines)
    }

    fn finish(&mut self, progress: &Progress, now: SystemTime) -> io::Result<()> {
        let lines = self.frame(progress, now).last();
        self.draw(&lines)?;
        self.drawn = 0;
        self.cursor_hidden = false;
        self.terminal.write_all(SHOW_CURSOR.as_bytes())
    }
}

impl Drop for TtyView {
    fn drop(&mut self) {
        if self.cursor_hidden {
            // Nothing better can be done for a terminal that is gone.
            let _gone = self.terminal.write_all(SHOW_CURSOR.as_bytes());
        }
    }
}

/// Makes the cursor visible again, for exits that leave the view no time to do so.
pub(crate) fn restore_cursor() {
    let mut terminal = Term::stderr();
    if terminal.is_term() {
        // As above.
        let _gone = terminal.write_all(SHOW_CURSOR.as_bytes());
    }
}
