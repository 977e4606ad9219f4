//! Checks of `FROM`.

use crate::checks::{
    FROM_PLATFORM_FLAG_CONST_DISALLOWED, Findings, INVALID_DEFAULT_ARG_IN_FROM, REDUNDANT_TARGET_PLATFORM, Rule,
    UNDEFINED_ARG_IN_FROM,
};
use crate::dockerfile::Stage;
use crate::expand::Variables;
use crate::gofmt;
use crate::platform;
use crate::suggest::suggestion;
use cairn_solver::Reference;

use super::{GlobalArgs, Plan};

impl Plan {
    /// Looks at the `FROM` of a stage.
    pub(super) fn check_from(&self, stage: &Stage, found: &mut Findings) {
        let lines = stage.instruction.lines;
        let mut find = |rule: &'static Rule, message: String| found.find(rule, lines, message);
        for text in [Some(&stage.from.base), stage.from.platform.as_ref()]
            .into_iter()
            .flatten()
        {
            let unmatched = match self.args.expander.expand(text, &self.args) {
                Ok(expanded) => expanded.unmatched.into_iter().map(str::to_owned).collect(),
                Err(error) => error.unmatched,
            };
            for name in unmatched.iter().filter(|name| !self.args.declares(name)) {
                let near = suggestion(name, self.args.known());
                find(
                    &UNDEFINED_ARG_IN_FROM,
                    format!("FROM argument '{name}' is not declared{near}"),
                );
            }
        }
        if let Some(written) = &stage.from.platform
            && let Ok(expanded) = self.args.expander.expand(written, &self.args)
        {
            let mut names = expanded.matched.iter().chain(&expanded.unmatched).copied();
            match (names.next(), names.next()) {
                (None, _) if platform_is_news(&expanded.value, stage, self) => {
                    let message = format!(
                        "FROM --platform flag should not use constant value {}",
                        gofmt::quote(&expanded.value)
                    );
                    find(&FROM_PLATFORM_FLAG_CONST_DISALLOWED, message);
                }
                (Some("TARGETPLATFORM"), None) if self.args.get("TARGETPLATFORM") == Some(&*expanded.value) => {
                    let message = format!(
                        "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
                    );
                    find(&REDUNDANT_TARGET_PLATFORM, message);
                }
                _ => {}
            }
        }
    }
}

/// Looks whether a stage's base makes sense with `defaults`, the arguments without what the build was given.
pub(super) fn default_base(stage: &Stage, defaults: &GlobalArgs, found: &mut Findings) {
    let expanded = defaults.expander.expand(&stage.from.base, defaults);
    if expanded.is_ok_and(|expanded| Reference::parse(&expanded.value).is_err()) {
        let message = format!(
            "Default value for ARG {} results in empty or invalid base image name",
            stage.from.base
        );
        found.find(&INVALID_DEFAULT_ARG_IN_FROM, stage.instruction.lines, message);
    }
}

/// Whether a constant platform says something that the stage's name does not.
fn platform_is_news(value: &str, stage: &Stage, plan: &Plan) -> bool {
    let Ok(platform) = platform::parse(value, &plan.platform) else {
        return false;
    };
    let name = stage.from.name.as_deref().unwrap_or_default();
    !name.contains(&platform.os) && !name.contains(&platform.architecture)
}
