use proptest::prelude::*;

use super::PatternSet;

fn set(patterns: &[&str]) -> PatternSet {
    PatternSet::new(patterns).expect("test patterns are valid")
}

#[test]
fn one_pattern_against_one_path() {
    for (pattern, path, want) in [
        ("a", "a", true),
        ("a", "a/b/c", true),
        ("a", "ab", false),
        ("e", "d/e", false),
        ("y/z", "x/y/z", false),
        ("d/", "d/e", true),
        ("/d", "d", false),
        ("*", "a/b", true),
        ("*", ".hid", true),
        ("*.txt", "d/e.txt", false),
        ("d/*", "d", false),
        ("d/*", "d/e/f", true),
        ("?", "a", true),
        ("a?b", "a/b", false),
        ("**/x", "x", true),
        ("**/x", "a/b/x", true),
        ("**/x", "a/bx", false),
        ("**/x", "a/x/y", true),
        ("a/**/b", "a/b", true),
        ("a/**/b", "a/c/d/b", true),
        ("a/**/b", "a/cb", false),
        ("d/**", "d", false),
        ("d/**", "d/e", true),
        ("d**", "d/e", true),
        ("d**", "dx/y", true),
        ("d**", "e/d", false),
        ("**txt", "a/b.txt", true),
        ("**txt", "txt", true),
        ("**txt", "a/txt2", false),
        ("**.md", "a/b.md", true),
        ("**/*.md", "a/b.md", true),
        ("**/*.md", "b.md", true),
        ("**", "a/b", true),
        ("***", "a/b", true),
        ("**/**/x", "a/x", true),
        ("[a-c].txt", "b.txt", true),
        ("[a-c].txt", "d.txt", false),
        ("[^a-c].txt", "d.txt", true),
        ("[!a].txt", "b.txt", false),
        ("[!a].txt", "!.txt", true),
        ("\\#x", "#x", true),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("{a,b}", "a", false),
        ("{a,b}", "{a,b}", true),
        ("a+(b).$", "a+(b).$", true),
        ("a.c", "abc", false),
        (".", "a", false),
        ("/", "a", false),
        ("..", "a", false),
        ("../x", "x", false),
        ("d/../a", "a", true),
        ("é?", "éü", true),
        (" a ", "a", true),
    ] {
        assert_eq!(
            set(&[pattern]).matches(path).unwrap(),
            want,
            "{pattern:?} against {path:?}"
        );
    }
}

#[test]
fn what_is_no_text_is_matched_byte_by_byte() {
    for (pattern, path, want) in [
        (&b"ign*"[..], &b"ign\xfe.log"[..], true),
        (b"**/*.log", b"d\xff/ign\xfe.log", true),
        (b"d?", b"d\xff/a", true),
        (b"d??", b"d\xff/a", false),
        (b"d[^a-z]", b"d\xff/a", true),
        (b"d[a-z]", b"d\xff/a", false),
        ("d\u{fffd}".as_bytes(), b"d\xff/a", false),
        (b"d\xff", b"d\xff/a", true),
        (b"d\xff", b"d\xfe/a", false),
        (b"d\xff/*.log", b"d\xff/a.log", true),
    ] {
        let set = PatternSet::new([pattern]).unwrap();
        assert_eq!(set.matches(path).unwrap(), want, "{pattern:x?} against {path:x?}");
        let mut names = path.split(|&byte| byte == b'/');
        let walked = names.try_fold(set.root(), |state, name| {
            let below = set.enter(&state, name).unwrap();
            if below.is_match() { Err(()) } else { Ok(below) }
        });
        assert_eq!(walked.is_err(), want, "{pattern:x?} on the way to {path:x?}");
    }
}

#[test]
fn escaped_letters_mean_what_they_mean_to_go() {
    for (pattern, path, want) in [
        (r"src\test", "src/test", false),
        (r"src\test", "src\test", true),
        (r"a\d", "a7", true),
        (r"a\d", "ad", false),
        (r"a\Db", "a/b", true),
        (r"\w\s\w", "a b", true),
        (r"\w", "-", false),
        (r"a\b", "a", true),
        (r"a\b", "a/c", true),
        (r"a\b.c", "a.c", true),
        (r"dir\bin", "dirin", false),
        (r"dir\bin", "dir/bin", false),
        (r"\_\-", "_-", true),
    ] {
        assert_eq!(set(&[pattern]).matches(path).unwrap(), want, "{pattern} and {path}");
    }
    for pattern in [r"a\c", r"a\1", r"a\y", r"*\b", r"a\b*"] {
        let wanted = format!("syntax error in pattern: {pattern:?}");
        assert_eq!(set(&[pattern]).matches("a").unwrap_err().to_string(), wanted);
    }
}

