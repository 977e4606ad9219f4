//! What is fuzzed of this crate: each decoder of bytes from outside, as a function of any bytes. `fuzz` beside `src`
//! has a target for each; the tests below run them in every test run, so that they cannot rot.
//!
//! Whether the bytes are what they are taken for does not matter; nothing may panic, take long, or break the promise
//! that a function states.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use cairn_solver::{Digest, Platform};

use crate::archive::{ApplyOptions, TarReader, apply};
use crate::compression::{Limits, decompress, decompress_archive};
use crate::image::{ConfigOptions, Content, Descriptor, Document, complete_config, diff_ids, select};
use crate::remote_cache::{CacheConfig, CacheManifest, read_config, read_inline};
use crate::sys::Root;

/// Most bytes that anything here unpacks to.
const MAX_UNPACKED: u64 = 1 << 20;

/// A decoder, and the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, by the names of their targets.
pub const TARGETS: &[Target] = &[
    ("accounts", accounts),
    ("annotations", crate::embedded::fuzzing::settings),
    ("archive", archive),
    ("cache_config", cache_config),
    ("challenge", crate::registry::fuzzing::challenge),
    ("compression", compression),
    ("directory_object", directory_object),
    ("file_name", crate::embedded::fuzzing::file_name),
    ("filter", filter),
    ("git_reference", crate::git::fuzzing::reference),
    ("git_remote", crate::git::fuzzing::remote),
    ("image_config", image_config),
    ("image_document", image_document),
    ("layer", layer),
    ("records", records),
    ("signature", crate::signature::fuzzing::signature),
    ("token_answer", crate::registry::fuzzing::token_answer),
];

/// Runs the one of this name.
///
/// # Panics
/// If there is none, or a promise is broken.
pub fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.expect("a target of this name").1(data);
}

/// Archives: what is read of a file is what its entry says.
pub fn archive(data: &[u8]) {
    let mut reader = TarReader::new(data);
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(!entry.path.contains(&0), "a path with a zero byte");
        let mut content = Vec::new();
        if (&mut reader).take(MAX_UNPACKED).read_to_end(&mut content).is_err() {
            return;
        }
        assert!(content.len() <= data.len(), "more than there is");
    }
}

/// Layers: nothing is made outside the directory that they are unpacked into.
pub fn layer(data: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let inside = dir.path().join("layer");
    std::fs::create_dir(&inside).expect("a new directory");
    let root = Root::open(&inside).expect("a directory that is there");
    let mut options = ApplyOptions::default();
    options.skip_devices = true;
    drop(apply(data, &root, &options));
    let beside = std::fs::read_dir(dir.path())
        .expect("a directory that is there")
        .count();
    assert_eq!(beside, 1, "something was made outside");
}

/// Compressed blobs: they unpack to no more than their limit.
pub fn compression(data: &[u8]) {
    let limits = Limits {
        max_size: MAX_UNPACKED,
        ..Limits::default()
    };
    let unpack = |reader: &mut dyn Read| {
        let mut unpacked = 0;
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut piece) {
            unpacked += read as u64;
            assert!(unpacked <= MAX_UNPACKED, "more than the limit");
        }
    };
    if let Ok(mut reader) = decompress(data, limits) {
        unpack(&mut reader);
    }
    if let Ok(mut reader) = decompress_archive(data, limits) {
        unpack(&mut reader);
    }
}

/// Manifests and indexes, also of caches: a document is known by the digest of its bytes.
pub fn image_document(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for media_type in [
        None,
        Some(crate::image::media_type::OCI_INDEX),
        Some(crate::image::media_type::OCI_MANIFEST),
    ] {
        let Ok(document) = Document::parse(bytes.clone(), media_type) else {
            continue;
        };
        assert_eq!(document.digest(), Digest::sha256(data));
        if let Content::Index { manifests } = &document.content {
            drop(select(manifests, &platform()).cloned());
        }
        drop(CacheManifest::of(&document));
    }
}

