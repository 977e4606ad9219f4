use cairn_solver::llb::{Builder, GitMtime, Op, OpMetadata, SourceOp, decode};
use proptest::prelude::*;

use super::GitRef;

fn parse(text: &str) -> GitRef {
    GitRef::parse(text)
        .unwrap_or_else(|| panic!("{text} is no git reference"))
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn repositories_are_found_in_every_form() {
    for (text, remote, identifier) in [
        ("https://h/a.git", "https://h/a.git", "git://h/a.git"),
        (
            "http://h:8080/a/b.git#v1",
            "http://h:8080/a/b.git",
            "git://h:8080/a/b.git#v1",
        ),
        ("HTTPS://h/a.git#v1:sub", "https://h/a.git", "git://h/a.git#v1:sub"),
        ("https://u:p@h/a.git#:sub", "https://u:p@h/a.git", "git://h/a.git#:sub"),
        ("git://h/a", "git://h/a", "git://h/a"),
        ("git://h", "git://h", "git://h/"),
        ("ssh://git@h:22/a/../b", "ssh://git@h:22/a/../b", "git://h:22/b"),
        (
            "git@github.com:a/b.git#main:c/d",
            "git@github.com:a/b.git",
            "git://github.com/a/b.git#main:c/d",
        ),
        ("me_1@h:/srv/a?ref=x", "me_1@h:/srv/a", "git://h/srv/a#x"),
        ("https://h/a.git?ref=v1#v1", "https://h/a.git", "git://h/a.git#v1"),
        (
            "https://h/a.git?tag=v1&subdir=s",
            "https://h/a.git",
            "git://h/a.git#refs/tags/v1:s",
        ),
        (
            "https://h/a.git?tag=refs/tags/v1",
            "https://h/a.git",
            "git://h/a.git#refs/tags/v1",
        ),
        (
            "https://h/a.git?branch=b",
            "https://h/a.git",
            "git://h/a.git#refs/heads/b",
        ),
        (
            "https://h/a.git?subdir=a%2Fb+c&ref=%41",
            "https://h/a.git",
            "git://h/a.git#A:a/b c",
        ),
        ("https://h/a.git#v%31:a%20b", "https://h/a.git", "git://h/a.git#v1:a b"),
    ] {
        let found = parse(text);
        assert_eq!(
            (found.remote.as_str(), found.source().identifier().as_str()),
            (remote, identifier),
            "{text}"
        );
    }
}

#[test]
fn other_words_are_no_repositories() {
    for text in [
        "",
        "a",
        "./a@b:c.git",
        "../https://h/a.git",
        "https://h/a",
        "https://h/a.git/",
        "https://h.git",
        "https:///a.git",
        "https://h/%zz.git",
        "ftp://h/a.git",
        "github.com/a/b.git",
        "a@b",
        "a b@c:d",
        "git://",
        "git@h:",
        "https://h/a\n.git",
    ] {
        assert_eq!(GitRef::parse(text), None, "{text}");
    }
    let github = GitRef::parse_context("github.com/a/b#v1:c").unwrap().unwrap();
    assert_eq!(github.source().identifier(), "git://github.com/a/b#v1:c");
    assert_eq!(github.remote, "https://github.com/a/b");
}

#[test]
fn queries_say_what_is_wanted() {
    let plain = parse("https://h/a.git").source();
    assert_eq!(
        (plain.auth_token_secret.as_str(), plain.auth_header_secret.as_str()),
        ("GIT_AUTH_TOKEN", "GIT_AUTH_HEADER")
    );
    assert_eq!((plain.ssh_socket.as_str(), plain.keep_git_dir), ("", false));
    assert_eq!(parse("git@h:a").source().ssh_socket, "default");
    let all = parse("https://h/a.git?keep-git-dir&submodules=0&fetch-by-commit=1&commit=abc&mtime=commit");
    let source = all.source();
    assert!(source.keep_git_dir && source.skip_submodules && source.fetch_by_commit);
    assert_eq!((source.checksum.as_str(), all.mtime), ("abc", Some(GitMtime::Commit)));
    assert_eq!(source.mtime, GitMtime::Checkout);
    let none = parse("https://h/a.git?keep-git-dir=false&submodules&fetch-by-commit=F&mtime=checkout");
    let source = none.source();
    assert!(!source.keep_git_dir && !source.skip_submodules && !source.fetch_by_commit);
    assert_eq!((none.keep_git_dir, none.mtime), (Some(false), Some(GitMtime::Checkout)));
}

#[test]
fn wrong_queries_are_named() {
    for (query, want) in [
        ("foo=1", "unexpected query \"foo\""),
        ("ref=", "query \"ref\" has no value"),
        ("subdir", "query \"subdir\" has no value"),
        ("ref=a&ref=b", "query \"ref\" has multiple values"),
        ("ref=b#a", "ref conflicts: \"a\" vs \"b\""),
        ("tag=b#a", "ref conflicts: \"a\" vs \"refs/tags/b\""),
        ("subdir=b#:a", "subdir conflicts: \"a\" vs \"b\""),
        ("checksum=a&commit=b", "checksum conflicts: \"a\" vs \"b\""),
        ("tag=v1&branch=x", "branch conflicts with tag"),
        ("keep-git-dir=maybe", "invalid keep-git-dir value: \"maybe\""),
        ("submodules=x", "invalid submodules value: \"x\""),
        ("fetch-by-commit=x", "invalid fetch-by-commit value: \"x\""),
        (
            "mtime=x",
            "invalid mtime value: \"x\" (must be \"checkout\" or \"commit\")",
        ),
        ("ref=a:b", "invalid ref \"a:b\""),
    ] {
        for base in ["https://h/a.git", "git@h:a"] {
            let got = GitRef::parse(&format!("{base}?{query}")).expect("it is a git reference");
            assert_eq!(got.unwrap_err(), want, "{base}?{query}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_understood_or_not(text in ".{0,60}") {
        drop(GitRef::parse(&text));
        drop(GitRef::parse_context(&text));
    }

    /// What is put into a graph comes out of it.
    #[test]
    fn sources_survive_the_wire(
        base in "(https?://([a-z:@]{1,5}@)?h[a-z.]{0,4}(:[0-9]{1,3})?/[a-zA-Z0-9%/._#?-]{0,12}\\.git|git@h:[a-z./]{1,9}|ssh://h/[a-z%#]{0,6})",
        query in "(\\?(ref|tag|branch|subdir)=[a-zA-Z0-9%:/#.]{0,9})?",
        fragment in "(#[a-zA-Z0-9%:/.]{0,12})?",
    ) {
        let text = format!("{base}{query}{fragment}");
        if let Some(Ok(reference)) = GitRef::parse(&text) {
            let source = reference.source();
            let mut builder = Builder::new();
            let output = builder.source(SourceOp::Git(source.clone()), None, OpMetadata::default());
            // A decoded name may hold what no graph accepts.
            if let Ok(graph) = decode(&builder.finish(output)) {
                let graph = graph.expect("not scratch");
                prop_assert_eq!(&graph.vertex(graph.target().vertex).op, &Op::Source(SourceOp::Git(source)));
            }
        }
    }
}
