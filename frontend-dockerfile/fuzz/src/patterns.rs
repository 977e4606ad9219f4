//! Any ignore file is understood or refused; what is understood decides the same about a path, however it is asked.

use cairn_patterns::{PatternSet, glob::Glob, ignorefile};

/// Checks what holds for every ignore file (up to the first NUL) and path (behind it).
pub(crate) fn check(data: &[u8]) {
    let (file, path) = match data.iter().position(|&b| b == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"a/b"[..]),
    };
    let path = String::from_utf8_lossy(path);
    let path = cairn_patterns::clean(path.trim_start_matches('/'));
    let Ok(patterns) = ignorefile::parse(file) else {
        return;
    };
    let set = PatternSet::new(&patterns).expect("an ignore file that was read holds patterns");
    check_walk(&set, &path);
    for pattern in &patterns {
        if let Ok(glob) = Glob::new(pattern) {
            let _ = glob.matches(&path);
        }
    }
}

fn check_walk(set: &PatternSet, path: &str) {
    if path.starts_with('.') {
        return;
    }
    let mut state = set.root();
    let mut walked = String::new();
    for name in path.split('/') {
        let above = state.clone();
        state = set.enter(&state, name);
        if !walked.is_empty() {
            walked.push('/');
        }
        walked.push_str(name);
        assert_eq!(state.is_match(), set.matches(&walked), "{walked}");
        assert!(!state.is_match() || above.may_match_below(), "{walked}");
        assert!(state.is_match() || above.may_exempt_below(), "{walked}");
    }
}
