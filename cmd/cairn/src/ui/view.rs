//! Showing a build while it runs.

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

use cairn_client::{Change, Progress, ProgressEvent};
use tokio::sync::mpsc;

use super::plain::PlainView;
use super::quiet::QuietView;
use super::rawjson::RawJsonView;
use super::tty::TtyView;
use crate::args::ProgressMode;
use crate::ui::Theme;

/// How often a view may look at the clock.
const TICK: Duration = Duration::from_millis(100);

/// One way of showing progress. Where it writes may go away: an error ends the view, not the build.
pub(super) trait View {
    /// Something happened.
    fn update(
        &mut self,
        progress: &Progress,
        event: &ProgressEvent,
        changes: &[Change],
        now: SystemTime,
    ) -> io::Result<()>;

    /// Time passed.
    fn tick(&mut self, progress: &Progress, now: SystemTime) -> io::Result<()>;

    /// Nothing more happens.
    fn finish(&mut self, progress: &Progress, now: SystemTime) -> io::Result<()>;
}

/// What a build looked like, and how long it took.
#[derive(Debug)]
pub(crate) struct Followed {
    /// The last state.
    pub(crate) progress: Progress,
    /// From the first look to the last.
    pub(crate) elapsed: Duration,
}

/// Shows what `events` tell until they end.
///
/// # Cancel safety
/// Dropping the future leaves the terminal as it is at that moment, with a visible cursor.
pub(crate) async fn follow(
    mut events: mpsc::Receiver<ProgressEvent>,
    mode: ProgressMode,
    theme: Theme,
    started: Instant,
) -> Followed {
    let mut progress = Progress::new();
    let mut view = Some(view(mode, theme, started));
    let mut ticks = tokio::time::interval_at((Instant::now() + TICK).into(), TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => Some(event),
                None => break,
            },
            _ = ticks.tick() => None,
        };
        let local = SystemTime::now();
        let changes = event
            .as_ref()
            .map(|event| progress.apply(event, local))
            .unwrap_or_default();
        let now = progress.server_time(local);
        let shown = match (&mut view, &event) {
            (None, _) => Ok(()),
            (Some(view), Some(event)) => view.update(&progress, event, &changes, now),
            (Some(view), None) => view.tick(&progress, now),
        };
        if shown.is_err() {
            view = None;
        }
    }
    if let Some(mut view) = view {
        let now = progress.server_time(SystemTime::now());
        // The last words have no listener then.
        let _gone = view.finish(&progress, now);
    }
    Followed {
        progress,
        elapsed: started.elapsed(),
    }
}

fn view(mode: ProgressMode, theme: Theme, started: Instant) -> Box<dyn View> {
    match mode {
        ProgressMode::Tty => Box::new(TtyView::new(theme, started)),
        ProgressMode::Plain | ProgressMode::Auto => Box::new(PlainView::new(stderr())),
        ProgressMode::Rawjson => Box::new(RawJsonView::new(stderr())),
        ProgressMode::Quiet => Box::new(QuietView),
    }
}

fn stderr() -> Box<dyn Write> {
    Box::new(io::stderr())
}