/// Configs of images: one that can be completed is one afterwards.
pub fn image_config(data: &[u8]) {
    drop(diff_ids(data));
    drop(read_inline(&Bytes::copy_from_slice(data), &[]));
    let options = ConfigOptions {
        base: Some(data),
        ..ConfigOptions::default()
    };
    for base in [None, Some(data)] {
        if let Ok(config) = complete_config(base, &platform(), &[], &options) {
            assert_eq!(diff_ids(&config).ok(), Some(Vec::new()), "not a config any more");
        }
    }
}

/// Configs of caches: chains of layers end.
pub fn cache_config(data: &[u8]) {
    let layers: [Descriptor; 0] = [];
    drop(read_config(data, &layers));
    for parsed in [CacheConfig::parse(data), CacheConfig::parse_inline(data, 3)] {
        let Ok(config) = parsed else { continue };
        for tip in config.records.iter().flat_map(|record| &record.layers) {
            let chain = config.chain(tip.layer);
            assert!(chain.is_err() || chain.is_ok_and(|chain| chain.len() <= config.layers.len()));
        }
    }
}

/// Account files: `/etc/passwd`, then a zero byte and `/etc/group`, then another and whom to look up.
pub fn accounts(data: &[u8]) {
    let mut parts = data.splitn(3, |&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (passwd, group, name) = (part(), part(), String::from_utf8_lossy(part()).into_owned());
    let Ok(dir) = tempfile::tempdir() else { return };
    let etc = dir.path().join("etc");
    std::fs::create_dir(&etc).expect("a new directory");
    std::fs::write(etc.join("passwd"), passwd).expect("a new file");
    std::fs::write(etc.join("group"), group).expect("a new file");
    let root = Root::open(dir.path()).expect("a directory that is there");
    if let Ok(user) = crate::executor::lookup_user(&root, &name) {
        assert!(user.groups.contains(&user.gid), "not in its own group");
        assert!(user.uid <= i32::MAX as u32, "out of range");
    }
}

/// Filters of records, one in each line.
pub fn filter(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<String> = text.lines().take(8).map(str::to_owned).collect();
    if let Ok(filters) = crate::filter::Filters::parse(&lines) {
        let field = |path: &[&str]| crate::filter::Field::Text(path.concat());
        assert_eq!(filters.matches(field), filters.matches(field));
    }
}

/// Objects of directories: one that is read is written in the same way.
pub fn directory_object(data: &[u8]) {
    if let Ok(dir) = crate::tree::Dir::decode(data) {
        let again = crate::tree::Dir::decode(&dir.encode()).expect("what was written is read");
        assert_eq!(again.entries, dir.entries);
    }
}

/// What stands beside layers and results.
pub fn records(data: &[u8]) {
    drop(serde_json::from_slice::<crate::layer::LayerRecord>(data));
    drop(serde_json::from_slice::<BTreeMap<String, crate::layer::LayerId>>(data));
}

fn platform() -> Platform {
    "linux/arm64".parse().expect("a platform")
}

#[cfg(test)]
#[path = "../../fuzz/damaged.rs"]
mod damaged;

#[cfg(test)]
mod tests {

    use super::*;

    const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":3,"annotations":{"a":"b"}}]}"#;
    const INDEX: &str = r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}}]}"#;
    const CONFIG: &str = r#"{"os":"linux","architecture":"arm64","created":"2001-09-09T01:46:40Z","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"x","empty_layer":true},{"created":"2001-09-09T01:46:40Z"}],"moby.buildkit.cache.v0":"W10="}"#;
    const CACHE: &str = r#"{"layers":[{"blob":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","parent":-1},{"blob":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","parent":0}],"records":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","layers":[{"layer":1}],"inputs":[[{"selector":"","link":0}]]}]}"#;

    /// A tar with one of everything.
    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, kind: tar::EntryType, link: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            if !link.is_empty() {
                header.set_link_name(link).unwrap();
            }
            builder.append_data(&mut header, name, data).unwrap();
        };
        add("dir/", tar::EntryType::Directory, "", b"");
        add("dir/file", tar::EntryType::Regular, "", b"content");
        add(&"long/".repeat(40), tar::EntryType::Directory, "", b"");
        add("dir/.wh.gone", tar::EntryType::Regular, "", b"");
        add("dir/.wh..wh..opq", tar::EntryType::Regular, "", b"");
        add("link", tar::EntryType::Symlink, "../../outside", b"");
        add("link/through", tar::EntryType::Regular, "", b"out");
        add("hard", tar::EntryType::Link, "dir/file", b"");
        add("fifo", tar::EntryType::Fifo, "", b"");
        let pax = b"28 GNU.sparse.realsize=4096\n19 path=other/name\n30 SCHILY.xattr.user.a=value xyz\n";
        add("pax", tar::EntryType::XHeader, "", pax);
        add("named", tar::EntryType::Regular, "", b"x");
        builder.into_inner().unwrap()
    }

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        match name {
            "archive" | "layer" => vec![tar()],
            "compression" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, &[b'a'; 9000]).unwrap();
                vec![
                    encoder.finish().unwrap(),
                    zstd::encode_all(&[b'a'; 9000][..], 1).unwrap(),
                ]
            }
            "image_document" => texts(&[MANIFEST, INDEX]),
            "image_config" => texts(&[CONFIG]),
            "cache_config" => texts(&[CACHE]),
            "accounts" => texts(&[
                "root:x:0:0:r:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n\0root:x:0:\nwheel:x:10:me,root\n\0me:wheel",
            ]),
            "annotations" => texts(&[
                "name=a:1,b\nannotation-index[linux/arm64].x=1\ncompression=zstd\npush=true",
                "source-date-epoch=1\nplatform-split=false",
            ]),
            "challenge" => texts(&[
                "Bearer realm=\"https://a/token\",service=\"s\\\"x\",scope=\"repository:a:pull\"\nBasic realm=x",
            ]),
            "file_name" => {
                texts(&["https://a/b%2f..%2fc?d\nattachment; filename=\"a\\\"b\"; filename*=UTF-8''%e2%82%ac"])
            }
            "filter" => texts(&["type==regular,id~=^a.*,labels.\"a.b\"!=\"c\\\"d\"\ninuse"]),
            "git_reference" => texts(&[
                "main\0ref: refs/heads/main\tHEAD\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4\tHEAD\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4\trefs/heads/main\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4\trefs/tags/main^{}\n",
            ]),
            "git_remote" => texts(&[
                "https://me:secret@host:8080/a.git",
                "git@host:a/b.git",
                "ssh://u@h:22/p",
            ]),
            "directory_object" => vec![crate::tree::Dir::default().encode()],
            "signature" => {
                use base64::Engine as _;
                let seed = include_str!("signature/seed.txt").replace('\n', "");
                vec![base64::engine::general_purpose::STANDARD.decode(seed).unwrap()]
            }
            "token_answer" => texts(&[
                r#"{"token":"","access_token":"abc","expires_in":18446744073709551615,"issued_at":"2001-09-09T01:46:40Z"}"#,
                r#"{"token":"abc","expires_in":3.5}"#,
            ]),
            "records" => texts(&[
                r#"{"describe":{"description":"a","record_type":"regular"},"unpacked":true,"created":"2001-09-09T01:46:40Z","last_used":"2001-09-09T01:46:40Z","usage_count":1}"#,
            ]),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_decoder_takes_any_bytes() {
        for (name, target) in TARGETS {
            // What makes directories for each input is slow, and so is arithmetic with large numbers.
            let cases = if matches!(*name, "layer" | "accounts" | "signature") {
                200
            } else {
                1500
            };
            damaged::try_target(name, target, seeds(name), cases);
        }
    }

    #[test]
    fn every_decoder_has_a_target() {
        damaged::expect_targets(env!("CARGO_MANIFEST_DIR"), TARGETS.iter().map(|(name, _)| *name));
    }
}
