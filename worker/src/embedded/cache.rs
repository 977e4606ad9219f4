//! Caches in registries, in clients' directories, and inside images.

mod export;
mod import;
mod records;

use std::collections::BTreeMap;
use std::fmt::Display;

use cairn_solver::worker::WorkerError;

use super::EmbeddedWorker;
use super::export::not_a_flag;
use super::image::parse_reference;
use crate::layer::BlobOrigin;
use crate::registry::Reference;
use crate::service::{CacheExporter, CacheImporter, CacheRequest};

pub(super) use records::inline_records;

/// Kinds of caches that other daemons of this API have.
const ELSEWHERE: &[&str] = &["s3", "azblob", "gha", "gcs"];

/// What takes from caches, as clients know it.
const IMPORTER: &str = "importer";

/// Where a cache is.
#[derive(Clone, Debug)]
enum Place {
    /// Under a name in a registry.
    Registry { reference: Reference, is_insecure: bool },
    /// In a directory of the client.
    Directory { dir: String },
}

impl Place {
    /// What to remember of where its layers are.
    fn origin(&self) -> BlobOrigin {
        match self {
            Self::Registry { reference, is_insecure } => BlobOrigin::Registry {
                reference: reference.to_string(),
                insecure: *is_insecure,
            },
            Self::Directory { dir } => BlobOrigin::Client {
                store: cairn_session::content::cache_store(dir),
            },
        }
    }
}

/// Sets up the importer that a request names.
pub(super) fn importer(worker: &EmbeddedWorker, request: &CacheRequest) -> Result<Box<dyn CacheImporter>, WorkerError> {
    let attrs = Attrs::new(IMPORTER, request);
    let place = attrs.place("src")?;
    Ok(Box::new(import::Importer::new(worker, place, &attrs)?))
}

/// Sets up the exporter that a request names.
pub(super) fn exporter(worker: &EmbeddedWorker, request: &CacheRequest) -> Result<Box<dyn CacheExporter>, WorkerError> {
    let attrs = Attrs::new("exporter", request);
    let place = attrs.place("dest")?;
    Ok(Box::new(export::Exporter::new(worker, place, &attrs)?))
}

/// The settings of a cache.
struct Attrs<'a> {
    /// `importer` or `exporter`.
    role: &'static str,
    kind: &'a str,
    attrs: &'a BTreeMap<String, String>,
}

impl<'a> Attrs<'a> {
    fn new(role: &'static str, request: &'a CacheRequest) -> Self {
        Self {
            role,
            kind: &request.kind,
            attrs: &request.attrs,
        }
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.attrs.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn required(&self, key: &str) -> Result<&'a str, WorkerError> {
        self.get(key).ok_or_else(|| {
            let (kind, role) = (self.kind, self.role);
            WorkerError::Invalid(format!("{kind} cache {role} requires {key}"))
        })
    }

    fn invalid(&self, key: &str, expected: &str) -> WorkerError {
        let value = self.attrs.get(key).map(String::as_str).unwrap_or_default();
        self.error(format!("{key}={value:?}: {expected}"))
    }

    /// An error about settings, in words that clients know.
    fn error(&self, text: impl Display) -> WorkerError {
        let (kind, role) = (self.kind, self.role);
        WorkerError::Invalid(format!("failed to configure {kind} cache {role}: {text}"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, WorkerError> {
        match self.attrs.get(key).map(String::as_str) {
            None => Ok(default),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(value) if key == "force-compression" => Err(self.error(not_a_flag(key, value))),
            Some(value) => Err(self.error(format!("failed to parse {key}: {value:?}: expected true or false"))),
        }
    }

    /// The place; `dir` is the setting with the directory of a local one.
    fn place(&self, dir: &str) -> Result<Place, WorkerError> {
        match self.kind {
            "registry" => Ok(Place::Registry {
                reference: parse_reference(self.required("ref")?).map_err(|error| self.error(error))?,
                is_insecure: self.flag("registry.insecure", false)?,
            }),
            "local" => Ok(Place::Directory {
                dir: self.required(dir)?.to_owned(),
            }),
            kind if ELSEWHERE.contains(&kind) => Err(WorkerError::Unsupported(format!(
                "caches of type {kind:?} are not supported by this daemon yet: use registry, local or inline"
            ))),
            // Each as it is known to clients.
            kind if self.role == IMPORTER => Err(WorkerError::Invalid(format!("unknown cache importer: {kind}"))),
            kind => Err(WorkerError::Invalid(format!("unknown cache {}: {kind:?}", self.role))),
        }
    }
}
