//! Any ignore file is understood or refused; what is understood decides the same about a path, however it is asked.

use cairn_patterns::{PatternError, PatternSet, glob::Glob, ignorefile};

/// Checks what holds for every ignore file (up to the first NUL) and path (behind it).
pub(crate) fn check(data: &[u8]) {
    let (file, path) = match data.iter().position(|&b| b == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"a/b"[..]),
    };
    let above = path.iter().take_while(|&&byte| byte == b'/').count();
    let path = cairn_patterns::clean_bytes(&path[above..]);
    let Ok(patterns) = ignorefile::parse(file) else {
        return;
    };
    let set = PatternSet::new(&patterns).expect("an ignore file that was read holds patterns");
    drop(check_walk(&set, &path));
    for pattern in &patterns {
        if let Ok(glob) = Glob::new(pattern) {
            let _ = glob.matches(&path);
        }
    }
}

fn check_walk(set: &PatternSet, path: &[u8]) -> Result<(), PatternError> {
    if path.starts_with(b".") {
        return Ok(());
    }
    let mut state = set.root();
    let mut walked = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        let above = state.clone();
        state = set.enter(&state, name)?;
        if !walked.is_empty() {
            walked.push(b'/');
        }
        walked.extend(name);
        let shown = walked.escape_ascii();
        // With exceptions, a walk may see what whole paths do not.
        if !set.has_exclusions() {
            assert_eq!(state.is_match(), set.matches(&walked)?, "{shown}");
        }
        assert!(!state.is_match() || above.may_match_below(), "{shown}");
        assert!(state.is_match() || above.may_exempt_below(), "{shown}");
    }
    Ok(())
}
