//! Media types of images, in OCI's and in Docker's names.

use crate::compression::Compression;

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Which names an image uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MediaTypes {
    /// OCI's.
    #[default]
    Oci,
    /// Docker's, which have no zstd.
    Docker,
}

impl MediaTypes {
    /// The type of an index.
    pub const fn index(self) -> &'static str {
        match self {
            Self::Oci => OCI_INDEX,
            Self::Docker => DOCKER_INDEX,
        }
    }

    /// The type of a manifest.
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::Oci => OCI_MANIFEST,
            Self::Docker => DOCKER_MANIFEST,
        }
    }

    /// The type of an image config.
    pub const fn config(self) -> &'static str {
        match self {
            Self::Oci => OCI_CONFIG,
            Self::Docker => DOCKER_CONFIG,
        }
    }

    /// The type of a layer; `None` when there is no name for it.
    pub const fn layer(self, compression: Compression) -> Option<&'static str> {
        match (self, compression) {
            (Self::Oci, compression) => Some(compression.oci_media_type()),
            (Self::Docker, Compression::None) => Some("application/vnd.docker.image.rootfs.diff.tar"),
            (Self::Docker, Compression::Gzip) => Some("application/vnd.docker.image.rootfs.diff.tar.gzip"),
            (Self::Docker, Compression::Zstd) => None,
        }
    }

    /// Translates the type of an existing layer into these names. What is no layer of either family stays.
    pub fn convert_layer(self, media_type: &str) -> Option<String> {
        match layer_compression(media_type) {
            Some(compression) => self.layer(compression).map(str::to_owned),
            None => Some(media_type.to_owned()),
        }
    }
}

/// How a layer of this type is compressed; `None` if it is no ordinary layer.
pub fn layer_compression(media_type: &str) -> Option<Compression> {
    Some(match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Compression::Gzip
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Compression::Zstd
        }
        _ => return None,
    })
}

/// The type of the same layer as one that may be distributed; `None` for layers that may be anyhow.
pub fn distributable(media_type: &str) -> Option<String> {
    let oci = media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.");
    let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.");
    oci.map(|rest| format!("application/vnd.oci.image.layer.{rest}"))
        .or_else(|| docker.map(|rest| format!("application/vnd.docker.image.rootfs.{rest}")))
}

/// Whether the type is that of a list of manifests.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Whether the type is that of one image's manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_stay_where_they_are_have_ordinary_kin() {
        for (media_type, want) in [
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                Some("application/vnd.oci.image.layer.v1.tar+zstd"),
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                Some("application/vnd.docker.image.rootfs.diff.tar.gzip"),
            ),
            ("application/vnd.oci.image.layer.v1.tar", None),
            ("text/plain", None),
        ] {
            assert_eq!(distributable(media_type).as_deref(), want);
            assert!(want.is_none_or(|want| layer_compression(want).is_some()));
        }
    }
}
