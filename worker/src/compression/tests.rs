use std::io::Write;
use std::process::{Command, Stdio};

use cairn_solver::Digest;

use super::*;
use crate::content::Durability;

fn store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), Durability::Relaxed).unwrap();
    (dir, store)
}

/// Bytes that do not compress, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

/// Text, noise and zeros, changing at odd places, several blocks long.
fn mixed() -> Vec<u8> {
    let text: Vec<u8> = (0..)
        .flat_map(|n: u32| format!("line {n} of a text\n").into_bytes())
        .take(2_300_123)
        .collect();
    [
        &text[..],
        &noise(1_700_077),
        &text[..400_000],
        &vec![0; 900_001],
        &noise(200_000)[..],
    ]
    .concat()
}

fn blob_bytes(store: &ContentStore, layer: &CompressedLayer) -> Vec<u8> {
    store.read(&layer.digest, u64::MAX).unwrap()
}

#[test]
fn every_kind_round_trips_and_names_what_it_made() {
    let (_dir, store) = store();
    for data in [
        Vec::new(),
        b"short".to_vec(),
        vec![7; 1 << 20],
        noise((1 << 20) + 1),
        mixed(),
    ] {
        for kind in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let layer = compress(kind, None, &data[..], &store).unwrap();
            assert_eq!(layer.diff_id, Digest::sha256(&data));
            assert_eq!(layer.uncompressed_size, data.len() as u64);
            let blob = blob_bytes(&store, &layer);
            assert_eq!((layer.size, layer.digest), (blob.len() as u64, Digest::sha256(&blob)));
            let mut reader = decompress(&blob[..], Limits::default()).unwrap();
            let mut back = Vec::new();
            reader.read_to_end(&mut back).unwrap();
            assert!(back == data, "{kind:?} of {} bytes", data.len());
            if !data.is_empty() {
                assert_eq!(Compression::detect(&blob), kind);
            }
        }
    }
}

#[test]
fn every_gzip_level_round_trips() {
    let (_dir, store) = store();
    let data = &mixed()[1_800_000..3_000_000];
    for level in 0..=9 {
        let layer = compress(Compression::Gzip, Some(level), data, &store).unwrap();
        let mut back = Vec::new();
        decompress(&blob_bytes(&store, &layer)[..], Limits::default())
            .unwrap()
            .read_to_end(&mut back)
            .unwrap();
        assert!(back == data, "level {level}");
    }
    for (kind, level) in [
        (Compression::Gzip, 10),
        (Compression::Gzip, -1),
        (Compression::Zstd, -1),
        (Compression::Zstd, 23),
    ] {
        assert!(matches!(
            compress(kind, Some(level), data, &store),
            Err(CompressionError::Level { .. })
        ));
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_on_how_they_are_written() {
    let (_dir, store) = store();
    let data = mixed();
    let make = |threads: usize, piece: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            [Compression::Gzip, Compression::Zstd].map(|kind| {
                let mut compressor = Compressor::new(kind, None, &store).unwrap();
                for piece in data.chunks(piece) {
                    compressor.write_all(piece).unwrap();
                }
                compressor.finish().unwrap().digest
            })
        })
    };
    let one = make(2, 1 << 20);
    assert_eq!(one, make(4, 12_345));
    assert_eq!(one, make(3, usize::MAX));
}

#[test]
fn incompressible_data_grows_hardly_and_the_rest_still_shrinks() {
    let (_dir, store) = store();
    let noise = noise(4 << 20);
    let layer = compress(Compression::Gzip, None, &noise[..], &store).unwrap();
    assert!(layer.size < (4 << 20) + (4 << 20) / 1000, "{}", layer.size);
    let text = vec![b'a'; 4 << 20];
    assert!(compress(Compression::Gzip, None, &text[..], &store).unwrap().size < 20_000);
}