#[test]
fn the_last_match_decides() {
    for (patterns, path, want) in [
        (&["a", "!a"][..], "a", false),
        (&["b", "! b"], "b", true),
        (&["b", "!./b"], "b", true),
        (&["b", "!b/"], "b", false),
        (&["a", "!a", "a"], "a", true),
        (&["!d/e", "d"], "d/e", true),
        (&["*", "!d/e/f.txt"], "d/e/f.txt", false),
        (&["*", "!d/e/f.txt"], "d/e/g.txt", true),
        (&["*.md", "!README.md"], "README.md", false),
        (&["*.md", "!README.md"], "OTHER.md", true),
        (&["d", "!d/e", "d/e/x"], "d/e/x", true),
        (&["d", "!d/e", "d/e/x"], "d/e/y", false),
        (&["!a"], "a", false),
        (&[], "a", false),
    ] {
        assert_eq!(
            set(patterns).matches(path).unwrap(),
            want,
            "{patterns:?} against {path:?}"
        );
    }
}

#[test]
fn walks_are_pruned_where_nothing_can_change() {
    let ignore = set(&["*", "!d/e/f.txt"]);
    assert!(ignore.may_exempt_below("d").unwrap() && ignore.may_exempt_below("d/e").unwrap());
    assert!(!ignore.may_exempt_below("x").unwrap() && !ignore.may_exempt_below("d/x").unwrap());
    assert!(!set(&["node_modules"]).may_exempt_below("node_modules").unwrap());
    assert!(
        set(&["node_modules", "!**/keep"])
            .may_exempt_below("node_modules")
            .unwrap()
    );
    assert!(
        !set(&["!**/keep", "node_modules"])
            .may_exempt_below("node_modules")
            .unwrap()
    );

    let include = set(&["a/b/*.c", "x"]);
    assert!(
        include.may_match_below("").unwrap()
            && include.may_match_below("a").unwrap()
            && include.may_match_below("a/b").unwrap()
    );
    assert!(include.may_match_below("x/y").unwrap());
    assert!(!include.may_match_below("b").unwrap() && !include.may_match_below("a/c").unwrap());
    assert!(set(&["d/**"]).may_match_below("d").unwrap());
}

#[test]
fn malformed_patterns_are_refused() {
    for pattern in ["[", "[a", "a[]", "!", "! ", "\\", "[a-]", "[z", "!["] {
        assert!(PatternSet::new([pattern]).is_err(), "{pattern:?}");
    }
    assert!(PatternSet::new(["", "  "]).unwrap().is_empty());
    assert!(PatternSet::new(["a".repeat(5_000)]).is_err());
    assert!(PatternSet::new((0..60_000).map(|i| i.to_string())).is_err());
}

#[test]
fn hostile_patterns_come_to_an_end() {
    let hostile: Vec<String> = (0..30).map(|i| format!("{}x{i}", "**a*?".repeat(600))).collect();
    let set = PatternSet::new(&hostile).unwrap();
    // Exponential matching would not.
    assert!(!set.matches("a/".repeat(500)).unwrap());
}

#[test]
fn a_table_thrown_away_midway_does_not_change_verdicts() {
    // Each suffix pattern doubles the sets that paths of a and b can lead to.
    let patterns: Vec<String> = (1..16).map(|n| format!("*a{}", "?".repeat(n))).collect();
    let set = PatternSet::new(&patterns).unwrap();
    let root = set.root();
    let kept = set.enter(&root, "abab").unwrap();
    for n in 0..20_000_u32 {
        let name: String = (0..16).map(|bit| if n >> bit & 1 == 1 { 'a' } else { 'b' }).collect();
        assert_eq!(
            set.enter(&root, &name).unwrap().is_match(),
            name[..15].contains('a'),
            "{name}"
        );
    }
    assert_eq!(
        set.enter(&kept, "bb").unwrap().is_match(),
        set.matches("abab/bb").unwrap()
    );
}

#[test]
fn patterns_of_any_size_and_depth_are_bounded() {
    let path = "a/".repeat(200) + "b";
    for pattern in [
        "**/".repeat(1_000) + "x",
        "**".repeat(1_000),
        "*a".repeat(2_000) + "x",
        "?".repeat(4_000),
        "[".repeat(4_000),
        "[[]".repeat(1_000),
        format!("[{}]", "a-zA-Z".repeat(600)),
        "\\[".repeat(2_000),
        "../".repeat(1_300),
        "!".repeat(4_000),
    ] {
        if let Ok(set) = PatternSet::new([&pattern]) {
            let _ = set.matches(&path).unwrap();
        }
    }
    for pattern in ["a".repeat(1 << 20), "**/".repeat(1 << 18), "[".repeat(1 << 20)] {
        assert_eq!(
            PatternSet::new([&pattern]).unwrap_err().to_string(),
            format!("pattern of {} bytes is longer than the 4096 allowed", pattern.len())
        );
    }
}

