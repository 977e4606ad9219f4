//! No progress at all.

use std::io;
use std::time::SystemTime;

use cairn_client::{Change, Progress, ProgressEvent};

use super::view::View;

/// Shows nothing.
pub(super) struct QuietView;

impl View for QuietView {
    fn update(&mut self, _: &Progress, _: &ProgressEvent, _: &[Change], _: SystemTime) -> io::Result<()> {
        Ok(())
    }

    fn tick(&mut self, _: &Progress, _: SystemTime) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &Progress, _: SystemTime) -> io::Result<()> {
        Ok(())
    }
}
