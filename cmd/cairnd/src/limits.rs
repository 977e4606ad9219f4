//! How much one Solve call may ask for. The size of its message is bounded; what each part of it costs is not the same.

use cairn_proto::control::{CacheOptions, SolveRequest};
use tonic::Code;

use crate::failure::Failure;

/// Longest id of a build, in bytes.
pub(crate) const MAX_ID: usize = 256;
/// Most outputs of one build.
const MAX_EXPORTERS: usize = 64;
/// Most caches that one build may import, or export.
const MAX_CACHES: usize = 64;

/// Refuses what no client means.
///
/// # Errors
/// That it is an invalid argument, and which.
pub(crate) fn check(request: &SolveRequest) -> Result<(), Failure> {
    let invalid = |message: String| Err(Failure::new(Code::InvalidArgument, message));
    let id = &request.r#ref;
    if id.is_empty() {
        return invalid("a build needs an id".to_owned());
    }
    // It stands in logs and tables.
    if id.len() > MAX_ID || id.chars().any(char::is_control) {
        return invalid(format!(
            "the id of a build has at most {MAX_ID} bytes, none of them control characters"
        ));
    }
    let caches = |count: fn(&CacheOptions) -> usize| request.cache.as_ref().map_or(0, count);
    for (what, count, most) in [
        ("exporters", request.exporters.len(), MAX_EXPORTERS),
        ("cache exports", caches(|cache| cache.exports.len()), MAX_CACHES),
        (
            "cache imports",
            caches(|cache| cache.imports.len() + cache.import_refs_deprecated.len()),
            MAX_CACHES,
        ),
    ] {
        if count > most {
            return invalid(format!("{count} {what}: one build can have at most {most}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cairn_proto::control::{CacheOptionsEntry, Exporter};

    use super::*;

    #[test]
    fn what_no_client_means_is_refused() {
        let named = |id: &str| SolveRequest {
            r#ref: id.to_owned(),
            ..SolveRequest::default()
        };
        let exporters = |count| SolveRequest {
            exporters: vec![Exporter::default(); count],
            ..named("a")
        };
        let caches = |cache| SolveRequest {
            cache: Some(cache),
            ..named("a")
        };
        let entries = |count| vec![CacheOptionsEntry::default(); count];
        let imports = |count| CacheOptions {
            imports: entries(count),
            ..CacheOptions::default()
        };
        let exports = CacheOptions {
            exports: entries(MAX_CACHES + 1),
            ..CacheOptions::default()
        };
        let old = CacheOptions {
            import_refs_deprecated: vec![String::new(); MAX_CACHES + 1],
            ..CacheOptions::default()
        };
        for (request, refused) in [
            (named("0123abc"), None),
            (named("käse/1"), None),
            (named(""), Some("needs an id")),
            (named("a\nb"), Some("control characters")),
            (named(&"a".repeat(MAX_ID + 1)), Some("at most 256 bytes")),
            (exporters(MAX_EXPORTERS), None),
            (exporters(MAX_EXPORTERS + 1), Some("65 exporters")),
            (caches(imports(MAX_CACHES)), None),
            (caches(imports(MAX_CACHES + 1)), Some("65 cache imports")),
            (caches(exports), Some("65 cache exports")),
            (caches(old), Some("65 cache imports")),
        ] {
            match (check(&request), refused) {
                (Ok(()), None) => {}
                (Err(failure), Some(text)) => assert!(failure.message().contains(text), "{}", failure.message()),
                (outcome, _) => panic!(
                    "{:?}: {:?}",
                    request.r#ref,
                    outcome.err().map(|failure| failure.message().to_owned())
                ),
            }
        }
    }
}
