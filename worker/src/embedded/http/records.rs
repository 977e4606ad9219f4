//! What is remembered of URLs between builds: enough to ask a server whether its file is still the same.
//!
//! One small file per URL and way of fetching it. Losing one, or finding one damaged, costs a download.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cairn_solver::Digest;
use cairn_solver::llb::HttpSource;
use serde::{Deserialize, Serialize};

/// Most records that are kept; the oldest go first.
const MAX_RECORDS: usize = 8192;
/// Records are counted once for so many new ones.
const COUNT_EVERY: usize = 256;
/// Longest validator that is worth keeping.
const MAX_VALIDATOR: usize = 1024;

/// A file as it was when it was last fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HttpRecord {
    /// The server's name for this version of the file.
    pub(super) etag: Option<String>,
    /// `Last-Modified`, as the server wrote it.
    pub(super) last_modified: Option<String>,
    /// Digest of the contents.
    pub(super) digest: Digest,
    /// Name in the result.
    pub(super) filename: OsString,
    /// The result with the file in it.
    pub(super) result: String,
}

/// The records, in a directory of their own.
#[derive(Debug)]
pub(super) struct HttpRecords {
    dir: PathBuf,
    max: usize,
    added: std::sync::atomic::AtomicUsize,
}

/// Names a record: a hash of all that decides about the request and the result, so that nothing of a URL is kept.
pub(super) fn record_key(source: &HttpSource) -> String {
    let mut hasher = blake3::Hasher::new();
    let numbers = [source.mode.unwrap_or(u32::MAX), source.uid, source.gid];
    let headers = source.headers.iter().flat_map(|(name, value)| [name, value]);
    for text in [&source.url, &source.filename, &source.auth_header_secret]
        .into_iter()
        .chain(headers)
    {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hex::encode(&hasher.finalize().as_bytes()[..20])
}

/// A validator that is short enough to be kept.
pub(super) fn validator(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= MAX_VALIDATOR).then(|| text.to_owned())
}

impl HttpRecords {
    /// Opens the directory, or makes it.
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        crate::sys::root::create_private_dirs(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            max: MAX_RECORDS,
            added: std::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// The record of a key. One that cannot be read is as good as none.
    pub(super) fn get(&self, key: &str) -> Option<HttpRecord> {
        let json = std::fs::read(self.path(key)).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Replaces the record of a key.
    pub(super) fn put(&self, key: &str, record: &HttpRecord) -> std::io::Result<()> {
        let staged = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer(&staged, record)?;
        staged.persist(self.path(key)).map_err(|failed| failed.error)?;
        let added = self.added.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if added.is_multiple_of(COUNT_EVERY) {
            self.drop_oldest()?;
        }
        Ok(())
    }

    /// Makes room: all but three quarters of what there may be goes.
    fn drop_oldest(&self) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Somebody may be replacing it right now.
            if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
                files.push((modified, entry.path()));
            }
        }
        if files.len() > self.max {
            files.sort();
            let surplus = files.len() - self.max / 4 * 3;
            for (_, path) in files.drain(..surplus) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> HttpRecord {
        HttpRecord {
            etag: Some(text.to_owned()),
            last_modified: None,
            digest: Digest::sha256(text.as_bytes()),
            filename: "f".into(),
            result: "r".to_owned(),
        }
    }

    #[test]
    fn records_outlive_the_store_and_damage_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http");
        let records = HttpRecords::open(&path).unwrap();
        assert_eq!(records.get("a"), None);
        for text in ["1", "2"] {
            records.put("a", &record(text)).unwrap();
            assert_eq!(records.get("a"), Some(record(text)));
        }
        let again = HttpRecords::open(&path).unwrap();
        assert_eq!(again.get("a"), Some(record("2")));
        std::fs::write(path.join("a.json"), b"{\"etag\":").unwrap();
        assert_eq!(again.get("a"), None);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut records = HttpRecords::open(dir.path()).unwrap();
        records.max = 8;
        for i in 0..2 * COUNT_EVERY {
            records.put(&i.to_string(), &record("x")).unwrap();
        }
        records.drop_oldest().unwrap();
        assert!(std::fs::read_dir(dir.path()).unwrap().count() <= 8);
        assert!(records.get(&(2 * COUNT_EVERY - 1).to_string()).is_some());
    }

    #[test]
    fn everything_that_matters_makes_another_record() {
        let plain = HttpSource {
            url: "http://h/a".to_owned(),
            ..HttpSource::default()
        };
        let others = [
            HttpSource {
                url: "http://h/b".to_owned(),
                ..plain.clone()
            },
            HttpSource {
                filename: "f".into(),
                ..plain.clone()
            },
            HttpSource {
                mode: Some(0o644),
                ..plain.clone()
            },
            HttpSource {
                uid: 1,
                ..plain.clone()
            },
            HttpSource {
                gid: 1,
                ..plain.clone()
            },
            HttpSource {
                auth_header_secret: "s".to_owned(),
                ..plain.clone()
            },
            HttpSource {
                headers: [("accept".to_owned(), "x".to_owned())].into(),
                ..plain.clone()
            },
        ];
        let keys: std::collections::BTreeSet<_> = others.iter().chain([&plain]).map(record_key).collect();
        assert_eq!(keys.len(), others.len() + 1);
        let pinned = HttpSource {
            checksum: Some(Digest::sha256(b"")),
            ..plain.clone()
        };
        assert_eq!(record_key(&pinned), record_key(&plain));
    }
}
