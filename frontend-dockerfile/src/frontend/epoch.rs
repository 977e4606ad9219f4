//! `SOURCE_DATE_EPOCH`.

use crate::error::DockerfileError;
use crate::expand::Variables;
use crate::options::Options;
use crate::plan::Plan;

const NAME: &str = "SOURCE_DATE_EPOCH";

/// Works the time out, and makes stages that declare the argument see it as a number.
pub(super) fn resolve(plan: &mut Plan, options: &Options) -> Result<Option<i64>, DockerfileError> {
    let asked = options
        .build_args
        .get(NAME)
        .map(String::as_str)
        .or_else(|| plan.args.get(NAME));
    let epoch = match asked {
        None | Some("") => None,
        // The client's directory has no time of its own.
        Some("context") => None,
        Some(value) => match value.parse::<i64>() {
            Ok(seconds) if jiff::Timestamp::from_second(seconds).is_ok() => Some(seconds),
            _ if is_stage_or_context(plan, options, value) => {
                return Err(DockerfileError::whole(format!(
                    "{NAME} taken from {value} is not supported yet"
                )));
            }
            _ => return Err(DockerfileError::whole(format!("invalid {NAME}: {value}"))),
        },
    };
    plan.args.replace(NAME, epoch.map(|epoch| epoch.to_string()));
    Ok(epoch)
}

fn is_stage_or_context(plan: &Plan, options: &Options, value: &str) -> bool {
    let lower = value.to_lowercase();
    plan.stages.iter().any(|stage| stage.name.as_deref() == Some(&lower)) || options.contexts.contains_key(value)
}
