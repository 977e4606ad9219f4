//! What clients ask of an image.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_solver::worker::WorkerError;
use jiff::Timestamp;

use super::super::annotations::Annotations;
use super::super::attrs::{Attrs, not_a_compression, not_a_number};
use super::super::blobs::{BlobOptions, LayerForm, LayerFormat};
use super::super::names::NameRules;
use crate::archive::Times;
use crate::compression::Compression;
use crate::image::{AttestationForm, LayoutKind, MediaTypes};

/// Settings that exporters of images know. What else clients send is added to the frontend's metadata.
const KNOWN: [&str; 21] = [
    "name",
    "push",
    "push-by-digest",
    "registry.insecure",
    "unpack",
    "store",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "name-canonical",
    "oci-mediatypes",
    "oci-artifact",
    "attestation-inline",
    "compression",
    "compression-level",
    "force-compression",
    "prefer-nondist-layers",
    "rewrite-timestamp",
    "source-date-epoch",
    "tar",
    "dest",
    // What is not pushed is complete, and what is pushed may lack layers that its registry has.
    "unsafe-internal-store-allow-incomplete",
];

/// Where an image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// The local store, and registries.
    Store,
    /// A tar file of the client.
    File(LayoutKind),
    /// A content store of the client.
    Blobs(LayoutKind),
}

impl Destination {
    /// The form in which it goes to the client.
    pub(super) const fn layout(self) -> Option<LayoutKind> {
        match self {
            Self::Store => None,
            Self::File(kind) | Self::Blobs(kind) => Some(kind),
        }
    }
}

/// What is done with an image in the local store and at registries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreSettings {
    pub(super) is_stored: bool,
    pub(super) is_unpacked: bool,
    pub(super) is_pushed: bool,
    pub(super) by_digest: bool,
    pub(super) is_insecure: bool,
}

/// The settings of an exporter of images.
#[derive(Clone, Debug)]
pub(in crate::embedded::export) struct Settings {
    pub(super) destination: Destination,
    pub(super) store: StoreSettings,
    pub(super) names: NameRules,
    pub(super) media_types: MediaTypes,
    pub(super) attestation_form: AttestationForm,
    /// Whether attestations come along that are only for images.
    pub(super) with_inline_only: bool,
    /// Whether they stay out of an index that there is anyway: that has to be asked for.
    pub(super) without_inline_only: bool,
    pub(super) blobs: BlobOptions,
    /// Whether times in layers are bounded by the epoch.
    pub(super) rewrites_times: bool,
    pub(super) epoch: Option<Timestamp>,
    pub(super) annotations: Annotations,
    /// What is added to the frontend's metadata.
    pub(super) metadata: BTreeMap<String, Bytes>,
    /// What is done otherwise than asked for.
    pub(super) notes: Vec<String>,
}

impl Settings {
    /// Whether layers may be missing here that are at the registries the image is pushed to: whoever asks for it by a
    /// name gets them there, unless that is a name which only this daemon knows.
    pub(super) fn may_be_incomplete(&self) -> bool {
        let is_complete = self.store.is_stored && self.names.are_made_up();
        self.destination == Destination::Store && self.store.is_pushed && !is_complete
    }

