//! Which clients a piece of work may ask.

use std::sync::Arc;

use parking_lot::RwLock;

/// Ids of the sessions behind a piece of work, oldest interest first.
///
/// Work shared by several builds can ask any of their clients; a build that joins adds its own. Cheap to clone, and
/// clones see later additions.
#[derive(Clone, Debug, Default)]
pub struct SessionGroup(Arc<RwLock<Vec<String>>>);

impl SessionGroup {
    /// A group of one session, or of none if `id` is empty.
    pub fn of(id: &str) -> Self {
        let group = Self::default();
        group.add(id);
        group
    }

    /// Adds a session.
    pub fn add(&self, id: &str) {
        let mut ids = self.0.write();
        if !id.is_empty() && !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }

    /// Adds all sessions of another group.
    pub fn join(&self, other: &Self) {
        if !Arc::ptr_eq(&self.0, &other.0) {
            for id in other.ids() {
                self.add(&id);
            }
        }
    }

    /// The sessions right now.
    pub fn ids(&self) -> Vec<String> {
        self.0.read().clone()
    }
}
