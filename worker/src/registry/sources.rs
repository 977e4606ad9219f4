//! Which repositories are known to have a blob, and from which of them to take it.

use cairn_solver::Digest;

use super::Reference;
use crate::content::ContentStore;

/// Repositories that a registry is asked to take one blob from, one after another, before it is sent.
const MAX_MOUNTS: usize = 3;

/// Remembers that the reference's repository has a blob. What cannot be remembered is only sent once more.
pub(super) async fn note(reference: &Reference, digest: Digest, store: &ContentStore) {
    let (store, reference) = (store.clone(), reference.clone());
    let noting =
        tokio::task::spawn_blocking(move || store.note_source(&digest, reference.registry(), reference.repository()));
    match noting.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, %digest, "it is not remembered where a blob is"),
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// The repositories of the reference's registry to mount a blob from: `known` ones and those that are remembered, the
/// most similar names first, since whoever may push to one repository can most likely read its neighbours.
pub(super) async fn candidates(
    reference: &Reference,
    digest: Digest,
    store: &ContentStore,
    known: &[String],
) -> Vec<String> {
    let (store, registry) = (store.clone(), reference.registry().to_owned());
    let remembered = match tokio::task::spawn_blocking(move || store.sources(&digest, &registry)).await {
        Ok(Ok(remembered)) => remembered,
        Ok(Err(error)) => {
            tracing::debug!(%error, %digest, "it is not remembered where a blob is");
            Vec::new()
        }
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    };
    nearest(reference.repository(), known.iter().cloned().chain(remembered))
}

/// The first few of `repositories` by how much of their path they share with `target`, each once.
fn nearest(target: &str, repositories: impl Iterator<Item = String>) -> Vec<String> {
    let mut nearest: Vec<String> = Vec::new();
    for repository in repositories {
        if repository != target && !nearest.contains(&repository) {
            nearest.push(repository);
        }
    }
    let shared = |repository: &str| {
        let components = repository.split('/').zip(target.split('/'));
        components.take_while(|(theirs, ours)| theirs == ours).count()
    };
    nearest.sort_by_key(|repository| std::cmp::Reverse(shared(repository)));
    nearest.truncate(MAX_MOUNTS);
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_asked_first_and_few() {
        for (target, known, expected) in [
            ("a/b/c", vec!["x", "a/x", "a/b/x", "a/y"], vec!["a/b/x", "a/x", "a/y"]),
            ("a/b", vec!["x", "a/b", "y", "x"], vec!["x", "y"]),
            ("a", vec![], vec![]),
        ] {
            let nearest = nearest(target, known.into_iter().map(str::to_owned));
            assert_eq!(nearest, expected, "{target}");
        }
    }
}