    pub(in crate::embedded::export) fn new(kind: &str, attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        let destination = destination(kind, attrs)?;
        let is_image = destination == Destination::Store;
        let mut notes = Vec::new();
        let format = format(attrs)?;
        let mut is_oci = attrs.flag("oci-mediatypes", true)? || destination.layout() == Some(LayoutKind::Oci);
        let needs_oci = matches!(format, LayerFormat::Estargz | LayerFormat::Tar(Compression::Zstd));
        let is_artifact = attrs.flag("oci-artifact", true)?;
        if is_artifact && !is_oci && attrs.get("oci-artifact").is_some() {
            return Err(attrs.invalid("oci-artifact", "needs oci-mediatypes=true"));
        }
        if needs_oci && !is_oci {
            let name = attrs.get("compression").unwrap_or_default();
            notes.push(format!("using OCI media types: Docker's have no name for {name}"));
            is_oci = true;
        }
        let (mut annotations, mut metadata) = (Annotations::default(), BTreeMap::new());
        for (key, value) in attrs.iter() {
            let taken = annotations.take(key, value);
            let is_annotation = taken.map_err(|error| WorkerError::Invalid(format!("{kind} exporter: {error}")))?;
            if !is_annotation && !KNOWN.contains(&key) {
                metadata.insert(key.to_owned(), Bytes::copy_from_slice(value.as_bytes()));
            }
        }
        let store = store_settings(attrs)?;
        let rewrites_times = attrs.flag("rewrite-timestamp", false)?;
        if store.is_unpacked && rewrites_times {
            return Err(attrs.error("exporter option \"rewrite-timestamp\" conflicts with \"unpack\""));
        }
        let names = NameRules::new(attrs)?;
        if store.is_pushed && names.is_empty() {
            return Err(attrs.invalid("push", "a name is needed to push to"));
        }
        if store.is_pushed && store.by_digest {
            names.expect_plain()?;
        }
        Ok(Self {
            destination,
            store,
            names,
            media_types: if is_oci { MediaTypes::Oci } else { MediaTypes::Docker },
            attestation_form: if is_artifact {
                AttestationForm::Artifact
            } else {
                AttestationForm::Image
            },
            with_inline_only: attrs.flag("attestation-inline", is_image)?,
            without_inline_only: !attrs.flag("attestation-inline", true)?,
            blobs: BlobOptions {
                form: LayerForm {
                    format,
                    level: level(attrs, format)?,
                    times: Times::Keep,
                },
                force: attrs.flag("force-compression", false)?,
                keep_foreign: attrs.flag("prefer-nondist-layers", false)?,
            },
            rewrites_times,
            epoch: attrs.epoch()?,
            annotations,
            metadata,
            notes,
        })
    }
}

fn destination(kind: &str, attrs: &Attrs<'_>) -> Result<Destination, WorkerError> {
    let layout = match kind {
        "oci" => LayoutKind::Oci,
        "docker" => LayoutKind::Docker,
        _ => return Ok(Destination::Store),
    };
    let is_tar = attrs.flag("tar", true)?;
    Ok(if is_tar {
        Destination::File(layout)
    } else {
        Destination::Blobs(layout)
    })
}

fn format(attrs: &Attrs<'_>) -> Result<LayerFormat, WorkerError> {
    Ok(match attrs.get("compression") {
        None | Some("gzip") => LayerFormat::Tar(Compression::Gzip),
        Some("uncompressed") => LayerFormat::Tar(Compression::None),
        Some("zstd") => LayerFormat::Tar(Compression::Zstd),
        Some("estargz") => LayerFormat::Estargz,
        Some(other) => return Err(attrs.error(not_a_compression(other))),
    })
}

fn level(attrs: &Attrs<'_>, format: LayerFormat) -> Result<Option<i32>, WorkerError> {
    const KEY: &str = "compression-level";
    let Some(text) = attrs.get(KEY) else {
        return Ok(None);
    };
    let level = text.parse().map_err(|_| attrs.error(not_a_number(KEY, text)))?;
    let checked = format.compression().checked_level(Some(level));
    checked.map_err(|error| attrs.invalid(KEY, &error.to_string()))?;
    Ok(Some(level))
}

