//! Names of steps.

use std::sync::Arc;

use cairn_solver::Platform;

use crate::expand::Variables;
use crate::plan::{Base, Plan};
use crate::platform;

use super::env::Env;

/// Numbers the steps of a stage and names them.
#[derive(Debug, Clone)]
pub(super) struct StepNames {
    platform: Option<Arc<Platform>>,
    /// The stage's label and a blank, if it is shown.
    label: String,
    next: usize,
    total: usize,
}

impl StepNames {
    pub(super) fn new(plan: &Plan, stage: usize, multi_platform: bool) -> Self {
        let planned = &plan.stages[stage];
        // Triggers count whatever they do, because others count them so.
        let layers = planned
            .steps
            .iter()
            .filter(|step| step.is_trigger || step.instruction.makes_layer())
            .count();
        let base = usize::from(!matches!(planned.base, Base::Scratch | Base::Stage(_)));
        Self {
            platform: multi_platform.then(|| planned.platform.clone()),
            label: if plan.shows_labels {
                format!("{} ", planned.label)
            } else {
                String::new()
            },
            next: 1,
            total: base + layers,
        }
    }

    /// The name of the next step.
    pub(super) fn next(&mut self, env: &Env, text: &str) -> String {
        let (number, total) = (self.next, self.total);
        self.next += 1;
        let platform = match &self.platform {
            Some(platform) => format!("{}{} ", platform::full(platform), target(platform, env)),
            None => String::new(),
        };
        let width = total.checked_ilog10().unwrap_or(0) as usize + 1;
        let number = format!("{number:>width$}/{total}] ");
        ["[", &platform, &self.label, &number, text].concat()
    }
}

/// `->arm64` if what is built for differs from what it is built on, as far as the stage knows.
fn target(platform: &Platform, env: &Env) -> String {
    let whole = env.get("TARGETPLATFORM").and_then(|text| text.parse::<Platform>().ok());
    let parts = || {
        let architecture = env.get("TARGETARCH");
        let (os, variant) = (env.get("TARGETOS"), env.get("TARGETVARIANT"));
        let known = architecture.is_some() || os.is_some() || variant.is_some();
        known.then(|| {
            (
                os.unwrap_or(&platform.os).to_owned(),
                architecture.unwrap_or(&platform.architecture).to_owned(),
                variant.unwrap_or_default().to_owned(),
            )
        })
    };
    let (os, architecture, variant) = match whole {
        Some(whole) => (whole.os, whole.architecture, whole.variant),
        None => match parts() {
            Some(parts) => parts,
            None => return String::new(),
        },
    };
    if os == platform.os && architecture == platform.architecture {
        return String::new();
    }
    let variant = if variant.is_empty() {
        variant
    } else {
        format!("/{variant}")
    };
    if os == platform.os {
        format!("->{architecture}{variant}")
    } else {
        format!("->{os}/{architecture}{variant}")
    }
}
