//! Asking several servers one after another.

use super::Reference;
use super::error::RegistryError;

/// What the servers asked so far have said.
pub(super) struct Attempts {
    reference: String,
    errors: Vec<RegistryError>,
}

impl Attempts {
    pub(super) fn new(reference: &Reference) -> Self {
        Self {
            reference: reference.to_string(),
            errors: Vec::new(),
        }
    }

    /// Takes a server's answer. `Some` is the end of it; `None` says to ask the next.
    pub(super) fn settle<T>(&mut self, answer: Result<T, RegistryError>) -> Option<Result<T, RegistryError>> {
        match answer {
            Ok(answer) => Some(Ok(answer)),
            // The store is ours: no other server helps.
            Err(error @ RegistryError::Content { .. }) => Some(Err(error)),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// The error when nobody could help.
    pub(super) fn into_error(mut self) -> RegistryError {
        if self.errors.len() == 1 {
            return self.errors.remove(0);
        }
        // A server that could not be reached says nothing against one that answered.
        let is_missing = self.errors.iter().any(RegistryError::is_not_found)
            && self
                .errors
                .iter()
                .all(|error| error.is_not_found() || error.is_unreachable());
        if is_missing {
            let hosts = self.errors.into_iter().flat_map(|error| match error {
                RegistryError::NotFound { hosts, .. } => hosts,
                _ => Vec::new(),
            });
            return RegistryError::NotFound {
                reference: self.reference,
                hosts: hosts.collect(),
            };
        }
        RegistryError::AllFailed {
            reference: self.reference,
            attempts: self.errors,
        }
    }
}

/// Each item, and whether it is the last.
pub(super) fn marking_last<T>(items: &[T]) -> impl Iterator<Item = (&T, bool)> {
    items.iter().enumerate().map(|(i, item)| (item, i + 1 == items.len()))
}
