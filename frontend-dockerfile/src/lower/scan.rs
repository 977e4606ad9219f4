//! What is scanned together with the result, where bills of materials are asked for.

use std::collections::BTreeMap;

use cairn_solver::llb::{Builder, Output};

use crate::expand::Variables as _;
use crate::gofmt;

use super::Lowering;
use super::arena::{Encoded, NodeId};
use super::state::StageState;

/// Has the build context scanned.
const CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// Has stages scanned.
const STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// Whether an argument says what is scanned. Those are declared like others, but have no value in the build.
pub(super) fn is_switch(name: &str) -> bool {
    matches!(name, CONTEXT | STAGE)
}

/// What is scanned.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Has all that is scanned in it.
    pub(crate) builder: Builder,
    /// The result; `None` is scratch.
    pub(crate) core: Option<Output>,
    /// What else went into it, by name; `None` is scratch.
    pub(crate) extras: BTreeMap<String, Option<Output>>,
    /// Whether something of it is built anew whatever is known.
    pub(crate) ignore_cache: bool,
}

/// What is scanned besides the target, before it is encoded.
pub(super) struct ScanRoots {
    extras: BTreeMap<String, Option<NodeId>>,
    ignore_cache: bool,
}

impl ScanRoots {
    pub(super) fn roots(&self) -> impl Iterator<Item = NodeId> {
        self.extras.values().copied().flatten()
    }

    pub(super) fn encoded(self, core: Option<Output>, encoded: Encoded) -> Scan {
        let extras = self.extras.into_iter();
        Scan {
            core,
            extras: extras
                .map(|(name, root)| (name, root.map(|root| encoded.output(root))))
                .collect(),
            builder: encoded.builder,
            ignore_cache: self.ignore_cache,
        }
    }
}

/// What one stage says about scanning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Switches {
    context: bool,
    stage: bool,
    ignore_cache: bool,
}

impl Lowering<'_> {
    /// Notes what a stage that was just lowered says about scanning. What it declares itself outdoes what is declared
    /// before the first stage.
    pub(super) fn note_switches(&mut self, index: usize, state: &StageState) {
        let planned = &self.plan.stages[index];
        let asks = |name: &str| {
            let global = self.plan.args.get(name);
            let value = state.args.value(name).or(global);
            value.is_some_and(|value| names_stage(value, &planned.label))
        };
        let switches = Switches {
            context: asks(CONTEXT),
            stage: asks(STAGE),
            ignore_cache: state.ignore_cache,
        };
        if let Some(noted) = self.switches.get_mut(index) {
            *noted = switches;
        }
    }

    /// What is scanned together with the target, if that was asked for.
    pub(super) fn scan(&mut self) -> Option<ScanRoots> {
        self.around.options.scanner()?;
        let target = self.plan.target;
        let mut extras = BTreeMap::new();
        let mut ignore_cache = self.switches[target].ignore_cache;
        for (index, switches) in self.switches.iter().enumerate().filter(|(index, _)| *index != target) {
            if let Some(root) = self.roots[index].filter(|_| switches.stage) {
                extras.insert(self.plan.stages[index].label.clone(), root);
                ignore_cache |= switches.ignore_cache;
            }
        }
        for root in extras.values().copied().flatten() {
            self.arena.use_all_of(root);
        }
        if self.switches[target].context {
            // As it is sent: files that nothing uses are no part of what is built.
            extras.insert("context".to_owned(), self.context());
        }
        Some(ScanRoots { extras, ignore_cache })
    }
}

/// Whether a switch is on for a stage: everywhere, or for those it lists.
fn names_stage(value: &str, label: &str) -> bool {
    gofmt::parse_bool(value).unwrap_or_else(|| value.split(',').any(|listed| listed == label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_for_all_stages_or_for_some() {
        for (value, want) in [
            ("true", true),
            ("1", true),
            ("F", false),
            ("", false),
            ("base", true),
            ("other,base", true),
            ("other, base", false),
            ("Base", false),
        ] {
            assert_eq!(names_stage(value, "base"), want, "{value}");
        }
    }
}