#[test]
fn characters_beyond_ascii_are_told_apart_where_patterns_do() {
    for (patterns, path, want) in [
        (&["*.txt"][..], "ü/é.txt", false),
        (&["**/*.txt"], "ü/é.txt", true),
        (&["é*"], "éü", true),
        (&["é*"], "üé", false),
        (&["[^a]x"], "éx", true),
        (&["[a-ü]x"], "éx", true),
        (&["[a-b]x", "é"], "éx", false),
        (&["[a-b]x", "é"], "é", true),
        (&["[^é]"], "é", false),
        (&["[^é]"], "ü", true),
    ] {
        let set = set(patterns);
        for _ in 0..2 {
            assert_eq!(set.matches(path).unwrap(), want, "{patterns:?} against {path:?}");
        }
    }
}

#[test]
fn patterns_mean_what_they_mean_as_regular_expressions_of_go() {
    for (pattern, path, want) in [
        ("a|b", "a|b", true),
        ("a|b", "a", false),
        ("*|b", "x", true),
        ("*x|b", "x/y", true),
        ("*x|b", "y/b", true),
        ("*x|b", "y/bc", false),
        ("*x|q|b", "aqc", true),
        ("a*|^b", "b", true),
        ("a*|^b", "xb", false),
        ("*^a", "a", true),
        ("b^a?", "b^ax", false),
        ("b^a", "b^a", true),
        ("?{2}", "ab", true),
        ("?{2}", "abc", false),
        ("[ab]{1,2}c", "abc", true),
        ("[ab]{1,2}c", "ababc", false),
        ("[ab]{1,}c", "ababc", true),
        ("*.{js,ts}", "a.js", false),
        ("*.{js,ts}", "a.{js,ts}", true),
        ("[*]", "[^]", true),
        ("[*]", "/]", true),
        ("[*]", "*", false),
        ("[?]", "/]", true),
        ("[[:alpha:]]x", "bx", true),
        ("[[:^alpha:]]x", "bx", false),
        ("[\\d]", "7", true),
        ("[\\D]", "7", false),
        ("[a-c\\]]x", "]x", true),
        ("\\x41?", "Ab", true),
        ("\\101?", "Ab", true),
        ("?\\Qx", "ax", false),
        ("?\\z", "a", true),
        ("a*\\", "ab$/c", true),
        ("a*\\", "ab", false),
        ("**txt]", "a/txt]", true),
        ("**a**", "b/ac/d", true),
        ("a/*/**", "a/b/c", true),
    ] {
        assert_eq!(set(&[pattern]).matches(path), Ok(want), "{pattern:?} against {path:?}");
    }
    for pattern in [
        "?{2}{3}",
        "*{2}",
        "{2}?",
        "?{3,2}",
        "?{1001}",
        "?[z-a]",
        "?*[",
        "?\\é",
        "[!x]/x\\y",
    ] {
        let found = PatternSet::new([pattern]).and_then(|set| set.matches("a/b"));
        assert!(found.is_err(), "{pattern}: {found:?}");
    }
}

#[test]
fn repetitions_are_bounded() {
    let one = "?{1000}".repeat(8);
    assert_eq!(set(&[&one]).matches("a"), Ok(false));
    assert!(set(&[&"?{1000}".repeat(9)]).matches("a").is_err());
    assert!(PatternSet::new((0..20).map(|_| &one)).is_err());
}

/// The verdict on each directory of a path and on the path itself, as a walk finds it.
fn walked(patterns: &[&str], path: &str) -> Result<Vec<bool>, String> {
    let set = set(patterns);
    let mut state = set.root();
    let mut verdicts = Vec::new();
    for name in path.split('/') {
        state = set.enter(&state, name).map_err(|error| error.to_string())?;
        verdicts.push(state.is_match());
    }
    Ok(verdicts)
}

#[test]
fn a_walk_asks_patterns_that_could_change_the_verdict() {
    for (patterns, path, want) in [
        (&["d", "!d/e", "d"][..], "d/e", &[true, false][..]),
        (&["*", "!**/*.go", "vendor"], "vendor/a.go", &[true, false]),
        (&["*", "!**/*.go", "vendor"], "vendor/a.c", &[true, true]),
        (&["*", "!**/*.go", "**/vendor/*"], "vendor/a.go", &[true, true]),
        (&["d/e", "!d"], "d/e", &[false, true]),
        (&["d", "!d"], "d/e", &[false, false]),
        (&["*", "!a|b/c*"], "a/x/c", &[false, false, false]),
    ] {
        assert_eq!(
            walked(patterns, path).unwrap(),
            want,
            "{patterns:?} on the way to {path}"
        );
    }
}

