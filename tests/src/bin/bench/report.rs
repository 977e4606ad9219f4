//! The table.

use std::collections::BTreeMap;
use std::io::{Stdout, Write as _, stdout};
use std::time::Duration;

use anyhow::bail;

use crate::measure::Samples;
use crate::subject::Subject;

/// Of the column that says what was measured.
const WIDTH: usize = 24;
/// What is shown of a reason.
const LONGEST_REASON: usize = 160;

/// Prints lines as they are measured; a second subject's line carries the ratio to the first's.
pub(crate) struct Report {
    out: Stdout,
    /// By what was measured, the value of each subject.
    values: BTreeMap<String, Vec<f64>>,
    missed: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let out = stdout();
        writeln!(
            &out,
            "Cairn against Docker Engine on {} processors",
            std::thread::available_parallelism()?
        )?;
        Ok(Self {
            out,
            values: BTreeMap::new(),
            missed: Vec::new(),
        })
    }

    pub(crate) fn section(&self, title: &str) -> anyhow::Result<()> {
        writeln!(&self.out, "\n{title}")?;
        Ok(())
    }

    pub(crate) fn times(
        &mut self,
        what: &str,
        who: &str,
        samples: &Samples,
        target: Option<Duration>,
    ) -> anyhow::Result<()> {
        let median = samples.median();
        let mut line = format!(
            "min {:>9}  median {:>9}  ({}x)",
            show(samples.min()),
            show(median),
            samples.count()
        );
        if let Some(target) = target {
            line += &self.judge(what, median < target, &show(target));
        }
        self.line(what, who, &line, median.as_secs_f64())
    }

    pub(crate) fn bytes(&mut self, what: &str, who: &str, bytes: u64, target: Option<u64>) -> anyhow::Result<()> {
        let show = |bytes: u64| format!("{:.1} MiB", to_f64(bytes) / f64::from(1 << 20));
        let mut line = show(bytes);
        if let Some(target) = target {
            line += &self.judge(what, bytes < target, &show(target));
        }
        self.line(what, who, &line, to_f64(bytes))
    }

    fn judge(&mut self, what: &str, is_met: bool, target: &str) -> String {
        if !is_met {
            self.missed.push(format!("{what}: not below {target}"));
        }
        format!("  target < {target}: {}", if is_met { "met" } else { "MISSED" })
    }

    /// Says whether the first subject's `what` is at most `limit` times the second's.
    pub(crate) fn ratio(&mut self, what: &str, limit: f64) -> anyhow::Result<()> {
        let values = self.values.get(what).map(Vec::as_slice);
        let &[first, second, ..] = values.unwrap_or_default() else {
            bail!("{what} was not measured twice");
        };
        let is_met = first <= second * limit;
        if !is_met {
            self.missed.push(format!("{what}: more than {limit} of the other's"));
        }
        let verdict = if is_met { "met" } else { "MISSED" };
        writeln!(
            &self.out,
            "  {what:<WIDTH$} ratio   {:.2}  target <= {limit}: {verdict}",
            first / second
        )?;
        Ok(())
    }

    /// What a subject cannot do, in its own words.
    pub(crate) fn refusal(&self, what: &str, who: &str, reason: &str) -> anyhow::Result<()> {
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        writeln!(&self.out, "  {what:<WIDTH$} {who:<7} refused: {reason}")?;
        Ok(())
    }

    fn line(&mut self, what: &str, who: &str, text: &str, value: f64) -> anyhow::Result<()> {
        let values = self.values.entry(what.to_owned()).or_default();
        let ratio = match values.first() {
            Some(&first) if first > 0.0 => format!("  {:.2} times {}'s", value / first, Subject::Cairn.name()),
            _ => String::new(),
        };
        values.push(value);
        writeln!(&self.out, "  {what:<WIDTH$} {who:<7} {text}{ratio}")?;
        Ok(())
    }

    /// Says which targets were missed; that is a result, not an error.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        match self.missed.is_empty() {
            true => writeln!(&self.out, "\nall targets are met")?,
            false => writeln!(&self.out, "\nmissed: {}", self.missed.join("; "))?,
        }
        Ok(())
    }
}

fn show(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1000.0),
        seconds => format!("{seconds:.2} s"),
    }
}

/// Sizes of memory are far from where this is inexact.
fn to_f64(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) * 1024.0
}
