//! The options of a request, understood and checked.

mod run;

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_solver::Platform;
use cairn_solver::llb::{Definition, ResolveMode};

use crate::checks::CheckConfig;
use crate::gofmt;
use crate::platform;
use crate::sbom::Generator;
use crate::subrequest::Subrequest;

use run::RunOptions;

/// What a build is asked for, besides the Dockerfile.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// `filename`
    pub(crate) filename: String,
    /// `target`; empty for the last stage.
    pub(crate) target: String,
    /// `build-arg:*`
    pub(crate) build_args: BTreeMap<String, String>,
    /// `label:*`
    pub(crate) labels: BTreeMap<String, String>,
    /// `platform`; empty if none was asked for.
    pub(crate) platforms: Vec<Platform>,
    /// Whether the client lists several, even if they are the same.
    pub(crate) lists_platforms: bool,
    /// Whether results are keyed by platform.
    pub(crate) multi_platform: bool,
    /// Stages that are built anew.
    pub(crate) no_cache: NoCache,
    /// `context:*`
    pub(crate) contexts: BTreeMap<String, String>,
    /// The remote build context: `context`, or the option that `contextkey` names; empty for none.
    pub(crate) context: String,
    /// `contextsubdir`; empty for all of the context.
    pub(crate) context_subdir: String,
    /// `input-metadata:*`
    pub(crate) input_metadata: BTreeMap<String, String>,
    /// Definitions that came with the request, by their names.
    pub(crate) inputs: BTreeMap<String, Arc<Definition>>,
    /// `local-sessionid:*`
    pub(crate) local_sessions: BTreeMap<String, String>,
    /// `sharedkey:localdir:*`
    pub(crate) shared_keys: BTreeMap<String, String>,
    /// `dockerfilekey`; the client's directory with the Dockerfile.
    pub(crate) dockerfile_local: String,
    /// Whether the Dockerfile is in that directory whatever the context is.
    pub(crate) forces_local_dockerfile: bool,
    /// `image-resolve-mode`
    pub(crate) resolve_mode: ResolveMode,
    /// `cmdline`: the `syntax` directive has been dealt with.
    pub(crate) has_cmdline: bool,
    /// Whether it asks for the edition of the language with things that are being tried out.
    pub(crate) is_labs: bool,
    /// `requestid`: something else than a build.
    pub(crate) request: Option<String>,
    /// What `frontend.caps` asks for that is not there.
    pub(crate) missing_caps: Vec<MissingCap>,
    /// Which checks count, if the build says so: this replaces what the file says.
    pub(crate) checks: Option<CheckConfig>,
    /// What applies to every `RUN`.
    pub(crate) run: RunOptions,
    /// `attest:sbom`: what is to look into the results.
    pub(crate) generator: Option<Generator>,
    /// Options that mean nothing here. Clients that are newer than this may send some, and others take no notice of
    /// them; so the client is told, and the build goes on.
    pub(crate) unknown: Vec<String>,
}

/// A capability that this frontend does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingCap {
    pub(crate) name: String,
    /// Whether the frontend that the file asks for may have it.
    pub(crate) may_be_elsewhere: bool,
}

/// Stages that are built anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum NoCache {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those of these names, lower-case.
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether the stage `name` is built anew.
    pub(crate) fn covers(&self, name: Option<&str>) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Stages(names) => name.is_some_and(|name| names.iter().any(|known| known == name)),
        }
    }
}

impl Options {
    /// Understands the options of a request. `host` is the platform that is built on.
    ///
    /// # Errors
    /// The first option that is wrong or not supported, by its name.
    pub(crate) fn parse(options: &BTreeMap<String, String>, host: &Platform) -> Result<Self, String> {
        let mut parsed = Self {
            filename: "Dockerfile".to_owned(),
            dockerfile_local: "dockerfile".to_owned(),
            ..Self::default()
        };
        let context = options.get("contextkey").map_or("context", String::as_str);
        if let Some(value) = options.get(context) {
            parsed.context.clone_from(value);
        }
        for (key, value) in options.iter().filter(|(key, _)| *key != context) {
            match key.split_once(':') {
                Some((group, name)) => parsed.grouped(group, name, value)?,
                None => parsed.single(key, value, host)?,
            }
        }
        parsed.generator = Generator::asked(options)?;
        parsed.settle(options.get("multi-platform"))?;
        Ok(parsed)
    }

