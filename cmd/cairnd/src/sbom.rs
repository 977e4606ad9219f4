//! Bills of materials for results whose frontend made none: definitions of clients, and frontends from images.

use std::collections::BTreeMap;

use cairn_dockerfile::sbom::{self, Generator, Scanned, Scanner};
use cairn_proto::control::SolveRequest;
use cairn_solver::llb::{Builder, ResolveMode};
use cairn_solver::{Attestation, Bridge as _, BridgeRef, FrontendRefs, FrontendResult, SolveError};

use crate::failure::Failure;
use crate::jobs::Job;
use crate::result_platforms::{listed, unlisted};

/// What the options of a request ask for.
///
/// # Errors
/// If they ask for it in a way that makes no sense.
pub(crate) fn asked(options: &BTreeMap<String, String>) -> Result<Option<Generator>, Failure> {
    Generator::asked(options).map_err(Failure::unknown)
}

/// Adds the bills of materials that `request` asks for to a result that comes without any.
pub(crate) async fn complete(
    job: &Job,
    request: &SolveRequest,
    mut result: FrontendResult,
) -> Result<FrontendResult, Failure> {
    let options = &request.frontend_attrs;
    let Some(generator) = asked(options)? else {
        return Ok(result);
    };
    let results = results(&result)?;
    if has_some(&result) || results.is_empty() {
        return Ok(result);
    }
    let mode = match options.get("image-resolve-mode").map(String::as_str) {
        Some("pull") => ResolveMode::Pull,
        Some("local") => ResolveMode::Local,
        _ => ResolveMode::Default,
    };
    let scanner = generator.resolve(job.bridge.as_ref(), mode).await?;
    // Which stages an option means that names some, only a frontend knows.
    let ignore_cache = options.get("no-cache").is_some_and(String::is_empty);
    for (platform, reference) in results {
        let statements = scan(job, &scanner, platform.clone(), &reference, ignore_cache).await?;
        result.attestations.entry(platform).or_default().push(statements);
    }
    Ok(result)
}

async fn scan(
    job: &Job,
    scanner: &Scanner,
    platform: String,
    reference: &BridgeRef,
    ignore_cache: bool,
) -> Result<Attestation<Option<BridgeRef>>, SolveError> {
    let mut builder = Builder::new();
    let core = builder.import(&reference.definition)?;
    let scanned = Scanned {
        platform,
        core,
        ignore_cache,
        ..Scanned::default()
    };
    let definition = scanner.scan(&mut builder, &scanned);
    Ok(sbom::attestation(job.bridge.solve(definition).await?))
}

/// Whether there are bills of materials already.
fn has_some(result: &FrontendResult) -> bool {
    let mut statements = result.attestations.values().flatten();
    statements.any(|statement| statement.predicate_type == sbom::SPDX)
}

/// The results that are not scratch, by the ids of their platforms.
fn results(result: &FrontendResult) -> Result<Vec<(String, BridgeRef)>, Failure> {
    match &result.refs {
        FrontendRefs::Single(None) => Ok(Vec::new()),
        FrontendRefs::Single(Some(reference)) => {
            let first = listed(&result.metadata)?.and_then(|listed| listed.into_iter().next());
            let id = match first {
                Some(listed) => listed.id,
                None => unlisted(&result.metadata).to_string(),
            };
            Ok(vec![(id, reference.clone())])
        }
        FrontendRefs::Platforms(refs) => {
            let refs = refs.iter();
            Ok(refs
                .filter_map(|(id, reference)| Some((id.clone(), reference.clone()?)))
                .collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use cairn_solver::Platform;
    use cairn_solver::llb::Definition;

    use super::*;
    use crate::result_platforms::PLATFORMS;

    fn reference(id: &str) -> BridgeRef {
        BridgeRef {
            id: id.to_owned(),
            definition: Arc::new(Definition::default()),
        }
    }

    #[test]
    fn results_are_known_by_their_platforms() {
        let ids = |refs: FrontendRefs, listed: Option<&'static str>| {
            let listed = listed.map(|json| (PLATFORMS.to_owned(), Bytes::from_static(json.as_bytes())));
            let result = FrontendResult {
                refs,
                metadata: listed.into_iter().collect(),
                ..FrontendResult::default()
            };
            let found = results(&result).map_err(|failure| failure.message().to_owned())?;
            Ok::<_, String>(found.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
        };
        let one = || FrontendRefs::Single(Some(reference("a")));
        assert_eq!(ids(one(), None).unwrap(), [Platform::host().to_string()]);
        let listed = Some(r#"{"Platforms":[{"ID":"linux/s390x","Platform":{"architecture":"s390x","os":"linux"}}]}"#);
        assert_eq!(ids(one(), listed).unwrap(), ["linux/s390x"]);
        assert_eq!(ids(FrontendRefs::Single(None), listed).unwrap(), <[&str; 0]>::default());
        assert!(ids(one(), Some("[")).unwrap_err().contains("failed to parse platforms"));
        let two = [("linux/amd64", Some(reference("a"))), ("linux/arm64", None)];
        let two = two.map(|(id, reference)| (id.to_owned(), reference));
        assert_eq!(
            ids(FrontendRefs::Platforms(two.into()), listed).unwrap(),
            ["linux/amd64"]
        );
    }

    #[test]
    fn bills_of_materials_are_known_by_what_they_state() {
        let mut result = FrontendResult::default();
        let other = Attestation::new("https://slsa.dev/provenance/v1", "p.json", None);
        let statements = result.attestations.entry("linux/amd64".to_owned()).or_default();
        statements.push(other);
        assert!(!has_some(&result));
        let statements = result.attestations.entry("linux/arm64".to_owned()).or_default();
        statements.push(sbom::attestation(None));
        assert!(has_some(&result));
    }
}