#[test]
fn the_usual_programs_read_what_we_write() {
    let (_dir, store) = store();
    let data = mixed();
    for (kind, program) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let layer = compress(kind, None, &data[..], &store).unwrap();
        let output = Command::new(program)
            .arg("-dc")
            .stdin(Stdio::from(store.reader(&layer.digest).unwrap()))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(output.stdout == data, "{program}");
    }
}

#[test]
fn several_gzip_members_are_one_stream() {
    let mut blob = Vec::new();
    for part in ["first ", "second"] {
        let mut encoder = flate2::write::GzEncoder::new(&mut blob, flate2::Compression::fast());
        encoder.write_all(part.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }
    let mut text = String::new();
    decompress(&blob[..], Limits::default())
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "first second");
}

#[test]
fn broken_blobs_are_errors() {
    let (_dir, store) = store();
    for kind in [Compression::Gzip, Compression::Zstd] {
        let layer = compress(kind, None, &mixed()[..], &store).unwrap();
        let mut blob = blob_bytes(&store, &layer);
        let middle = blob.len() / 2;
        let read = |blob: &[u8]| io::copy(&mut decompress(blob, Limits::default()).unwrap(), &mut io::sink());
        assert!(read(&blob[..middle]).is_err(), "{kind:?} cut");
        blob[middle] ^= 0x55;
        assert!(read(&blob).is_err(), "{kind:?} flipped");
    }
}

/// What a program makes of `input`.
fn filtered(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program}");
        output.stdout
    })
}

#[test]
fn archives_may_be_compressed_in_more_ways_than_layers() {
    let data = mixed();
    for (program, arguments) in [
        ("gzip", &["-1"][..]),
        ("zstd", &["-1"]),
        ("bzip2", &["-1"]),
        ("xz", &["-0"]),
        ("xz", &["-1", "--check=sha256", "--block-size=1MiB"]),
        ("xz", &["--x86", "--lzma2=preset=0"]),
    ] {
        let archive = filtered(program, arguments, &data);
        let read = |archive: &[u8]| {
            let mut back = Vec::new();
            decompress_archive(archive, Limits::default())
                .unwrap()
                .read_to_end(&mut back)
                .map(|_| back)
        };
        assert!(read(&archive).unwrap() == data, "{program} {arguments:?}");
        let twice = [&archive[..], &archive].concat();
        assert!(read(&twice).unwrap() == data.repeat(2), "{program} {arguments:?} twice");
        let middle = archive.len() / 2;
        assert!(read(&archive[..middle]).is_err(), "{program} cut");
        let mut flipped = archive.clone();
        flipped[middle] ^= 0x55;
        assert!(read(&flipped).is_err(), "{program} flipped");
        // A layer that is compressed so is one of garbage.
        if matches!(program, "bzip2" | "xz") {
            let mut raw = Vec::new();
            decompress(&archive[..], Limits::default())
                .unwrap()
                .read_to_end(&mut raw)
                .unwrap();
            assert!(raw == archive, "{program}");
        }
    }
    for start in [
        &b""[..],
        b"B",
        b"BZh",
        b"BZh9",
        b"\xfd7zXZ",
        b"\xfd7zXZ\0",
        b"\xfd7zXZ\0\0\xff\xff\xff\xff\xff",
    ] {
        let mut rest = Vec::new();
        let read = decompress_archive(start, Limits::default())
            .unwrap()
            .read_to_end(&mut rest);
        assert!(read.is_err() || rest == start, "{start:?}");
    }
}

/// An archive does not say how much memory reading it takes.
#[test]
fn archives_that_need_too_much_memory_are_refused() {
    let archive = filtered("xz", &["--lzma2=preset=0,dict=256MiB"], b"small");
    let error = io::copy(
        &mut decompress_archive(&archive[..], Limits::default()).unwrap(),
        &mut io::sink(),
    )
    .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
    let archive = filtered("xz", &["--lzma2=preset=0,dict=128MiB"], b"small");
    let mut text = String::new();
    decompress_archive(&archive[..], Limits::default())
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "small");
}

