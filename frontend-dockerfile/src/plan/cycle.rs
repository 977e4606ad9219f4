//! Stages that need each other.

use crate::error::DockerfileError;
use crate::location::Lines;

use super::Plan;

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

impl Plan {
    /// Refuses stages that copy from or mount each other, needed or not.
    pub(super) fn check_cycles(&self) -> Result<(), DockerfileError> {
        let mut marks = vec![Mark::New; self.stages.len()];
        for start in 0..self.declared {
            if marks[start] == Mark::New {
                self.search(start, &mut marks)?;
            }
        }
        Ok(())
    }

    /// Depth first, with a stack of its own: a file may have a great many stages.
    fn search(&self, start: usize, marks: &mut [Mark]) -> Result<(), DockerfileError> {
        let mut path: Vec<(usize, Vec<(usize, Lines)>)> = vec![(start, self.uses(start))];
        // The instruction by which each stage on the path but the first was reached.
        let mut taken: Vec<Lines> = Vec::new();
        marks[start] = Mark::Open;
        while let Some((stage, uses)) = path.last_mut() {
            let Some((next, lines)) = uses.pop() else {
                marks[*stage] = Mark::Done;
                path.pop();
                taken.pop();
                continue;
            };
            match marks[next] {
                Mark::Done => {}
                Mark::New => {
                    marks[next] = Mark::Open;
                    taken.push(lines);
                    path.push((next, self.uses(next)));
                }
                Mark::Open => {
                    let from = path.iter().position(|(open, _)| *open == next).unwrap_or(0);
                    let mut locations = taken.split_off(from);
                    locations.push(lines);
                    let label = &self.stages[start].label;
                    return Err(DockerfileError {
                        message: format!("circular dependency detected on stage: {label}"),
                        locations,
                    });
                }
            }
        }
        Ok(())
    }

    fn uses(&self, index: usize) -> Vec<(usize, Lines)> {
        let steps = &self.stages[index].steps;
        let uses = steps.iter().flat_map(|step| {
            let stages = step.from.into_iter().chain(step.mounts.iter().flatten().copied());
            stages.map(|stage| (stage, step.instruction.lines))
        });
        uses.filter(|(stage, _)| *stage < self.declared).collect()
    }
}
