//! Everything the program writes.
//!
//! Results go to standard output, progress and complaints to standard error. All of it is legible without
//! colour and under a pipe. Text that comes from a daemon, an image or a process passes through
//! [`text::clean`] on its way, so that it cannot play tricks with the terminal.

use std::io::{self, Write as _};

use crate::error::CliError;
use crate::surroundings::Surroundings;

pub(crate) mod excerpt;
pub(crate) mod failure;
mod plain;
mod quiet;
mod rawjson;
#[cfg(test)]
mod script;
pub(crate) mod summary;
pub(crate) mod table;
pub(crate) mod text;
mod theme;
mod tty;
pub(crate) mod view;

pub(crate) use theme::Theme;
pub(crate) use tty::restore_cursor;

/// Writes a result to standard output.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(CliError::Output)
}

/// Writes a remark to standard error.
pub(crate) fn remark(text: &str) {
    // When nobody listens any more, there is nobody to tell.
    let _nobody_listens = io::stderr().lock().write_all(text.as_bytes());
}

/// Reports a failed command.
pub(crate) fn report(error: &CliError, surroundings: &Surroundings) {
    let theme = Theme::of(surroundings);
    remark(&failure::render(error, None, &theme));
}
