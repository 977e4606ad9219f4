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
        (Compression::Zstd, 0),
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
