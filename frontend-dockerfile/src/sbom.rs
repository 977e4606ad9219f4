//! Bills of materials (SBOM): what a scanner, which is an image, finds in the results of a build.
//!
//! For each result the scanner is run once, with the files of the result and of whatever else is to be looked at mounted
//! read-only; every file that it leaves in its output directory is an in-toto statement.

use std::collections::BTreeMap;

use cairn_solver::attestation::{REASON, SBOM_CORE};
use cairn_solver::frontend::{Bridge, BridgeRef, FrontendError};
use cairn_solver::llb::{
    Builder, ContentCache, Definition, ExecOp, ImageSource, Mount, MountKind, OpMetadata, Output, ResolveMode, SourceOp,
};
use cairn_solver::worker::ImageQuery;
use cairn_solver::{Attestation, AttestationKind, Platform, SolveError, WorkerError};

use crate::image::ImageConfig;
use crate::{csv, gofmt};
use cairn_solver::Reference;

/// What the statements state.
pub const SPDX: &str = "https://spdx.dev/Document";
/// The scanner, unless another one is asked for.
const DEFAULT_GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";
/// Name of the result among what is scanned.
const CORE: &str = "sbom";
/// The kind of statements that is made here.
const KIND: &str = "sbom";
const OPTION: &str = "attest:";
const BUILD_ARG: &str = "build-arg:BUILDKIT_ATTEST_";

/// The scanner that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generator {
    reference: Reference,
    /// What it is told besides where to look.
    parameters: BTreeMap<String, String>,
}

impl Generator {
    /// What the options of a request ask for, by `attest:sbom` or the build argument `BUILDKIT_ATTEST_SBOM`.
    ///
    /// # Errors
    /// If an option about statements is malformed, or about some that nobody knows.
    pub fn asked(options: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let mut kinds: BTreeMap<String, &str> = BTreeMap::new();
        // The options come last: they are the later way to say so, and win.
        for prefix in [BUILD_ARG, OPTION] {
            for (key, value) in options {
                if let Some(kind) = key.strip_prefix(prefix) {
                    kinds.insert(kind.to_lowercase(), value);
                }
            }
        }
        let mut asked = None;
        for (kind, value) in kinds {
            let fields = match value {
                "" => Vec::new(),
                value => csv::record(value).map_err(|cause| format!("failed to parse {kind}: {cause}"))?,
            };
            match kind.as_str() {
                KIND => asked = Some(Self::parse(&fields)?),
                // Made by the daemon.
                "provenance" => {}
                _ => return Err(format!("unknown attestation type {}", gofmt::quote(&kind))),
            }
        }
        Ok(asked)
    }

    fn parse(fields: &[String]) -> Result<Self, String> {
        let fields = fields.iter().map(|field| field.split_once('=').unwrap_or((field, "")));
        let mut parameters: BTreeMap<String, String> =
            fields.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let generator = parameters.remove("generator");
        // Clients name the kind of statement once more, and that it is wanted; neither is for the scanner.
        parameters.retain(|key, _| !matches!(key.as_str(), "type" | "disabled"));
        let generator = generator.as_deref().unwrap_or(DEFAULT_GENERATOR);
        if generator.is_empty() {
            return Err("sbom generator cannot be empty".to_owned());
        }
        let reference = Reference::parse(generator);
        Ok(Self {
            reference: reference.map_err(|cause| format!("failed to parse sbom generator {generator}: {cause}"))?,
            parameters,
        })
    }