/// CVE-2017-14992, CVE-2023-25153: a small blob that unpacks without end.
#[test]
fn cve_2017_14992_decompression_bombs_are_stopped() {
    let limits = Limits {
        max_size: 1 << 30,
        max_ratio: 100,
        ratio_from: 1 << 20,
    };
    let (_dir, store) = store();
    for kind in [Compression::Gzip, Compression::Zstd] {
        let layer = compress(kind, None, io::repeat(0).take(32 << 20), &store).unwrap();
        let blob = store.reader(&layer.digest).unwrap();
        let err = io::copy(&mut decompress(blob, limits).unwrap(), &mut io::sink()).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::FileTooLarge, "{kind:?}");
    }
    let zeros = vec![0; 32 << 20];
    for program in ["bzip2", "xz"] {
        let archive = filtered(program, &["-1"], &zeros);
        let err = io::copy(&mut decompress_archive(&archive[..], limits).unwrap(), &mut io::sink()).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::FileTooLarge, "{program}");
    }
    let limits = Limits {
        max_size: 1000,
        ..limits
    };
    let err = io::copy(&mut decompress(&noise(1001)[..], limits).unwrap(), &mut io::sink()).unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::FileTooLarge);
}

mod with_contents {
    use std::collections::BTreeMap;
    use std::io::Read;

    use serde_json::Value;

    use super::*;
    use crate::archive::{Entry, EntryKind, Mtime, TarReader, TarWriter, Times};