fn store_settings(attrs: &Attrs<'_>) -> Result<StoreSettings, WorkerError> {
    Ok(StoreSettings {
        is_stored: attrs.flag("store", true)?,
        is_unpacked: attrs.flag("unpack", false)?,
        is_pushed: attrs.flag("push", false)?,
        by_digest: attrs.flag("push-by-digest", false)?,
        is_insecure: attrs.flag("registry.insecure", false)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kind: &str, pairs: &[(&str, &str)]) -> Result<Settings, WorkerError> {
        let pairs = pairs.iter();
        let attrs = pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Settings::new(kind, &Attrs::new(kind, &attrs))
    }

    #[test]
    fn what_is_usual_depends_on_the_kind() {
        let image = settings("image", &[]).unwrap();
        assert_eq!((image.destination, image.with_inline_only), (Destination::Store, true));
        assert!(image.store.is_stored && !image.store.is_pushed && !image.store.is_unpacked);
        let oci = settings("oci", &[("oci-mediatypes", "false"), ("tar", "false")]).unwrap();
        assert_eq!(
            (oci.destination, oci.media_types),
            (Destination::Blobs(LayoutKind::Oci), MediaTypes::Oci)
        );
        let docker = settings("docker", &[]).unwrap();
        assert_eq!(
            (docker.destination, docker.with_inline_only),
            (Destination::File(LayoutKind::Docker), false)
        );
    }

    #[test]
    fn what_is_not_known_goes_to_the_metadata() {
        let pairs = [
            ("name", "a"),
            ("prefer-image-digest", "1"),
            ("annotation.x", "y"),
            ("context", "c"),
        ];
        let settings = settings("image", &pairs).unwrap();
        let keys: Vec<_> = settings.metadata.keys().map(String::as_str).collect();
        assert_eq!(keys, ["context", "prefer-image-digest"]);
        assert_eq!(settings.annotations.general.manifest["x"], "y");
    }

    #[test]
    fn new_compressions_bring_oci_types() {
        let docker = ("oci-mediatypes", "false");
        for (name, want) in [
            ("gzip", MediaTypes::Docker),
            ("uncompressed", MediaTypes::Docker),
            ("zstd", MediaTypes::Oci),
            ("estargz", MediaTypes::Oci),
        ] {
            let settings = settings("image", &[docker, ("compression", name)]).unwrap();
            assert_eq!(settings.media_types, want, "{name}");
            assert_eq!(settings.notes.is_empty(), want == MediaTypes::Docker, "{name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (pairs, want) in [
            (&[("compression", "lzma")][..], "unsupported compression type lzma"),
            (&[("compression", "")], "unsupported compression type "),
            (&[("compression-level", "")], "non-integer value  specified"),
            (
                &[("compression-level", "x")],
                "non-integer value x specified for compression-level",
            ),
            (&[("compression-level", "10")], "is not between 0 and 9"),
            (
                &[("compression", "zstd"), ("compression-level", "23")],
                "is not between 0 and 22",
            ),
            (
                &[("oci-mediatypes", "false"), ("oci-artifact", "true")],
                "needs oci-mediatypes=true",
            ),
            (
                &[("unpack", "true"), ("rewrite-timestamp", "true")],
                "exporter option \"rewrite-timestamp\" conflicts with \"unpack\"",
            ),
            (&[("push", "true")], "a name is needed to push to"),
            (
                &[
                    ("push", "1"),
                    ("push-by-digest", "1"),
                    ("name", "localhost:5000/a,b/c:1"),
                ],
                "failed to push b/c:1: can't push tagged ref docker.io/b/c:1 by digest",
            ),
            (
                &[("push", "1"), ("push-by-digest", "1"), ("name", "a:latest")],
                "failed to push a:latest: can't push tagged ref docker.io/library/a:latest by digest",
            ),
            (
                &[("annotation-layer.x", "")],
                "image exporter: unrecognized annotation type layer",
            ),
            (
                &[("store", "perhaps")],
                "non-bool value specified for store: \"perhaps\"",
            ),
            (
                &[("annotation[x].a", "b")],
                "\"x\": unknown operating system or architecture: invalid argument",
            ),
            (&[("source-date-epoch", "now")], "expected seconds since 1970"),
        ] {
            let error = settings("image", pairs).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
