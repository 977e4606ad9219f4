//! What is fuzzed of this crate: each decoder of bytes from outside, as a function of any bytes. `fuzz` beside `src`
//! has a target for each; the tests below run them in every test run, so that they cannot rot.
//!
//! Whether the bytes are what they are taken for does not matter; nothing may panic, take long, or break the promise
//! that a function states.

use std::collections::HashMap;

use bytes::Bytes;
use cairn_proto::content::{ReadContentResponse, WriteContentRequest};
use cairn_proto::fsutil::{Packet, Stat};
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::fsutil::{self, BoxError, Decision, ReceiveSink, TransferLimits};
use crate::{SessionHeaders, auth, content, metadata_values, ssh};

/// A decoder, and the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, by the names of their targets.
pub const TARGETS: &[Target] = &[
    ("agent_messages", agent_messages),
    ("blob_pieces", blob_pieces),
    ("blob_writes", blob_writes),
    ("docker_config", docker_config),
    ("metadata", metadata),
    ("token_answer", token_answer),
    ("transfer", transfer),
];

/// Runs the one of this name.
///
/// # Panics
/// If there is none, or a promise is broken.
pub fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.expect("a target of this name").1(data);
}

/// The messages of a stream, each after its length.
fn messages<M: prost::Message + Default>(mut data: &[u8]) -> Vec<M> {
    let mut messages = Vec::new();
    while let Ok(message) = M::decode_length_delimited(&mut data) {
        messages.push(message);
    }
    messages
}

/// Pieces of a blob that a client sends: what is taken is the blob from where it was asked for, without gaps.
pub fn blob_pieces(data: &[u8]) {
    let mut next = 7;
    let mut taken = 0;
    for piece in messages::<ReadContentResponse>(data) {
        let (offset, length) = (piece.offset, piece.data.len() as u64);
        if content::take_piece(&mut next, piece).is_ok() {
            assert_eq!(u64::try_from(offset), Ok(7 + taken), "a piece of elsewhere");
            taken += length;
        }
    }
    assert_eq!(next, 7 + taken);
}

/// What a daemon writes into a store of the client: a blob there is the one that its name says, and nothing is beside.
pub fn blob_writes(data: &[u8]) {
    let (Ok(dir), Ok(runtime)) = (tempfile::tempdir(), tokio::runtime::Runtime::new()) else {
        return;
    };
    let store = dir.path().join("store");
    std::fs::create_dir(&store).expect("a new directory");
    let written = messages::<WriteContentRequest>(data).into_iter().map(Ok);
    let (answers, _read) = mpsc::channel(4096);
    let layout = content::LayoutDir(store.clone());
    drop(runtime.block_on(content::answer_writes(layout, stream::iter(written), answers)));
    let names = |dir: &std::path::Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").path()).collect()
    };
    assert_eq!(names(dir.path()), [store.as_path()], "something was written outside");
    let blobs = store.join("blobs").join("sha256");
    for path in names(&blobs) {
        let bytes = std::fs::read(&path).expect("a file");
        let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(path, blobs.join(hex), "not the blob of that name");
    }
}

/// Answers of token servers: a token is one word, and bounded.
pub fn token_answer(data: &[u8]) {
    if let Ok(token) = auth::read_answer(data) {
        let text = token.token.expose_str().expect("a token is text");
        assert!(!text.is_empty() && text.len() <= 64 << 10, "{} bytes", text.len());
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "more than a word");
    }
}

/// Packets of a sender, each after its length: what arrives is in order, within directories, and never leaves them.
pub fn transfer(data: &[u8]) {
    let packets = messages::<Packet>(data).into_iter().map(Ok);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let (outgoing, mut sent) = mpsc::channel(4096);
        let mut sink = Careful::default();
        let limits = TransferLimits {
            max_entries: 1000,
            ..TransferLimits::default()
        };
        let packets = stream::iter(packets);
        drop(fsutil::receive(packets, outgoing, &limits, &mut sink).await);
        sent.close();
    });
}

/// Believes nothing.
#[derive(Default)]
struct Careful {
    seen: Vec<Vec<u8>>,
    is_open: HashMap<u32, bool>,
}

impl ReceiveSink for Careful {
    async fn entry(&mut self, index: u32, stat: Stat) -> Result<Decision, BoxError> {
        let (path, shown) = (&stat.path, stat.path());
        assert_eq!(index as usize, self.seen.len(), "entries are counted");
        assert!(!path.starts_with(b"/") && !path.is_empty(), "{shown:?} is not relative");
        let is_name = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        assert!(path.split(|&byte| byte == b'/').all(is_name), "{shown:?} is not clean");
        assert!(!self.seen.contains(path), "{shown:?} came twice");
        if let Some(slash) = path.iter().rposition(|&byte| byte == b'/') {
            assert!(
                self.seen.iter().any(|seen| seen == &path[..slash]),
                "{shown:?} came before its directory"
            );
        }
        self.seen.push(path.clone());
        self.is_open.insert(index, true);
        Ok(Decision::Fetch)
    }

    async fn data(&mut self, index: u32, _: Bytes) -> Result<(), BoxError> {
        assert_eq!(self.is_open.get(&index), Some(&true), "data of no open file");
        Ok(())
    }

    async fn end_of_file(&mut self, index: u32) -> Result<(), BoxError> {
        assert_eq!(self.is_open.insert(index, false), Some(true), "a file ended twice");
        Ok(())
    }
}

