//! What frontends were asked for in one build, and what they asked for in turn: statements about results say so.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::frontend::{FrontendRequest, FrontendResult};
use crate::llb::{Definition, VertexDigest};
use crate::worker::ImageQuery;
use crate::{Digest, Platform};

/// A frontend that was called.
#[derive(Clone, Debug)]
pub struct FrontendCall {
    /// Its name.
    pub frontend: String,
    /// What it was asked for.
    pub request: FrontendRequest,
}

/// An image name that was resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedName {
    /// The name, as it was asked for.
    pub reference: String,
    /// The platform, if one was asked for.
    pub platform: Option<Platform>,
    /// Whether it is in a client's OCI layout.
    pub is_layout: bool,
    /// What it stands for.
    pub digest: Digest,
}

/// What was asked for on all bridges onto one build.
#[derive(Debug, Default)]
pub struct Trace(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    names: Vec<ResolvedName>,
    built: Vec<(String, Arc<Definition>)>,
    /// By result: the frontend that made it, then those that passed it on.
    calls: HashMap<String, Vec<Arc<FrontendCall>>>,
    /// The frontends that made what definitions ask for.
    makers: HashMap<(VertexDigest, usize), Arc<FrontendCall>>,
}

impl Trace {
    /// Image names that were resolved for frontends, in the order in which they were.
    pub fn names(&self) -> Vec<ResolvedName> {
        self.0.lock().names.clone()
    }

    /// Results that were made, or begun to be made, by their ids.
    pub fn results(&self) -> Vec<(String, Arc<Definition>)> {
        self.0.lock().built.clone()
    }

    /// The frontend that made the result called `id`, and then those that had called it to do so. Empty if no frontend
    /// made it.
    pub fn calls(&self, id: &str) -> Vec<Arc<FrontendCall>> {
        self.0.lock().calls.get(id).cloned().unwrap_or_default()
    }

    /// The frontend that made, in the same build, what a definition asks for.
    pub fn maker(&self, definition: &Definition) -> Option<Arc<FrontendCall>> {
        self.0.lock().makers.get(&definition.target()?).cloned()
    }

    pub(super) fn resolved(&self, query: &ImageQuery, digest: &Digest) {
        let is_layout = query.layout.is_some();
        let names = &mut self.0.lock().names;
        // Asked again, an image is what it was.
        let is_known = names.iter().any(|name| {
            name.is_layout == is_layout && name.reference == query.reference && name.platform == query.platform
        });
        if !is_known {
            names.push(ResolvedName {
                reference: query.reference.clone(),
                platform: query.platform.clone(),
                is_layout,
                digest: *digest,
            });
        }
    }

    pub(super) fn built(&self, id: &str, definition: &Arc<Definition>) {
        self.0.lock().built.push((id.to_owned(), definition.clone()));
    }

    pub(super) fn answered(&self, call: FrontendCall, result: &FrontendResult) {
        let call = Arc::new(call);
        let mut asked = self.0.lock();
        for reference in result.references() {
            let calls = asked.calls.entry(reference.id.clone()).or_default();
            calls.push(call.clone());
            if let Some(target) = reference.definition.target() {
                asked.makers.entry(target).or_insert_with(|| call.clone());
            }
        }
    }
}
