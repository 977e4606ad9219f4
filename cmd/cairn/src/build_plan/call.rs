//! `--check` and `--call`: questions about a Dockerfile.

use std::collections::BTreeMap;

use crate::args::BuildArgs;
use crate::csv;
use crate::error::CliError;

/// A question to the frontend, asked instead of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The request, by the id that frontends know.
    pub(crate) id: String,
    /// How the answer is printed.
    pub(crate) format: Format,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Call {
    /// What checks find.
    pub(crate) const CHECK: &str = "frontend.lint";

    /// The question that the arguments ask, if they do.
    pub(super) fn find(args: &BuildArgs) -> Result<Option<Self>, CliError> {
        let (option, call) = match (&args.call, args.check) {
            (Some(text), _) => ("--call", Self::parse(text)?),
            (None, true) => (
                "--check",
                Some(Self {
                    id: Self::CHECK.to_owned(),
                    format: Format::Text,
                }),
            ),
            (None, false) => return Ok(None),
        };
        if call.is_some() {
            refuse_idle(args, option)?;
        }
        Ok(call)
    }

    /// Reads `METHOD[,format=FORMAT]`; nothing for `build`.
    fn parse(text: &str) -> Result<Option<Self>, CliError> {
        let invalid = |reason: &str| {
            CliError::usage_hint(
                format!("invalid --call {text:?}: {reason}"),
                "it takes build, check, outline, targets or describe, and format=json behind a comma",
            )
        };
        let (mut method, mut format) = (None, None);
        for field in csv::fields(text).map_err(|_| invalid("its quotes do not match"))? {
            match field.split_once('=') {
                None if method.is_some() => return Err(invalid("it names two methods")),
                None => method = Some(field),
                Some(("format", "json")) => format = Some(Format::Json),
                Some(("format", "text")) => format = Some(Format::Text),
                Some(("format", other)) => return Err(invalid(&format!("there is no format {other:?}"))),
                Some((key, _)) => return Err(invalid(&format!("there is no option {key:?}"))),
            }
        }
        let method = method.filter(|method| !method.is_empty());
        let method = method.ok_or_else(|| invalid("it names no method"))?;
        let id = match method.as_str() {
            "build" if format.is_some() => return Err(invalid("a build has no format")),
            "build" => return Ok(None),
            "check" => Self::CHECK.to_owned(),
            "describe" => "frontend.subrequests.describe".to_owned(),
            method if method.starts_with("frontend.") => method.to_owned(),
            method => format!("frontend.{method}"),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !id.bytes().all(is_name) {
            return Err(invalid("the method is no name"));
        }
        Ok(Some(Self {
            id,
            format: format.unwrap_or_default(),
        }))
    }

    pub(super) fn add_attrs(&self, attrs: &mut BTreeMap<String, String>) {
        attrs.insert("requestid".to_owned(), self.id.clone());
        attrs.insert(
            "frontend.caps".to_owned(),
            "moby.buildkit.frontend.subrequests+forward".to_owned(),
        );
    }
}

/// Says no to options that mean nothing where nothing is built.
fn refuse_idle(args: &BuildArgs, option: &str) -> Result<(), CliError> {
    let idle = [
        ("-t", !args.tags.is_empty()),
        ("-o", !args.outputs.is_empty()),
        ("--push", args.push),
        ("--no-cache", args.no_cache),
        ("--secret", !args.secrets.is_empty()),
        ("--allow", !args.allow.is_empty()),
        ("--attest", !args.attest.is_empty()),
        ("--sbom", args.sbom.is_some()),
        ("--provenance", args.provenance.is_some()),
    ];
    match idle.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((idle, _)) => Err(CliError::usage_hint(
            format!("{idle} has no effect with {option}, which builds nothing"),
            format!("leave {idle} or {option} out"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Result<Option<(String, Format)>, String> {
        let found = Call::parse(text).map_err(|error| error.to_string())?;
        Ok(found.map(|call| (call.id, call.format)))
    }

    #[test]
    fn methods_have_short_names() {
        let text = |id: &str| Ok(Some((id.to_owned(), Format::Text)));
        for (given, expected) in [
            ("build", Ok(None)),
            ("check", text("frontend.lint")),
            ("lint", text("frontend.lint")),
            ("outline", text("frontend.outline")),
            ("describe", text("frontend.subrequests.describe")),
            ("subrequests.describe", text("frontend.subrequests.describe")),
            ("frontend.targets", text("frontend.targets")),
            ("targets,format=text", text("frontend.targets")),
            (
                "format=json,check",
                Ok(Some(("frontend.lint".to_owned(), Format::Json))),
            ),
        ] {
            assert_eq!(call(given), expected, "{given}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (given, reason) in [
            ("", "it names no method"),
            ("format=json", "it names no method"),
            ("a,b", "it names two methods"),
            ("outline,format=xml", "there is no format \"xml\""),
            ("outline,color=red", "there is no option \"color\""),
            ("build,format=json", "a build has no format"),
            ("a b", "the method is no name"),
        ] {
            assert_eq!(call(given), Err(format!("invalid --call {given:?}: {reason}")));
        }
    }

    #[test]
    fn options_of_builds_are_refused() {
        let args = BuildArgs {
            check: true,
            ..BuildArgs::default()
        };
        assert_eq!(Call::find(&args).unwrap().unwrap().id, Call::CHECK);
        for (name, args) in [
            (
                "-t",
                BuildArgs {
                    tags: vec!["x".to_owned()],
                    ..args.clone()
                },
            ),
            (
                "-o",
                BuildArgs {
                    outputs: vec!["out".to_owned()],
                    ..args.clone()
                },
            ),
            (
                "--push",
                BuildArgs {
                    push: true,
                    ..args.clone()
                },
            ),
            (
                "--no-cache",
                BuildArgs {
                    no_cache: true,
                    ..args.clone()
                },
            ),
            (
                "--secret",
                BuildArgs {
                    secrets: vec!["id=x".to_owned()],
                    ..args.clone()
                },
            ),
            (
                "--sbom",
                BuildArgs {
                    sbom: Some("true".to_owned()),
                    ..args.clone()
                },
            ),
        ] {
            let error = Call::find(&args).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{name} has no effect with --check, which builds nothing")
            );
        }
        let build = BuildArgs {
            call: Some("build".to_owned()),
            tags: vec!["x".to_owned()],
            ..BuildArgs::default()
        };
        assert_eq!(Call::find(&build).unwrap(), None);
    }
}