#[test]
fn meaningless_patterns_are_errors_where_they_are_come_to() {
    let error = Err(r#"syntax error in pattern: "d\\y""#.to_owned());
    for (patterns, path, want) in [
        (&[r"d\y"][..], "a", error.clone()),
        (&["*", r"d\y"], "a/b", Ok(vec![true, true])),
        (&["a/b", r"d\y"], "a/b", error.clone()),
        (&[r"!d\y"], "a", Ok(vec![false])),
        (&["a", r"!d\y"], "b", Ok(vec![false])),
        (
            &["a", r"!d\y"],
            "a",
            Err(r#"syntax error in pattern: "!d\\y""#.to_owned()),
        ),
    ] {
        assert_eq!(walked(patterns, path), want, "{patterns:?} on the way to {path}");
    }
    // A path as a whole comes to other patterns than a walk to it.
    assert_eq!(set(&["a/b", r"d\y"]).matches("a/b"), Ok(true));
    assert!(set(&["b", r"d\y"]).matches("a/b").is_err());
}

fn pattern() -> impl Strategy<Value = String> {
    "!?(\\*|\\*\\*|\\?|/|a|b|ab|é|\\[ab\\]|\\[\\^a\\]|\\[é\\]|\\.){1,7}"
}

fn path() -> impl Strategy<Value = String> {
    "[abéü.]{1,3}(/[abé]{1,2}){0,3}"
}

/// A matcher that is slow and obvious: backtracking over the same grammar.
fn naive(pattern: &str, path: &str) -> bool {
    let Some(c) = pattern.chars().next() else {
        return path.is_empty();
    };
    let tail_of = |path: &str| -> String { path.chars().skip(1).collect() };
    if let Some(rest) = pattern.strip_prefix("**") {
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        if rest.is_empty() {
            return true;
        }
        return naive(rest, path) || path.match_indices('/').any(|(at, _)| naive(rest, &path[at + 1..]));
    }
    match c {
        '*' => {
            let end = path.find('/').unwrap_or(path.len());
            (0..=end).any(|n| path.is_char_boundary(n) && naive(&pattern[1..], &path[n..]))
        }
        '?' => path.starts_with(|c| c != '/') && naive(&pattern[1..], &tail_of(path)),
        '[' => {
            let end = pattern.find(']').unwrap();
            let class = &pattern[1..end];
            let (negated, members) = class.strip_prefix('^').map_or((false, class), |m| (true, m));
            path.chars().next().is_some_and(|c| members.contains(c) != negated)
                && naive(&pattern[end + 1..], &tail_of(path))
        }
        c => path.starts_with(c) && naive(&pattern[c.len_utf8()..], &tail_of(path)),
    }
}

fn naive_set(patterns: &[String], path: &str) -> bool {
    let mut verdict = false;
    for pattern in patterns {
        let cleaned = crate::clean(pattern);
        let (negated, body) = cleaned
            .strip_prefix('!')
            .map_or((false, cleaned.as_str()), |body| (true, body));
        let plain_suffix = body
            .strip_prefix("**")
            .filter(|r| !r.starts_with('/') && !r.contains(['*', '?', '[']));
        let prefixes = path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]);
        let matched = prefixes.into_iter().any(|p| match plain_suffix {
            Some(suffix) => p.ends_with(suffix),
            None => naive(body, p),
        });
        if matched {
            verdict = !negated;
        }
    }
    verdict
}

proptest! {
    #[test]
    fn any_text_is_a_pattern_or_an_error(patterns in proptest::collection::vec(".{0,20}", 0..6), path in ".{0,30}") {
        if let Ok(set) = PatternSet::new(&patterns) {
            drop((set.matches(&path), set.may_match_below(&path)));
        }
    }

    #[test]
    fn agrees_with_a_naive_matcher(patterns in proptest::collection::vec(pattern(), 1..5), path in path()) {
        let Ok(set) = PatternSet::new(&patterns) else {
            // Nothing is left of `!/`.
            return Ok(());
        };
        prop_assert_eq!(set.matches(&path).unwrap(), naive_set(&patterns, &path));
    }

    #[test]
    fn walking_agrees_with_whole_paths(patterns in proptest::collection::vec(pattern(), 1..5), path in path()) {
        let Ok(set) = PatternSet::new(&patterns) else {
            return Ok(());
        };
        let mut state = set.root();
        let mut walked = String::new();
        for name in path.split('/') {
            let above = state.clone();
            state = set.enter(&state, name).unwrap();
            walked = if walked.is_empty() { name.to_owned() } else { format!("{walked}/{name}") };
            if !set.has_exclusions() {
                prop_assert_eq!(state.is_match(), set.matches(&walked).unwrap());
            }
            prop_assert!(!state.is_match() || above.may_match_below());
            prop_assert!(state.is_match() || above.may_exempt_below());
        }
    }
}
