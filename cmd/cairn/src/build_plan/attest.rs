//! `--attest`, and its short forms `--sbom` and `--provenance`.

use std::collections::BTreeMap;

use crate::args::BuildArgs;
use crate::csv;
use crate::error::CliError;

/// Adds what the frontend and the daemon are told about statements to make.
pub(super) fn add_attrs(args: &BuildArgs, attrs: &mut BTreeMap<String, String>) -> Result<(), CliError> {
    let mut kinds = BTreeMap::new();
    let long = args.attest.iter().map(|text| Asked::parse("--attest", text, None));
    let short = [("sbom", &args.sbom), ("provenance", &args.provenance)];
    let short = short.into_iter().filter_map(|(kind, text)| {
        let text = text.as_ref().filter(|text| !text.is_empty())?;
        Some(Asked::short(kind, text))
    });
    for asked in long.chain(short) {
        let Asked { kind, options } = asked?;
        if kinds.insert(kind.clone(), options).is_some() {
            return Err(CliError::usage(format!(
                "statements of type {kind} are asked for twice"
            )));
        }
    }
    for (kind, options) in kinds {
        if let Some(options) = options {
            attrs.insert(format!("attest:{kind}"), options);
        }
    }
    Ok(())
}

/// One kind of statement.
struct Asked {
    kind: String,
    /// `None` if it is not to be made after all.
    options: Option<String>,
}

impl Asked {
    /// Reads the value of `--sbom` or `--provenance`: whether, or how.
    fn short(kind: &str, text: &str) -> Result<Self, CliError> {
        match parse_bool(text) {
            Some(is_wanted) => Ok(Self {
                kind: kind.to_owned(),
                options: is_wanted.then(String::new),
            }),
            None => Self::parse(&format!("--{kind}"), text, Some(kind)),
        }
    }

    fn parse(option: &str, text: &str, kind: Option<&str>) -> Result<Self, CliError> {
        let invalid = |reason: &str| CliError::usage(format!("invalid {option} {text:?}: {reason}"));
        let mut kind = kind.map(str::to_owned);
        let mut is_disabled = false;
        let mut options = Vec::new();
        let fields = csv::fields(text).map_err(invalid)?;
        for field in &fields {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| invalid(&format!("{field:?} has no value")))?;
            match key.trim().to_ascii_lowercase().as_str() {
                "type" if value.is_empty() => return Err(invalid("it has no type")),
                "type" => kind = Some(value.to_owned()),
                "disabled" => {
                    is_disabled = parse_bool(value).ok_or_else(|| invalid("disabled is either true or false"))?;
                }
                _ => options.push(field.as_str()),
            }
        }
        Ok(Self {
            kind: kind.ok_or_else(|| invalid("it has no type, such as type=sbom"))?,
            options: (!is_disabled).then(|| csv::join(options)),
        })
    }
}

/// The words that clients written in Go take for yes and no.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(attest: &[&str], sbom: Option<&str>, provenance: Option<&str>) -> Result<Vec<(String, String)>, String> {
        let args = BuildArgs {
            attest: attest.iter().map(|text| (*text).to_owned()).collect(),
            sbom: sbom.map(str::to_owned),
            provenance: provenance.map(str::to_owned),
            ..BuildArgs::default()
        };
        let mut attrs = BTreeMap::new();
        add_attrs(&args, &mut attrs).map_err(|error| error.to_string())?;
        Ok(attrs.into_iter().collect())
    }

    #[test]
    fn long_and_short_forms_say_the_same() {
        let sbom = |options: &str| vec![("attest:sbom".to_owned(), options.to_owned())];
        assert_eq!(attrs(&[], None, Some("")).unwrap(), []);
        assert_eq!(attrs(&[], Some("true"), None).unwrap(), sbom(""));
        assert_eq!(attrs(&["type=sbom"], None, None).unwrap(), sbom(""));
        assert_eq!(attrs(&[], Some("false"), Some("0")).unwrap(), []);
        assert_eq!(attrs(&["type=sbom,disabled=true,a=b"], None, None).unwrap(), []);
        let options = sbom("generator=h/s:1,\"Q=a,b\"");
        assert_eq!(attrs(&[], Some("generator=h/s:1,\"Q=a,b\""), None).unwrap(), options);
        let text = "disabled=false,generator=h/s:1,Type=sbom,\"Q=a,b\"";
        assert_eq!(attrs(&[text], None, None).unwrap(), options);
        let both = attrs(&["type=provenance,mode=max"], Some("1"), None).unwrap();
        let both: Vec<_> = both.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(both, [("attest:provenance", "mode=max"), ("attest:sbom", "")]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (attest, sbom, want) in [
            ("generator=x", None, "it has no type"),
            ("type=", None, "it has no type"),
            ("type=sbom,x", None, "\"x\" has no value"),
            ("type=sbom,disabled=maybe", None, "disabled is either true or false"),
            ("type=sbom,\"a", None, "a quote that is not closed"),
            ("type=sbom", Some("true"), "statements of type sbom are asked for twice"),
            (
                "type=provenance",
                Some("maybe"),
                "invalid --sbom \"maybe\": \"maybe\" has no value",
            ),
        ] {
            let error = attrs(&[attest], sbom, None).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