/// Metadata of calls and of sessions, a key and a value in each line.
pub fn metadata(data: &[u8]) {
    let mut metadata = MetadataMap::new();
    for line in data.split(|&byte| byte == b'\n').take(300) {
        let mut parts = line.splitn(2, |&byte| byte == b' ');
        let key = AsciiMetadataKey::from_bytes(parts.next().unwrap_or_default());
        let value = AsciiMetadataValue::try_from(parts.next().unwrap_or_default());
        if let (Ok(key), Ok(value)) = (key, value) {
            metadata.append(key, value);
        }
    }
    if let Ok(headers) = SessionHeaders::from_metadata(&metadata) {
        assert!(
            !headers.id.is_empty() && headers.id.len() <= 256,
            "an id without bounds"
        );
        assert!(headers.methods.len() <= 256, "methods without bounds");
    }
    for key in ["dir-name", "include-patterns", "followpaths"] {
        drop(metadata_values::read(&metadata, key));
    }
}

/// Messages of steps to the client's ssh agent: none is longer than agents have them.
pub fn agent_messages(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let mut data = data;
        while let Ok(Some(message)) = ssh::read_message(&mut data).await {
            assert!(
                message.len() > 4 && message.len() <= (256 << 10) + 4,
                "{} bytes",
                message.len()
            );
        }
    });
}

/// The configuration that holds registry credentials.
pub fn docker_config(data: &[u8]) {
    drop(crate::auth::DockerConfig::parse(
        data,
        std::path::Path::new("config.json"),
    ));
}

#[cfg(test)]
#[path = "../../fuzz/damaged.rs"]
mod damaged;

#[cfg(test)]
mod tests {

    use super::*;

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        match name {
            "agent_messages" => vec![vec![0, 0, 0, 2, 11, 0, 0, 0, 0, 1, 5]],
            "blob_pieces" => {
                let piece = |offset, data: &'static [u8]| ReadContentResponse {
                    offset,
                    data: Bytes::from_static(data),
                };
                vec![delimited(&[piece(7, b"a"), piece(8, b"bcd"), piece(11, b"")])]
            }
            "blob_writes" => vec![written()],
            "token_answer" => {
                texts(&[r#"{"token":"","access_token":"abc","expires_in":300,"issued_at":"2001-09-09T01:46:40Z"}"#])
            }
            "docker_config" => texts(&[
                r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6aHVudGVyMg=="},"a:5000":{"username":"u","password":"p"}},"credHelpers":{"b":"x"},"credsStore":"y"}"#,
            ]),
            "metadata" => texts(&[
                "x-docker-expose-session-uuid abc\nx-docker-expose-session-grpc-method /a.B/C\nx-buildkit-session-health-custom-timeout 1000\ndir-name-encoded 1\ndir-name a%20b+c",
            ]),
            "transfer" => vec![transferred()],
            _ => Vec::new(),
        }
    }

    fn delimited<M: prost::Message>(messages: &[M]) -> Vec<u8> {
        messages.iter().flat_map(M::encode_length_delimited_to_vec).collect()
    }

    /// A blob of one byte, as a daemon writes it.
    fn written() -> Vec<u8> {
        use cairn_proto::content::WriteAction;
        let message = |action: WriteAction, offset, data: &'static [u8]| WriteContentRequest {
            action: action.into(),
            total: 1,
            expected: "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881".to_owned(),
            offset,
            data: Bytes::from_static(data),
            ..WriteContentRequest::default()
        };
        delimited(&[
            message(WriteAction::Stat, 0, b""),
            message(WriteAction::Write, 0, b"x"),
            message(WriteAction::Commit, 1, b""),
        ])
    }

    /// A directory, a file in it and a link, as a sender sends them.
    fn transferred() -> Vec<u8> {
        use cairn_proto::fsutil::packet::PacketType;
        let stat = |path: &[u8], mode, link: &[u8]| Packet {
            r#type: PacketType::PacketStat.into(),
            stat: Some(Stat {
                path: path.to_owned(),
                mode,
                size: 1,
                linkname: link.to_owned(),
                ..Stat::default()
            }),
            ..Packet::default()
        };
        let data = |data: &'static [u8]| Packet {
            r#type: PacketType::PacketData.into(),
            id: 1,
            data: Bytes::from_static(data),
            ..Packet::default()
        };
        let end = Packet::default();
        let fin = Packet {
            r#type: PacketType::PacketFin.into(),
            ..Packet::default()
        };
        let link = crate::mode::SYMLINK | 0o777;
        let packets = [
            stat(b"dir", crate::mode::DIR | 0o755, b""),
            stat(b"dir/file\xe9", 0o644, b""),
            stat(b"link", link, b"../../etc/passwd\xff"),
            end,
            data(b"x"),
            data(b""),
            fin,
        ];
        delimited(&packets)
    }

    #[test]
    fn every_decoder_takes_any_bytes() {
        for (name, target) in TARGETS {
            // What makes files for each input is slow.
            let cases = if *name == "blob_writes" { 200 } else { 1500 };
            damaged::try_target(name, target, seeds(name), cases);
        }
    }

    #[test]
    fn every_decoder_has_a_target() {
        damaged::expect_targets(env!("CARGO_MANIFEST_DIR"), TARGETS.iter().map(|(name, _)| *name));
    }
}
