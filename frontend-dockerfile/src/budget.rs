//! A bound on how much a Dockerfile may blow up.

use crate::error::DockerfileError;
use crate::expand::{ExpandError, Expanded};
use crate::location::Lines;

/// What planning or lowering a file may still produce, and how much it may still work for that.
///
/// Without it a few lines that double a variable, a long chain of stages that each inherit everything, or an image with
/// a great many triggers would take all memory and time there is.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: usize,
    effort: usize,
}

const BYTES: usize = 256 << 20;
const EFFORT: usize = 1 << 30;

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes: BYTES,
            effort: EFFORT,
        }
    }
}

impl Budget {
    /// Takes note of `bytes` that stay.
    pub(crate) fn charge(&mut self, bytes: usize, lines: Lines) -> Result<(), DockerfileError> {
        let message = || {
            format!(
                "variables, triggers and inherited settings come to more than {} MiB",
                BYTES >> 20
            )
        };
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| DockerfileError::at(lines, message()))?;
        Ok(())
    }

    /// Takes note of an expansion, whether or not it came to something.
    pub(crate) fn charge_expansion(
        &mut self,
        expansion: &Result<Expanded<'_>, ExpandError>,
        lines: Lines,
    ) -> Result<(), DockerfileError> {
        let (effort, bytes) = match expansion {
            Ok(expanded) => (expanded.effort, expanded.value.len()),
            Err(error) => (error.effort, 0),
        };
        let left = self.effort.checked_sub(effort);
        let message = "variables and patterns in substitutions take too long to be expanded";
        self.effort = left.ok_or_else(|| DockerfileError::at(lines, message))?;
        self.charge(bytes + 32, lines)
    }
}