    /// Looks the image up, for the platform that is built on.
    ///
    /// # Errors
    /// If it is not there, or says of no command what it is to run.
    pub async fn resolve(&self, bridge: &dyn Bridge, mode: ResolveMode) -> Result<Scanner, FrontendError> {
        let reference = self.reference.to_string();
        let platform = build_platform(bridge);
        let query = ImageQuery {
            reference: reference.clone(),
            platform: Some(platform.clone()),
            mode,
            layout: None,
        };
        let title = format!("resolve image config for docker-image://{reference}");
        let found = match bridge.resolve_image(query, &title).await {
            Ok(found) => found,
            Err(error) if is_cancelled(&error) => return Err(error.into()),
            Err(error) => {
                return Err(FrontendError::Option(format!(
                    "failed to resolve source metadata for {reference}: {error}"
                )));
            }
        };
        let config = ImageConfig::from_base(&found.config)
            .map_err(|error| FrontendError::Option(format!("scanner {reference}: {error}")))?;
        let args = [config.entrypoint(), config.cmd()].concat();
        if args.is_empty() {
            return Err(FrontendError::Option(format!("scanner {reference} does not have cmd")));
        }
        // Policies may have put another image in its place.
        let resolved = Reference::parse(&found.reference);
        let resolved = resolved.map_err(|cause| FrontendError::Option(format!("scanner {reference}: {cause}")))?;
        let variables = config.env().map(|(name, value)| format!("{name}={value}"));
        let parameters = self.parameters.iter();
        Ok(Scanner {
            image: ImageSource {
                reference: resolved.pinned(found.digest).to_string(),
                resolve_mode: mode,
                ..ImageSource::default()
            },
            platform,
            args,
            cwd: match config.workdir() {
                path if path.starts_with('/') => path,
                path => format!("/{path}"),
            },
            env: variables.collect(),
            parameters: parameters
                .map(|(name, value)| format!("BUILDKIT_SCAN_{name}={value}"))
                .collect(),
            reference,
        })
    }
}

/// The platform that is built on.
pub(crate) fn build_platform(bridge: &dyn Bridge) -> Platform {
    let workers = bridge.workers();
    workers
        .iter()
        .find_map(|worker| worker.platforms.first().cloned())
        .unwrap_or_else(Platform::host)
}

fn is_cancelled(error: &SolveError) -> bool {
    match error {
        SolveError::Cancelled | SolveError::Worker(WorkerError::Cancelled) => true,
        SolveError::Vertex(failed) => matches!(failed.source, WorkerError::Cancelled),
        _ => false,
    }
}

/// A scanner, ready to be run.
#[derive(Debug, Clone)]
pub struct Scanner {
    reference: String,
    image: ImageSource,
    platform: Platform,
    args: Vec<String>,
    cwd: String,
    env: Vec<String>,
    parameters: Vec<String>,
}

/// What a scanner looks at.
#[derive(Debug, Clone, Default)]
pub struct Scanned {
    /// Id of the platform that the result is for.
    pub platform: String,
    /// The result; `None` is scratch.
    pub core: Option<Output>,
    /// What else went into it, by name; `None` is scratch.
    pub extras: BTreeMap<String, Option<Output>>,
    /// Whether it is scanned again, whatever is known.
    pub ignore_cache: bool,
}

impl Scanner {
    /// The definition of the statements about a result, as a directory. What is scanned is in `builder`.
    pub fn scan(&self, builder: &mut Builder, scanned: &Scanned) -> Definition {
        let image = SourceOp::Image(self.image.clone());
        let mut inputs = vec![builder.source(image, Some(&self.platform), OpMetadata::default())];
        let mut mounts = vec![
            Mount {
                input: Some(0),
                ..mount("/", MountKind::Bind)
            },
            Mount {
                output: Some(0),
                ..mount("/run/out", MountKind::Bind)
            },
        ];
        let extras = scanned.extras.iter();
        let extras = extras.map(|(name, output)| (format!("/run/src/extras/{CORE}-{name}"), *output));
        for (dest, output) in std::iter::once((format!("/run/src/core/{CORE}"), scanned.core)).chain(extras) {
            let input = output.map(|output| match inputs.iter().position(|known| *known == output) {
                Some(known) => known,
                None => {
                    inputs.push(output);
                    inputs.len() - 1
                }
            });
            mounts.push(Mount {
                input,
                readonly: true,
                ..mount(&dest, MountKind::Bind)
            });
        }
        mounts.push(mount("/tmp", MountKind::Tmpfs { size: 0 }));
        let exec = ExecOp {
            args: self.args.clone(),
            env: self.variables(!scanned.extras.is_empty()),
            cwd: self.cwd.clone(),
            remove_mount_stubs_recursive: true,
            mounts,
            ..ExecOp::default()
        };
        let title = format!("[{}] generating sbom using {}", scanned.platform, self.reference);
        let metadata = OpMetadata {
            ignore_cache: scanned.ignore_cache,
            ..OpMetadata::named(title)
        };
        let output = builder.exec(exec, &inputs, Some(&self.platform), metadata);
        builder.finish(output)
    }

