//! Build checks: advice about a Dockerfile that works.
//!
//! Rules look at the parsed file, at the plan and at what lowering sees; each leaves [`Finding`]s. What becomes of them is
//! up to the `# check=` directive, the build argument of the same meaning, and comments above single instructions.

mod config;
mod file;
mod secrets;

use bytes::Bytes;
use cairn_solver::llb::SourceFile;
use cairn_solver::progress::Warning;

use crate::dockerfile::Dockerfile;
use crate::location::Lines;

pub(crate) use config::CheckConfig;
pub(crate) use file::findings;
pub(crate) use secrets::names_a_secret;

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    /// Whether comments above an instruction cannot switch it.
    whole_file: bool,
    experimental: bool,
    /// Whether there is no page about it.
    undocumented: bool,
}

macro_rules! rules {
    ($($constant:ident $name:literal $description:literal $([$flag:ident])?;)*) => {
        $(pub(crate) const $constant: Rule = Rule { $($flag: true,)? ..Rule::plain($name, $description) };)*
    };
}

rules! {
    STAGE_NAME_CASING "StageNameCasing" "Stage names should be lowercase";
    FROM_AS_CASING "FromAsCasing" "The 'as' keyword should match the case of the 'from' keyword";
    NO_EMPTY_CONTINUATION "NoEmptyContinuation" "Empty continuation lines will become errors in a future release" [whole_file];
    CONSISTENT_INSTRUCTION_CASING "ConsistentInstructionCasing" "All commands within the Dockerfile should use the same casing (either upper or lower)" [whole_file];
    DUPLICATE_STAGE_NAME "DuplicateStageName" "Stage names should be unique" [whole_file];
    RESERVED_STAGE_NAME "ReservedStageName" "Reserved words should not be used as stage names" [whole_file];
    JSON_ARGS_RECOMMENDED "JSONArgsRecommended" "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    MAINTAINER_DEPRECATED "MaintainerDeprecated" "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    UNDEFINED_ARG_IN_FROM "UndefinedArgInFrom" "FROM command must use declared ARGs";
    WORKDIR_RELATIVE_PATH "WorkdirRelativePath" "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
    UNDEFINED_VAR "UndefinedVar" "Variables should be defined before their use";
    MULTIPLE_INSTRUCTIONS_DISALLOWED "MultipleInstructionsDisallowed" "Multiple instructions of the same type should not be used in the same stage";
    LEGACY_KEY_VALUE_FORMAT "LegacyKeyValueFormat" "Legacy key/value format with whitespace separator should not be used";
    REDUNDANT_TARGET_PLATFORM "RedundantTargetPlatform" "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    SECRETS_USED_IN_ARG_OR_ENV "SecretsUsedInArgOrEnv" "Sensitive data should not be used in the ARG or ENV commands";
    INVALID_DEFAULT_ARG_IN_FROM "InvalidDefaultArgInFrom" "Default value for global ARG results in an empty or invalid base image name" [whole_file];
    FROM_PLATFORM_FLAG_CONST_DISALLOWED "FromPlatformFlagConstDisallowed" "FROM --platform flag should not use a constant value";
    COPY_IGNORED_FILE "CopyIgnoredFile" "Attempting to Copy file that is excluded by .dockerignore";
    INVALID_DEFINITION_DESCRIPTION "InvalidDefinitionDescription" "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment." [experimental];
    EXPOSE_PROTO_CASING "ExposeProtoCasing" "Protocol in EXPOSE instruction should be lowercase";
    INVALID_BASE_IMAGE_PLATFORM "InvalidBaseImagePlatform" "Base image platform does not match expected target platform" [undocumented];
    EXPOSE_INVALID_FORMAT "ExposeInvalidFormat" "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
}

impl Rule {
    const fn plain(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            description,
            whole_file: false,
            experimental: false,
            undocumented: false,
        }
    }

    /// Where the rule is explained.
    pub(crate) fn url(&self) -> String {
        if self.undocumented {
            return String::new();
        }
        let mut kebab = String::new();
        let mut before = '-';
        for (at, c) in self.name.char_indices() {
            let starts_word = c.is_uppercase() && at > 0;
            let next_is_lower = self.name[at + 1..].starts_with(|c: char| c.is_lowercase());
            if starts_word && (before.is_lowercase() || next_is_lower) {
                kebab.push('-');
            }
            kebab.extend(c.to_lowercase());
            before = c;
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{kebab}/")
    }
}

/// Something a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) rule: &'static Rule,
    pub(crate) message: String,
    pub(crate) lines: Lines,
}

/// What rules found, up to a limit: advice by the thousand is not taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    const MAX: usize = 10_000;

    pub(crate) fn find(&mut self, rule: &'static Rule, lines: Lines, message: impl Into<String>) {
        if !self.is_full() {
            self.0.push(Finding {
                rule,
                message: message.into(),
                lines,
            });
        }
    }

    /// Whether whatever else is found does not count.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= Self::MAX
    }
}

impl Finding {
    /// The form in which clients are told.
    pub(crate) fn warning(&self, file: &SourceFile) -> Warning {
        Warning {
            level: 1,
            short: Bytes::from(format!(
                "{}: {} (line {})",
                self.rule.name, self.message, self.lines.first
            )),
            detail: vec![Bytes::from_static(self.rule.description.as_bytes())],
            url: self.rule.url(),
            file: Some(file.clone()),
            ranges: crate::lower::ranges(self.lines),
        }
    }
}

/// The findings that count, after all that was said about which do.
pub(crate) fn select(found: Findings, config: &CheckConfig, file: &Dockerfile) -> Vec<Finding> {
    let local = file.local_checks();
    let counts = |finding: &Finding| {
        let own = local.get(&finding.lines.first).filter(|_| !finding.rule.whole_file);
        if finding.rule.experimental {
            return config.experimental.covers(finding.rule.name)
                || own.is_some_and(|own| own.experimental.covers(finding.rule.name));
        }
        !config.skip.covers(finding.rule.name) && !own.is_some_and(|own| own.skip.covers(finding.rule.name))
    };
    // Every use counts: two words of one instruction can have the same fault.
    found.0.into_iter().filter(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_explained_under_their_names() {
        assert_eq!(
            JSON_ARGS_RECOMMENDED.url(),
            "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
        );
        assert_eq!(
            FROM_AS_CASING.url(),
            "https://docs.docker.com/go/dockerfile/rule/from-as-casing/"
        );
    }
}
