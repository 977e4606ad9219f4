//! A process that writes is killed; what it had flushed is there.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Tells the test below to be the process that is killed.
const VICTIM: &str = "CAIRN_TEST_INDEX_VICTIM";

fn nth(n: u32) -> CacheKey {
    CacheKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn outputs(n: u32) -> Outputs {
    vec![Some(ResultId::new(format!("r{n}")))]
}

/// Writes until killed, and says after each flush how far it is.
fn write_for_ever(path: &Path) {
    let index = RedbIndex::open(path).unwrap();
    for n in 0.. {
        index.record_results(&nth(n), &Arc::default(), &outputs(n)).unwrap();
        if n % 7 == 0 {
            index.flush().unwrap();
            let text = format!("flushed {n}\n");
            say(&text);
        }
    }
}

/// Writes to standard output past the test harness.
fn say(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).unwrap();
    out.flush().unwrap();
}

#[test]
fn what_was_flushed_survives_a_kill() {
    if let Some(path) = std::env::var_os(VICTIM) {
        write_for_ever(Path::new(&path));
        return;
    }
    for round in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "index::redb::tests::crash::what_was_flushed_survives_a_kill",
            ])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut flushed = None;
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        // Killed at another place of its work each time, wherever that is.
        let enough = round * 5 + 1;
        let mut seen = 0;
        while seen < enough {
            let line = lines.next().expect("the victim ended by itself").unwrap();
            if let Some((_, n)) = line.split_once("flushed ") {
                flushed = Some(n.parse::<u32>().unwrap());
                seen += 1;
            }
        }
        victim.kill().unwrap();
        // What was said before the kill counts too.
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("flushed ").and_then(|n| n.parse().ok()) {
                flushed = Some(n);
            }
        }
        victim.wait().unwrap();
        let index = RedbIndex::open(&path).unwrap();
        assert!(!path.with_extension("damaged").exists());
        for n in 0..=flushed.unwrap() {
            assert_eq!(index.results(&nth(n)).unwrap(), Some(outputs(n)), "record {n}");
        }
        index.record_results(&nth(0), &Arc::default(), &outputs(9)).unwrap();
        index.flush().unwrap();
        assert_eq!(index.results(&nth(0)).unwrap(), Some(outputs(9)));
    }
}