    fn single(&mut self, key: &str, value: &str, host: &Platform) -> Result<(), String> {
        match key {
            "filename" if value.is_empty() => {}
            "filename" => self.filename = value.to_owned(),
            "target" => self.target = value.to_owned(),
            "platform" => {
                self.platforms = platforms(value, host)?;
                self.lists_platforms = value.contains(',');
            }
            "no-cache" => self.no_cache = no_cache(value),
            "dockerfilekey" => {
                self.dockerfile_local = value.to_owned();
                self.forces_local_dockerfile = true;
            }
            // What they say has been taken already, or is of another option.
            "context" | "contextkey" => {}
            "contextsubdir" => self.context_subdir = value.to_owned(),
            "image-resolve-mode" => self.resolve_mode = resolve_mode(value)?,
            "cmdline" => {
                self.has_cmdline = true;
                self.is_labs = is_labs(value);
            }
            "frontend.caps" => self.missing_caps = missing_caps(value),
            "cache-imports" => check_cache_imports(value)?,
            // Caches to import reach the daemon in the request itself too; the frontend has no part in them.
            "cache-from" => {}
            // Taken together with the build arg of the same meaning, once all are known.
            "multi-platform" => {}
            // Names the frontend, which is this one.
            "source" => {}
            "override-copy-image" => return Err(format!("support for \"{key}\" was removed in BuildKit 0.11")),
            "requestid" => self.request = Some(value.to_owned()),
            _ => {
                if !self.run.set(key, value)? {
                    self.unknown.push(key.to_owned());
                }
            }
        }
        Ok(())
    }

    fn grouped(&mut self, group: &str, name: &str, value: &str) -> Result<(), String> {
        let map = match group {
            "build-arg" => &mut self.build_args,
            "label" => &mut self.labels,
            "context" => &mut self.contexts,
            "local-sessionid" => &mut self.local_sessions,
            "sharedkey" => {
                match name.strip_prefix("localdir:") {
                    Some(local) => drop(self.shared_keys.insert(local.to_owned(), value.to_owned())),
                    None => self.unknown.push(format!("{group}:{name}")),
                }
                return Ok(());
            }
            // The daemon makes provenance, from what it sees; where files come from is recorded there as well.
            "vcs" | "verifier" => return Ok(()),
            "input-metadata" => &mut self.input_metadata,
            // Taken together with the build arguments of the same meaning.
            "attest" => return Ok(()),
            _ => {
                self.unknown.push(format!("{group}:{name}"));
                return Ok(());
            }
        };
        map.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// What is asked for instead of a build, if it is known.
    pub(crate) fn subrequest(&self) -> Option<Subrequest> {
        Subrequest::from_id(self.request.as_deref()?)
    }

    /// The scanner that looks into what is built, if something is built.
    pub(crate) fn scanner(&self) -> Option<&Generator> {
        self.generator.as_ref().filter(|_| self.request.is_none())
    }

    /// Whether every stage of the file is of interest, and not only what the target needs.
    pub(crate) fn wants_all_stages(&self) -> bool {
        self.target.is_empty() && self.subrequest() == Some(Subrequest::Lint)
    }

    /// Settles what several options decide together.
    fn settle(&mut self, multi_platform: Option<&String>) -> Result<(), String> {
        let several = self.lists_platforms;
        let asked = self.build_args.get("BUILDKIT_MULTI_PLATFORM").or(multi_platform);
        let asked = match asked {
            Some(value) => Some(
                gofmt::parse_bool(value).ok_or_else(|| format!("invalid boolean value for multi-platform: {value}"))?,
            ),
            None => None,
        };
        if several && asked == Some(false) {
            return Err("conflicting config: returning multiple target platforms is not allowed".to_owned());
        }
        self.multi_platform = several || asked == Some(true);
        if let Some(text) = self.build_args.get("BUILDKIT_DOCKERFILE_CHECK") {
            let failed = |cause| format!("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {cause}");
            self.checks = Some(CheckConfig::parse(text).map_err(failed)?);
        }
        if let Some(hostname) = self.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") {
            self.run.hostname.clone_from(hostname);
        }
        if self
            .build_args
            .get("BUILDKIT_DISABLE_FILEOP")
            .is_some_and(|value| gofmt::parse_bool(value) == Some(true))
        {
            return Err("support for \"BUILDKIT_DISABLE_FILEOP\" build-arg was removed in BuildKit 0.11".to_owned());
        }
        Ok(())
    }
}

/// Whether an image reference means the frontend that this one stands for, of whatever version.
pub fn is_official(reference: &str) -> bool {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
}

/// Whether a `syntax` asks for the edition of the language with things that are being tried out: by a tag such as `labs`
/// or `1.14-labs`.
pub(crate) fn is_labs(syntax: &str) -> bool {
    let image = syntax.split(' ').next().unwrap_or_default();
    let name = image.split('@').next().unwrap_or_default();
    let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
    tag == "labs" || tag.ends_with("-labs")
}

