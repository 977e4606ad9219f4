//! From the start of a daemon to its first answer.

use std::time::Duration;

use crate::Effort;
use crate::measure::Samples;
use crate::report::Report;
use crate::subject::{SUBJECTS, Subject};

const TARGET: Duration = Duration::from_millis(100);

pub(crate) fn run(effort: &Effort, report: &mut Report) -> anyhow::Result<()> {
    report.section("from nothing to an answer")?;
    for subject in SUBJECTS {
        let target = (subject == Subject::Cairn).then_some(TARGET);
        let times = Samples::repeat(effort.repeat, || subject.time_to_answer())?;
        report.times("ready", subject.name(), &times, target)?;
    }
    Ok(())
}
