//! A bound on how much a Dockerfile may blow up.

use crate::error::DockerfileError;
use crate::location::Lines;

/// Bytes that lowering may still produce.
///
/// Without it a few lines that double a variable, or a long chain of stages that each inherit everything, would take all
/// memory there is.
#[derive(Debug)]
pub(super) struct Budget(usize);

const BYTES: usize = 256 << 20;

impl Default for Budget {
    fn default() -> Self {
        Self(BYTES)
    }
}

impl Budget {
    pub(super) fn charge(&mut self, bytes: usize, lines: Lines) -> Result<(), DockerfileError> {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(DockerfileError::at(
                lines,
                format!("variables and inherited settings come to more than {} MiB", BYTES >> 20),
            )),
        }
    }
}
