//! Decoding of sources.

use cairn_proto::pb;
use percent_encoding::percent_decode_str;

use super::super::graph::VertexDigest;
use super::super::op::{
    BlobLayout, BlobSource, Differ, GitMtime, GitSigners, GitSource, HttpSignature, HttpSource, ImageSource,
    LocalSource, OciLayoutSource, ResolveMode, SourceOp,
};
use super::DecodeError;
use super::ops::{invalid, unsupported};
use crate::Digest;

/// Longest URL or repository that is accepted.
const MAX_URL_BYTES: usize = 8 << 10;
/// Most bytes of keys, or of a signature.
const MAX_KEYS_BYTES: usize = 256 << 10;

/// Decodes a source; its scheme decides which attributes it may have.
pub(super) fn decode(vertex: VertexDigest, inputs: usize, wire: &pb::SourceOp) -> Result<SourceOp, DecodeError> {
    if inputs != 0 {
        return Err(invalid("source", vertex, "a source has no inputs"));
    }
    let (scheme, rest) = wire
        .identifier
        .split_once("://")
        .ok_or_else(|| invalid("source", vertex, format!("no scheme in {:?}", wire.identifier)))?;
    if rest.is_empty() {
        return Err(invalid("source", vertex, format!("no name in {:?}", wire.identifier)));
    }
    match scheme {
        "docker-image" => image(vertex, rest, wire).map(SourceOp::Image),
        "local" => local(vertex, rest, wire).map(SourceOp::Local),
        "oci-layout" => oci_layout(vertex, rest, wire).map(SourceOp::OciLayout),
        "git" => git(vertex, rest, wire).map(SourceOp::Git),
        "http" | "https" => http(vertex, wire).map(SourceOp::Http),
        "docker-image+blob" => blob(vertex, rest, wire, None).map(SourceOp::Blob),
        "oci-layout+blob" => blob(vertex, rest, wire, Some(BlobLayout::default())).map(SourceOp::Blob),
        other => Err(unsupported(vertex, format!("source scheme {other:?}"))),
    }
}

fn image(vertex: VertexDigest, reference: &str, wire: &pb::SourceOp) -> Result<ImageSource, DecodeError> {
    let mut image = ImageSource {
        reference: reference.to_owned(),
        ..ImageSource::default()
    };
    for (key, value) in &wire.attrs {
        match key.as_str() {
            "image.resolvemode" => {
                image.resolve_mode = match value.as_str() {
                    "" | "default" => ResolveMode::Default,
                    "pull" => ResolveMode::Pull,
                    "local" => ResolveMode::Local,
                    other => {
                        let message = format!("invalid resolvemode: {other}");
                        return Err(invalid("source", vertex, message));
                    }
                }
            }
            "image.recordtype" => image.record_type = value.clone(),
            "image.layerlimit" => {
                image.layer_limit = Some(layer_limit(vertex, key, value)?);
            }
            "image.checksum" => image.checksum = Some(digest(vertex, key, value)?),
            other => return Err(unsupported(vertex, format!("attribute {other:?} of an image source"))),
        }
    }
    Ok(image)
}

fn local(vertex: VertexDigest, name: &str, wire: &pb::SourceOp) -> Result<LocalSource, DecodeError> {
    let mut local = LocalSource {
        name: name.to_owned(),
        ..LocalSource::default()
    };
    let list = |key: &str, value: &str| {
        serde_json::from_str::<Vec<String>>(value).map_err(|error| {
            invalid(
                "source",
                vertex,
                format!("attribute {key} is no list of strings: {error}"),
            )
        })
    };
    for (key, value) in &wire.attrs {
        match key.as_str() {
            "local.session" => {
                let (prefix, session) = value.split_once(':').unwrap_or(("", value));
                local.prefix = prefix.to_owned();
                local.session = (!session.is_empty()).then(|| session.to_owned());
            }
            "local.unique" => local.unique = value.clone(),
            "local.includepattern" => local.include = list(key, value)?,
            "local.excludepatterns" => local.exclude = list(key, value)?,
            "local.followpaths" => local.follow_paths = list(key, value)?,
            "local.sharedkeyhint" => local.shared_key_hint = value.clone(),
            "local.differ" => {
                local.differ = match value.as_str() {
                    "metadata" => Differ::Metadata,
                    "none" => Differ::None,
                    other => return Err(bad_attribute(vertex, key, other)),
                }
            }
            "local.metadatatransfer" => local.metadata_only = flag(vertex, key, value)?,
            "local.metadatatransferexclude" => local.metadata_exceptions = list(key, value)?,
            other => return Err(unsupported(vertex, format!("attribute {other:?} of a local source"))),
        }
    }
    Ok(local)
}