    /// An archive with a file of so many bytes, an empty one, and other kinds.
    fn archive(noise_length: usize, zeros: usize) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        let mut add = |entry: Entry, data: &[u8]| {
            let size = data.len() as u64;
            tar.append(&Entry { size, ..entry }, data).unwrap();
        };
        let mut large = Entry::new("dir/large", EntryKind::File, 0o4755);
        large.uid = 7;
        large.mtime = Mtime { seconds: 5, nanos: 0 };
        large.xattrs.insert(b"user.k".to_vec(), b"v".to_vec());
        add(Entry::new("dir/", EntryKind::Directory, 0o755), b"");
        add(large, &[&noise(noise_length)[..], &vec![0; zeros]].concat());
        add(Entry::new("empty", EntryKind::File, 0o644), b"");
        add(
            Entry::new("link", EntryKind::Symlink(b"dir/large".to_vec()), 0o777),
            b"",
        );
        add(
            Entry::new("again", EntryKind::Hardlink(b"dir/large".to_vec()), 0o644),
            b"",
        );
        add(Entry::new("small", EntryKind::File, 0o600), b"small");
        tar.finish().unwrap()
    }

    fn made(tar: &[u8]) -> (EstargzLayer, Vec<u8>) {
        let (_dir, store) = store();
        let made = estargz(tar, None, Times::Keep, &store).unwrap();
        let blob = blob_bytes(&store, &made.layer);
        (made, blob)
    }

    /// One member, from where it begins.
    fn member(blob: &[u8], offset: u64) -> Vec<u8> {
        let mut data = Vec::new();
        let start = usize::try_from(offset).unwrap();
        flate2::bufread::GzDecoder::new(&blob[start..])
            .read_to_end(&mut data)
            .unwrap();
        data
    }

    /// The table of contents, found as readers of the format find it.
    fn contents(blob: &[u8]) -> Vec<u8> {
        let footer = &blob[blob.len() - 51..];
        assert_eq!(&footer[..4], [0x1f, 0x8b, 8, 4]);
        assert_eq!(&footer[10..16], [26, 0, b'S', b'G', 22, 0]);
        assert_eq!(&footer[32..38], b"STARGZ");
        let offset = std::str::from_utf8(&footer[16..32]).unwrap();
        let tar = member(blob, u64::from_str_radix(offset, 16).unwrap());
        let mut tar = TarReader::new(&tar[..]);
        let entry = tar.next_entry().unwrap().unwrap();
        assert_eq!(entry.path, b"stargz.index.json");
        let mut json = Vec::new();
        tar.read_to_end(&mut json).unwrap();
        assert!(tar.next_entry().unwrap().is_none());
        json
    }

    #[test]
    fn every_chunk_is_where_the_contents_say() {
        let tar = archive(100_000, 9 << 20);
        let (made, blob) = made(&tar);
        let json = contents(&blob);
        assert_eq!(made.toc, Digest::sha256(&json));
        let toc: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(toc["version"], 1);
        let entries = toc["entries"].as_array().unwrap();
        let names: Vec<_> = entries
            .iter()
            .map(|entry| (entry["name"].as_str().unwrap(), entry["type"].as_str().unwrap()))
            .collect();
        let want = [
            (".no.prefetch.landmark", "reg"),
            ("dir/", "dir"),
            ("dir/large", "reg"),
            ("dir/large", "chunk"),
            ("dir/large", "chunk"),
            ("empty", "reg"),
            ("link", "symlink"),
            ("again", "hardlink"),
            ("small", "reg"),
        ];
        assert_eq!(names, want);
        let large = &entries[2];
        assert_eq!((large["uid"].as_u64(), large["mode"].as_u64()), (Some(7), Some(0o4755)));
        assert_eq!(
            (&large["modtime"], &large["xattrs"]["user.k"]),
            (&"1970-01-01T00:00:05Z".into(), &"dg==".into())
        );
        let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !entry["chunkDigest"].is_null()) {
            let name = entry["name"].as_str().unwrap();
            let file = files.entry(name).or_default();
            assert_eq!(entry["chunkOffset"].as_u64().unwrap_or(0), file.len() as u64);
            let size = entries.iter().find(|entry| entry["name"] == name).unwrap()["size"]
                .as_u64()
                .unwrap();
            let length = entry["chunkSize"].as_u64().unwrap_or(size - file.len() as u64);
            let data = member(&blob, entry["offset"].as_u64().unwrap());
            let chunk = &data[..usize::try_from(length).unwrap()];
            assert_eq!(entry["chunkDigest"], Digest::sha256(chunk).to_string(), "{entry}");
            file.extend_from_slice(chunk);
        }
        assert_eq!(files["small"], b"small");
        assert_eq!(large["digest"], Digest::sha256(&files["dir/large"]).to_string());
        assert_eq!(files["dir/large"].len(), 100_000 + (9 << 20));
    }

    #[test]
    fn it_is_still_a_gzip_of_a_tar_and_the_same_every_time() {
        let tar = archive(100_000, 0);
        let (first, blob) = made(&tar);
        assert_eq!(made(&tar).0, first);
        let mut plain = Vec::new();
        decompress(&blob[..], Limits::default())
            .unwrap()
            .read_to_end(&mut plain)
            .unwrap();
        assert_eq!(first.layer.diff_id, Digest::sha256(&plain));
        assert_eq!(first.layer.uncompressed_size, plain.len() as u64);
        let mut reader = TarReader::new(&plain[..]);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        let all = [
            ".no.prefetch.landmark",
            "dir/",
            "dir/large",
            "empty",
            "link",
            "again",
            "small",
            "stargz.index.json",
        ];
        assert_eq!(names, all);
        // What is of this kind already does not get a second table.
        assert_eq!(made(&plain).0, first);
    }

    #[test]
    fn broken_layers_and_levels_are_refused() {
        let (_dir, store) = store();
        let tar = archive(100_000, 0);
        for (tar, level) in [(&tar[..5000], None), (&b"no tar"[..], None), (&tar[..], Some(10))] {
            assert!(estargz(tar, level, Times::Keep, &store).is_err());
        }
        assert_eq!(store.list().unwrap(), []);
    }
}