    fn variables(&self, has_extras: bool) -> Vec<String> {
        let mut env = EnvEntries(self.env.clone());
        env.set("BUILDKIT_SCAN_DESTINATION=/run/out/");
        env.set(&format!("BUILDKIT_SCAN_SOURCE=/run/src/core/{CORE}"));
        if has_extras {
            env.set("BUILDKIT_SCAN_SOURCE_EXTRAS=/run/src/extras");
        }
        for parameter in &self.parameters {
            env.set(parameter);
        }
        env.0
    }
}

/// Entries of the form `NAME=value`, each name once.
struct EnvEntries(Vec<String>);

impl EnvEntries {
    fn set(&mut self, entry: &str) {
        let name = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
        let wanted = name(entry);
        match self.0.iter_mut().find(|known| name(known) == wanted) {
            Some(known) => entry.clone_into(known),
            None => self.0.push(entry.to_owned()),
        }
    }
}

fn mount(dest: &str, kind: MountKind) -> Mount {
    Mount {
        dest: dest.to_owned(),
        input: None,
        selector: String::new(),
        readonly: false,
        output: None,
        kind,
        content_cache: ContentCache::Default,
    }
}

/// The statements that a scan made, in the form in which they go with the result.
pub fn attestation(scan: Option<BridgeRef>) -> Attestation<Option<BridgeRef>> {
    let statements = Attestation::new(SPDX, "", scan)
        .with_metadata(REASON, KIND)
        .with_metadata(SBOM_CORE, CORE);
    Attestation {
        kind: AttestationKind::Bundle,
        ..statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(options: &[(&str, &str)]) -> Result<Option<Generator>, String> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Generator::asked(&options.collect())
    }

    #[test]
    fn scanners_are_asked_for_in_two_ways() {
        assert_eq!(
            asked(&[("attest:provenance", "mode=max"), ("platform", "x")]).unwrap(),
            None
        );
        for value in ["", "true", "false", "a=b"] {
            let generator = asked(&[("build-arg:BUILDKIT_ATTEST_SBOM", value)]).unwrap().unwrap();
            assert_eq!(
                generator.reference.to_string(),
                "docker.io/docker/buildkit-syft-scanner:stable-1"
            );
        }
        let both = [
            (
                "attest:sbom",
                "type=sbom,generator=h:1/scan,disabled=false,\"a=b,c\",d,e=f=g",
            ),
            ("build-arg:BUILDKIT_ATTEST_SBOM", "generator=other"),
        ];
        let generator = asked(&both).unwrap().unwrap();
        assert_eq!(generator.reference.to_string(), "h:1/scan:latest");
        let parameters: Vec<_> = generator.parameters.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(parameters, [("a", "b,c"), ("d", ""), ("e", "f=g")]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (key, value, want) in [
            ("attest:foo", "", "unknown attestation type \"foo\""),
            ("build-arg:BUILDKIT_ATTEST_FOO", "x", "unknown attestation type \"foo\""),
            ("attest:sbom", "generator=", "sbom generator cannot be empty"),
            ("attest:sbom", "a=b,generator", "sbom generator cannot be empty"),
            (
                "attest:sbom",
                "generator=h.io/A",
                "failed to parse sbom generator h.io/A: invalid reference format: repository name (A) must be lowercase",
            ),
            (
                "attest:sbom",
                "a\"b",
                "failed to parse sbom: parse error on line 1, column 2: bare \" in non-quoted-field",
            ),
            (
                "attest:provenance",
                "\"",
                "failed to parse provenance: parse error on line 1, column 2: extraneous or missing \" in quoted-field",
            ),
        ] {
            assert_eq!(asked(&[(key, value)]).unwrap_err(), want, "{key}={value}");
        }
    }

    #[test]
    fn variables_of_the_image_do_not_hide_where_to_look() {
        let mut env = EnvEntries(vec!["A=1".to_owned(), "BUILDKIT_SCAN_SOURCE=/etc".to_owned()]);
        env.set("BUILDKIT_SCAN_SOURCE=/run");
        env.set("B=");
        assert_eq!(env.0, ["A=1", "BUILDKIT_SCAN_SOURCE=/run", "B="]);
    }
}