fn oci_layout(vertex: VertexDigest, reference: &str, wire: &pb::SourceOp) -> Result<OciLayoutSource, DecodeError> {
    if !reference.contains('@') {
        return Err(invalid(
            "source",
            vertex,
            format!("reference {reference:?} must have digest"),
        ));
    }
    let mut layout = OciLayoutSource {
        reference: reference.to_owned(),
        ..OciLayoutSource::default()
    };
    for (key, value) in &wire.attrs {
        match key.as_str() {
            "oci.session" => layout.session = (!value.is_empty()).then(|| value.clone()),
            "oci.store" => layout.store = value.clone(),
            "oci.layerlimit" => layout.layer_limit = Some(layer_limit(vertex, key, value)?),
            "image.checksum" => layout.checksum = Some(digest(vertex, key, value)?),
            other => {
                return Err(unsupported(
                    vertex,
                    format!("attribute {other:?} of an OCI layout source"),
                ));
            }
        }
    }
    Ok(layout)
}

fn git(vertex: VertexDigest, rest: &str, wire: &pb::SourceOp) -> Result<GitSource, DecodeError> {
    let (repository, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let mut git = GitSource {
        repository: repository.to_owned(),
        reference: reference.to_owned(),
        subdir: subdir.to_owned(),
        ..GitSource::default()
    };
    let mut signers = GitSigners::default();
    let mut layout = BlobLayout::default();
    for (key, value) in &wire.attrs {
        match key.as_str() {
            "git.fullurl" => git.full_url = value.clone(),
            "git.keepgitdir" => git.keep_git_dir = flag(vertex, key, value)?,
            "git.authtokensecret" => git.auth_token_secret = value.clone(),
            "git.authheadersecret" => git.auth_header_secret = value.clone(),
            "git.knownsshhosts" => git.known_ssh_hosts = value.clone(),
            "git.mountsshsock" => git.ssh_socket = value.clone(),
            "git.checksum" => git.checksum = value.clone(),
            "git.skipsubmodules" => git.skip_submodules = flag(vertex, key, value)?,
            "git.fetchbycommit" => git.fetch_by_commit = flag(vertex, key, value)?,
            "git.mtime" => {
                git.mtime = match value.as_str() {
                    "" | "checkout" => GitMtime::Checkout,
                    "commit" => GitMtime::Commit,
                    other => return Err(bad_attribute(vertex, key, other)),
                }
            }
            "git.bundle" => git.bundle = Some(bundle(vertex, value)?),
            "git.checkoutbundle" => git.as_bundle = flag(vertex, key, value)?,
            "oci.session" => layout.session = (!value.is_empty()).then(|| value.clone()),
            "oci.store" => layout.store = value.clone(),
            "git.sig.pubkey" => signers.keys = signed(vertex, key, value)?,
            "git.sig.rejectexpired" => signers.reject_expired = flag(vertex, key, value)?,
            "git.sig.requiresignedtag" => signers.require_tag = flag(vertex, key, value)?,
            "git.sig.ignoresignedtag" => signers.ignore_tag = flag(vertex, key, value)?,
            other => return Err(unsupported(vertex, format!("attribute {other:?} of a git source"))),
        }
    }
    if signers.require_tag && signers.ignore_tag {
        return Err(invalid(
            "source",
            vertex,
            "the tag has to be signed, and its signature is to be ignored",
        ));
    }
    if signers != GitSigners::default() {
        if signers.keys.is_empty() {
            return Err(invalid("source", vertex, "no git.sig.pubkey to verify signatures with"));
        }
        git.signers = Some(signers);
    }
    match &mut git.bundle {
        Some(bundle) if git.checksum.is_empty() => {
            let message = format!("git.bundle {} requires git.checksum to be set", bundle.reference);
            return Err(invalid("source", vertex, message));
        }
        Some(BlobSource {
            layout: Some(stored), ..
        }) => *stored = layout,
        _ if layout != BlobLayout::default() => {
            let message = "oci.session and oci.store are for a git.bundle in an OCI layout";
            return Err(invalid("source", vertex, message));
        }
        _ => {}
    }
    if git.as_bundle {
        let others = [
            (git.keep_git_dir, "git.keepgitdir"),
            (!git.subdir.is_empty(), "git.subdir"),
        ];
        if let Some((_, other)) = others.iter().find(|(is_set, _)| *is_set) {
            let message = format!("git.checkoutbundle is incompatible with {other}");
            return Err(invalid("source", vertex, message));
        }
    }
    let texts = [&git.repository, &git.full_url, &git.reference, &git.subdir];
    if texts
        .iter()
        .any(|text| text.len() > MAX_URL_BYTES || text.contains('\0'))
    {
        return Err(invalid(
            "source",
            vertex,
            "a git source with a name that is too long or holds a NUL byte",
        ));
    }
    if !git.full_url.is_empty() && !is_url_of(&git.full_url, &git.repository) {
        let message = format!("git.fullurl is not a URL of {repository:?}, as which the source is known");
        return Err(invalid("source", vertex, message));
    }
    Ok(git)
}

/// Whether a URL, or `user@host:path`, is one of the repository that is called `host/path`. Source policies go by this
/// name, so that nothing else may be fetched under it.
fn is_url_of(url: &str, repository: &str) -> bool {
    let (place, is_url) = match url.split_once("://") {
        Some((_, place)) => (place, true),
        None => (url, false),
    };
    let place = place.split(['#', '?']).next().unwrap_or_default();
    let (authority, path) = match place.split_once(if is_url { '/' } else { ':' }) {
        Some((authority, path)) => (authority, path),
        None => (place, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (named_host, named_path) = repository.split_once('/').unwrap_or((repository, ""));
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    // Some take backslashes for slashes, and all take `..` for what is above.
    let is_plain = !url.contains('\\') && elements(&decoded).all(|element| element != "..");
    is_plain
        && host.eq_ignore_ascii_case(named_host)
        && [path, &*decoded]
            .into_iter()
            .any(|path| elements(path).eq(elements(named_path)))
}

/// The elements of a path, without those that say nothing.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|element| !matches!(*element, "" | "."))
}

/// A bundle, as a URL of the blob that it is.
fn bundle(vertex: VertexDigest, url: &str) -> Result<BlobSource, DecodeError> {
    let (scheme, reference) = url.split_once("://").unwrap_or_default();
    let layout = match scheme {
        "docker-image+blob" => None,
        "oci-layout+blob" => Some(BlobLayout::default()),
        other => {
            let message = format!("git.bundle locator scheme {other:?} is not supported");
            return Err(invalid("source", vertex, message));
        }
    };
    if reference.len() > MAX_URL_BYTES {
        return Err(invalid("source", vertex, "too long a git.bundle"));
    }
    blob_reference(vertex, reference)?;
    Ok(BlobSource {
        reference: reference.to_owned(),
        layout,
        ..BlobSource::default()
    })
}

fn http(vertex: VertexDigest, wire: &pb::SourceOp) -> Result<HttpSource, DecodeError> {
    if wire.identifier.len() > MAX_URL_BYTES {
        return Err(invalid("source", vertex, "a URL that is too long"));
    }
    let mut http = HttpSource {
        url: wire.identifier.clone(),
        ..HttpSource::default()
    };
    let mut signature = HttpSignature::default();
    for (key, value) in &wire.attrs {
        let bad = || bad_attribute(vertex, key, value);
        match key.as_str() {
            "http.checksum" => http.checksum = Some(digest(vertex, key, value)?),
            "http.filename" => http.filename = value.clone(),
            "http.perm" => http.mode = permissions(value).ok_or_else(bad)?,
            "http.uid" => http.uid = value.parse().map_err(|_| bad())?,
            "http.gid" => http.gid = value.parse().map_err(|_| bad())?,
            "http.authheadersecret" => http.auth_header_secret = value.clone(),
            "http.header.accept" | "http.header.user-agent" => {
                let name = key.trim_start_matches("http.header.");
                http.headers.insert(name.to_owned(), value.clone());
            }
            "http.sig.pubkey" => signature.keys = signed(vertex, key, value)?,
            "http.sig.signature" => signature.signature = signed(vertex, key, value)?,
            other => return Err(unsupported(vertex, format!("attribute {other:?} of an http source"))),
        }
    }
    if signature != HttpSignature::default() {
        if signature.keys.is_empty() || signature.signature.is_empty() {
            let message = "http.sig.pubkey and http.sig.signature do not go without each other";
            return Err(invalid("source", vertex, message));
        }
        http.signature = Some(signature);
    }
    check_filename(vertex, &http.filename)?;
    Ok(http)
}

fn blob(
    vertex: VertexDigest,
    reference: &str,
    wire: &pb::SourceOp,
    layout: Option<BlobLayout>,
) -> Result<BlobSource, DecodeError> {
    blob_reference(vertex, reference)?;
    let mut blob = BlobSource {
        reference: reference.to_owned(),
        layout,
        ..BlobSource::default()
    };
    for (key, value) in &wire.attrs {
        let bad = || bad_attribute(vertex, key, value);
        match (key.as_str(), &mut blob.layout) {
            ("http.filename", _) => blob.filename = value.clone(),
            ("http.perm", _) => blob.mode = permissions(value).ok_or_else(bad)?,
            ("http.uid", _) => blob.uid = value.parse().map_err(|_| bad())?,
            ("http.gid", _) => blob.gid = value.parse().map_err(|_| bad())?,
            ("image.recordtype", _) => blob.record_type = value.clone(),
            ("oci.session", Some(layout)) => layout.session = (!value.is_empty()).then(|| value.clone()),
            ("oci.store", Some(layout)) => layout.store = value.clone(),
            (other, _) => return Err(unsupported(vertex, format!("attribute {other:?} of a blob source"))),
        }
    }
    check_filename(vertex, &blob.filename)?;
    Ok(blob)
}

/// Checks that a reference names a blob by its digest.
fn blob_reference(vertex: VertexDigest, reference: &str) -> Result<(), DecodeError> {
    match reference.rsplit_once('@').map(|(_, digest)| Digest::parse(digest)) {
        Some(Ok(_)) => Ok(()),
        _ => {
            let message = format!("no digest of a blob in {reference:?}");
            Err(invalid("source", vertex, message))
        }
    }
}

/// Keys or a signature, as text.
fn signed(vertex: VertexDigest, key: &str, value: &str) -> Result<String, DecodeError> {
    if value.len() > MAX_KEYS_BYTES {
        return Err(invalid(
            "source",
            vertex,
            format!("attribute {key} of more than {MAX_KEYS_BYTES} bytes"),
        ));
    }
    Ok(value.to_owned())
}

/// Permission bits, as an integer literal of Go: clients write `0755`, but `493` and `0x1ed` are the same. `None` is no
/// such number, and zero stands for the usual bits.
fn permissions(text: &str) -> Option<Option<u32>> {
    let (radix, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &text[2..]),
        [b'0', b'o' | b'O', ..] => (8, &text[2..]),
        [b'0', b'b' | b'B', ..] => (2, &text[2..]),
        [b'0', _, ..] => (8, &text[1..]),
        _ => (10, text),
    };
    let bits = u32::from_str_radix(digits, radix).ok().filter(|mode| *mode <= 0o7777);
    bits.map(|mode| Some(mode).filter(|mode| *mode != 0))
}

/// The name of a file of its own is no path.
fn check_filename(vertex: VertexDigest, name: &str) -> Result<(), DecodeError> {
    if matches!(name, "." | "..") || name.contains(['/', '\0']) {
        return Err(bad_attribute(vertex, "http.filename", name));
    }
    Ok(())
}

fn bad_attribute(vertex: VertexDigest, key: &str, value: &str) -> DecodeError {
    invalid("source", vertex, format!("attribute {key} is {value:?}"))
}

fn digest(vertex: VertexDigest, key: &str, value: &str) -> Result<Digest, DecodeError> {
    Digest::parse(value).map_err(|_| bad_attribute(vertex, key, value))
}

fn layer_limit(vertex: VertexDigest, key: &str, value: &str) -> Result<usize, DecodeError> {
    let limit = value.parse().ok().filter(|&limit| limit > 0);
    limit.ok_or_else(|| {
        invalid(
            "source",
            vertex,
            format!("invalid layer limit {value}: attribute {key}"),
        )
    })
}

fn flag(vertex: VertexDigest, key: &str, value: &str) -> Result<bool, DecodeError> {
    match value {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        other => Err(bad_attribute(vertex, key, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_url_of, permissions};

    #[test]
    fn permissions_are_numbers_of_any_base() {
        for (text, want) in [
            ("0755", Some(Some(0o755))),
            ("0o755", Some(Some(0o755))),
            ("493", Some(Some(0o755))),
            ("0x1ED", Some(Some(0o755))),
            ("0b111", Some(Some(7))),
            ("04755", Some(Some(0o4755))),
            ("0", Some(None)),
            ("00", Some(None)),
            ("010000", None),
            ("0888", None),
            ("0x", None),
            ("-1", None),
            ("rwx", None),
            ("", None),
        ] {
            assert_eq!(permissions(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_url_is_one_of_the_repository_that_it_names() {
        for (url, repository) in [
            ("https://example.com/a/b.git", "example.com/a/b.git"),
            ("https://user:pass%40@EXAMPLE.com/a/b.git", "example.com/a/b.git"),
            ("ssh://git@example.com:22/a", "example.com:22/a"),
            ("ssh://git@example.com/~/a", "example.com/~/a"),
            ("git@example.com:a/b.git", "example.com/a/b.git"),
            ("git@example.com:/a/b.git", "example.com/a/b.git"),
            ("https://example.com//a/./b/", "example.com/a/b"),
            ("https://example.com/a%20b", "example.com/a b"),
            ("https://example.com/a%20b", "example.com/a%20b"),
            ("https://example.com/a?x=1#main", "example.com/a"),
            ("https://[::1]:80/a", "[::1]:80/a"),
        ] {
            assert!(is_url_of(url, repository), "{url} {repository}");
        }
        for (url, repository) in [
            ("https://example.com/a", "example.org/a"),
            ("https://example.com/a", "example.com/b"),
            ("https://example.com/a/../b", "example.com/b"),
            ("https://example.com:8080/a", "example.com/a"),
            ("https://example.org@evil.com/a", "example.org/a"),
            ("https://evil.com#@example.org/a", "example.org/a"),
            ("https://evil.com?@example.org/a", "example.org/a"),
            ("evil.com:x@example.org:a", "example.org/a"),
            ("example.org/a", "example.org/a"),
            ("https://evil.com\\@example.org/a", "example.org/a"),
            ("https://example.org/a/%2e%2e/b", "example.org/a/%2e%2e/b"),
            ("", "example.org/a"),
        ] {
            assert!(!is_url_of(url, repository), "{url} {repository}");
        }
    }
}