fn platforms(value: &str, host: &Platform) -> Result<Vec<Platform>, String> {
    let mut platforms = Vec::new();
    if value.is_empty() {
        return Ok(platforms);
    }
    for text in value.split(',').map(str::trim) {
        let platform =
            platform::parse(text, host).map_err(|cause| format!("failed to parse target platform {text}: {cause}"))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

fn no_cache(value: &str) -> NoCache {
    match value {
        "" => NoCache::All,
        names => NoCache::Stages(names.split(',').map(|name| name.trim().to_lowercase()).collect()),
    }
}

fn resolve_mode(value: &str) -> Result<ResolveMode, String> {
    match value {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::Pull),
        "local" => Ok(ResolveMode::Local),
        _ => Err(format!("invalid image-resolve-mode: {value}")),
    }
}

/// Capabilities that a client insists on and that are not there.
fn missing_caps(value: &str) -> Vec<MissingCap> {
    const KNOWN: [&str; 4] = [
        "moby.buildkit.frontend.contexts",
        "moby.buildkit.frontend.gitquerystring",
        "moby.buildkit.frontend.inputs",
        "moby.buildkit.frontend.subrequests",
    ];
    let caps = value.split(',').map(str::trim).filter(|cap| !cap.is_empty());
    let missing = caps.filter_map(|cap| {
        let (name, may_be_elsewhere) = match cap.strip_suffix("+forward") {
            Some(name) => (name, true),
            None => (cap, false),
        };
        (!KNOWN.contains(&name)).then(|| MissingCap {
            name: name.to_owned(),
            may_be_elsewhere,
        })
    });
    missing.collect()
}

/// The imports themselves reach the daemon in the request, so only their form matters here.
fn check_cache_imports(value: &str) -> Result<(), String> {
    match serde_json::from_str::<Vec<serde_json::Map<String, serde_json::Value>>>(value) {
        _ if value.is_empty() => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "failed to unmarshal cache-imports ({}): {error}",
            gofmt::quote(value)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Options, String> {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Options::parse(&options, &Platform::new("linux", "amd64", ""))
    }

    #[test]
    fn wrong_options_are_named() {
        for (key, value, want) in [
            ("image-resolve-mode", "x", "invalid image-resolve-mode: x"),
            ("force-network-mode", "x", "invalid netmode x"),
            (
                "add-hosts",
                "a",
                "failed to parse additional hosts: invalid key-value pair a",
            ),
            (
                "add-hosts",
                "a=b",
                "failed to parse additional hosts: failed to parse IP b",
            ),
            (
                "shm-size",
                "x",
                "failed to parse shm size: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "ulimit",
                "nofile",
                "failed to parse ulimit: invalid ulimit argument: nofile",
            ),
            ("ulimit", "foo=1", "failed to parse ulimit: invalid ulimit type: foo"),
            (
                "ulimit",
                "nproc=a:2",
                "failed to parse ulimit: strconv.ParseInt: parsing \"a\": invalid syntax: invalid ulimit argument: nproc=a:2",
            ),
            (
                "ulimit",
                "nproc=1:2:3",
                "failed to parse ulimit: too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
            ),
            (
                "ulimit",
                "nofile=5:1",
                "failed to parse ulimit: ulimit soft limit must be less than or equal to hard limit: 5 > 1",
            ),
            (
                "ulimit",
                "core=-1:1",
                "failed to parse ulimit: ulimit soft limit must be less than or equal to hard limit: -1 > 1",
            ),
            (
                "memory",
                "-1",
                "failed to parse resource limits: invalid memory value: -1: must be > 0",
            ),
            (
                "memswap",
                "-2",
                "failed to parse resource limits: invalid memswap value: -2: must be -1 (unlimited) or > 0",
            ),
            ("attest:foo", "", "unknown attestation type \"foo\""),
            (
                "multi-platform",
                "maybe",
                "invalid boolean value for multi-platform: maybe",
            ),
            (
                "platform",
                "foo",
                "failed to parse target platform foo: \"foo\": unknown operating system or architecture: invalid argument",
            ),
            (
                "platform",
                "linux/amd64,",
                "failed to parse target platform : \"\" is an invalid OS component of \"\": OSAndVersion specifier component \
                 must match \"^([A-Za-z0-9_-]+)(?:\\\\(([A-Za-z0-9_.%-]*)((?:\\\\+[A-Za-z0-9_.%-]+)*)\\\\))?$\": invalid argument",
            ),
            (
                "override-copy-image",
                "x",
                "support for \"override-copy-image\" was removed in BuildKit 0.11",
            ),
        ] {
            assert_eq!(parse(&[(key, value)]).unwrap_err(), want, "{key}={value}");
        }
        let conflict = parse(&[("platform", "linux/amd64,linux/arm64"), ("multi-platform", "false")]);
        assert_eq!(
            conflict.unwrap_err(),
            "conflicting config: returning multiple target platforms is not allowed"
        );
    }

    /// What `docker buildx` and `buildctl` send, and what they may send one day.
    #[test]
    fn options_that_mean_nothing_do_not_fail_a_build() {
        let sent = [
            ("filename", "sub/Dockerfile"),
            ("label:a.b/c", "x:y"),
            ("vcs:source", "https://host/repo"),
            ("vcs:revision", "0123"),
            ("vcs:localdir:context", "."),
            ("attest:provenance", "mode=min,inline-only=true"),
            ("attest:sbom", "generator=host/scanner"),
            ("cache-from", "host/a,host/b"),
            ("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"host/a"}}]"#),
            ("build-arg:BUILDKIT_INLINE_CACHE", "1"),
            ("build-arg:BUILDKIT_BUILD_NAME", "n"),
            ("frontend.caps", "moby.buildkit.frontend.contexts+forward"),
            ("input-metadata:x", "{}"),
            ("local-sessionid:context", "s"),
            ("sharedkey:localdir:context", "k"),
            ("image-resolve-mode", "local"),
            ("force-network-mode", ""),
            ("multi-platform", "true"),
            ("target", ""),
            ("platform", ""),
            ("verifier:x", "y"),
            ("source", "docker/dockerfile:1"),
            ("cmdline", "docker/dockerfile:1"),
        ];
        assert_eq!(parse(&sent).unwrap().unknown, <[&str; 0]>::default());
        let unknown = parse(&[("bogus", "1"), ("bogus:x", "1"), ("sharedkey:y", "z")]).unwrap();
        assert_eq!(unknown.unknown, ["bogus", "bogus:x", "sharedkey:y"]);
    }

    #[test]
    fn capabilities_are_there_or_missing() {
        let caps = "moby.buildkit.frontend.subrequests, moby.buildkit.frontend.contexts+forward,a+forward,b";
        let missing = parse(&[("frontend.caps", caps)]).unwrap().missing_caps;
        let missing: Vec<_> = missing
            .iter()
            .map(|cap| (cap.name.as_str(), cap.may_be_elsewhere))
            .collect();
        assert_eq!(missing, [("a", true), ("b", false)]);
    }

    #[test]
    fn the_official_frontend_is_recognised_in_any_version() {
        for name in [
            "docker/dockerfile:1",
            "docker.io/docker/dockerfile:1.7-labs",
            "docker/dockerfile",
            "docker/dockerfile-upstream:master",
        ] {
            assert!(is_official(name), "{name}");
        }
        assert!(!is_official("docker/dockerfile2:1") && !is_official("quay.io/docker/dockerfile:1"));
    }

    #[test]
    fn labs_are_asked_for_by_a_tag() {
        for (syntax, want) in [
            ("docker/dockerfile:labs", true),
            ("docker/dockerfile:1.14-labs arg", true),
            ("docker/dockerfile-upstream:master-labs@sha256:0", true),
            ("docker/dockerfile:1", false),
            ("docker/dockerfile-labs", false),
            ("docker/dockerfile:1 x-labs", false),
            ("", false),
        ] {
            assert_eq!(is_labs(syntax), want, "{syntax}");
        }
    }

    #[test]
    fn the_context_may_be_in_another_option() {
        let options = parse(&[
            ("context", "https://h/a.git"),
            ("contextsubdir", "d"),
            ("input-metadata:x", "{}"),
        ])
        .unwrap();
        assert_eq!(
            (options.context.as_str(), options.context_subdir.as_str()),
            ("https://h/a.git", "d")
        );
        assert_eq!(
            (options.forces_local_dockerfile, options.input_metadata.len()),
            (false, 1)
        );
        let options = parse(&[
            ("contextkey", "mine"),
            ("mine", "http://h/x"),
            ("context", "other"),
            ("dockerfilekey", "d"),
        ])
        .unwrap();
        assert_eq!((options.context.as_str(), options.unknown.len()), ("http://h/x", 0));
        assert_eq!(
            (options.dockerfile_local.as_str(), options.forces_local_dockerfile),
            ("d", true)
        );
        assert_eq!(parse(&[("contextkey", "mine")]).unwrap().context, "");
    }

    #[test]
    fn options_are_understood() {
        let options = parse(&[
            ("add-hosts", "A=1.2.3.4,b=::1"),
            ("no-cache", "Foo,bar"),
            ("ulimit", "nofile=1:2,core=3"),
            ("build-arg:BUILDKIT_SANDBOX_HOSTNAME", "h"),
            ("platform", "linux/arm64,linux/arm64/v8"),
        ])
        .unwrap();
        assert_eq!(options.run.extra_hosts[0].host, "a");
        assert_eq!(
            options.no_cache,
            NoCache::Stages(vec!["foo".to_owned(), "bar".to_owned()])
        );
        assert_eq!((options.run.ulimits[1].soft, options.run.ulimits[1].hard), (3, 3));
        assert_eq!(options.run.hostname, "h");
        assert_eq!((options.platforms.len(), options.multi_platform), (1, true));
    }
}
