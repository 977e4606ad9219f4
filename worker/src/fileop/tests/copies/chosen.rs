//! Which files a copy takes.

use super::*;

#[test]
fn which_files_are_meant() {
    let row = dockerfile_copy;
    let strict = |src: &str| CopyAction {
        allow_empty_wildcard: false,
        ..dockerfile_copy(src, "/d/")
    };
    let literal = |src: &str| CopyAction {
        allow_wildcard: false,
        ..dockerfile_copy(src, "/d/")
    };
    let unfollowed = |src: &str| CopyAction {
        follow_symlink: false,
        ..dockerfile_copy(src, "/d/")
    };
    let source =
        "a.txt = 1\nb.txt = 2\n.txt = 3\ns/\ns/x/\ns/x/z = 4\ns/y = 5\nl -> a.txt\nls -> s\n[c] = 6\nbad -> no";
    copies(&[
        (
            "star",
            "",
            source,
            row("*.txt", "/d/"),
            Ok("d/ 755\nd/.txt = 3 644\nd/a.txt = 1 644\nd/b.txt = 2 644"),
        ),
        (
            "question mark, class",
            "",
            source,
            row("/[^b].tx?", "/d/"),
            Ok("d/ 755\nd/a.txt = 1 644"),
        ),
        (
            "directories contribute their contents",
            "",
            source,
            row("s/*", "/d/"),
            Ok("d/ 755\nd/y = 5 644\nd/z = 4 644"),
        ),
        ("two levels", "", source, row("**/z", "/d/"), Ok("")),
        (
            "three levels",
            "",
            source,
            row("**/*/z", "/d/"),
            Ok("d/ 755\nd/z = 4 644"),
        ),
        ("last one wins", "", source, row("?.txt", "/d"), Ok("d = 2 644")),
        ("no match, nothing happens", "", source, row("q*", "/d/"), Ok("")),
        ("no match, error", "", source, strict("q*"), Err("q* not found")),
        (
            "escaped wildcard",
            "",
            source,
            row("[[]c]", "/d/"),
            Ok("d/ 755\nd/[c] = 6 644"),
        ),
        (
            "no wildcards allowed",
            "",
            source,
            literal("[c]"),
            Ok("d/ 755\nd/[c] = 6 644"),
        ),
        (
            "no wildcards allowed, missing",
            "",
            source,
            literal("*.txt"),
            Err("lstat /*.txt: no such file or directory"),
        ),
        (
            "link is followed, keeps its name",
            "",
            source,
            row("l", "/d/"),
            Ok("d/ 755\nd/l = 1 644"),
        ),
        (
            "link to a directory is followed",
            "",
            source,
            row("ls", "/d"),
            Ok("d/ 755\nd/x/ 755\nd/x/z = 4 644\nd/y = 5 644"),
        ),
        (
            "link is not followed",
            "",
            source,
            unfollowed("l"),
            Ok("d/ 755\nd/l -> a.txt"),
        ),
        (
            "link on the way is followed",
            "",
            source,
            unfollowed("ls/y"),
            Ok("d/ 755\nd/y = 5 644"),
        ),
        (
            "wildcard below a link",
            "",
            source,
            row("ls/y*", "/d/"),
            Ok("d/ 755\nd/y = 5 644"),
        ),
        (
            "wildcard below a link that is not followed",
            "",
            source,
            unfollowed("ls/y*"),
            Ok(""),
        ),
        ("wildcards do not enter links", "", source, row("l?/y", "/d/"), Ok("")),
        (
            "links inside are copied",
            "",
            "s/\ns/l -> /etc",
            row("s", "/d/"),
            Ok("d/ 755\nd/l -> /etc"),
        ),
        (
            "dangling link",
            "",
            source,
            row("bad", "/d/"),
            Err("lstat /bad: no such file or directory"),
        ),
        (
            "malformed",
            "",
            source,
            row("[]a", "/d/"),
            Err("invalid path pattern: [[]a]: syntax error in pattern"),
        ),
    ]);
}

#[test]
fn patterns_choose_what_is_copied() {
    let list = |patterns: &[&str]| patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let only = |include: &[&str], exclude: &[&str]| CopyAction {
        include: list(include),
        exclude: list(exclude),
        ..dockerfile_copy("/s", "/d/")
    };
    let needs = |required: &[&str]| CopyAction {
        required_paths: list(required),
        ..only(&["**"], &[])
    };
    let source = "s/\ns/a.txt = 1\ns/t/ 711\ns/t/b.txt = 2\ns/t/c = 3\ns/u/ 700\ns/u/v/\ns/l -> t\nf.txt = 4";
    let file = CopyAction {
        exclude: list(&["*"]),
        ..dockerfile_copy("f.txt", "/d/")
    };
    copies(&[
        (
            "included, parents with their look",
            "",
            source,
            only(&["**/b.txt"], &[]),
            Ok("d/ 755\nd/t/ 711\nd/t/b.txt = 2 644"),
        ),
        (
            "a directory with all that is in it",
            "",
            source,
            only(&["u"], &[]),
            Ok("d/ 755\nd/u/ 700\nd/u/v/ 755"),
        ),
        ("nothing", "", source, only(&["q"], &[]), Ok("d/ 755")),
        (
            "top level only",
            "",
            source,
            only(&[], &["*.txt", "u", "l"]),
            Ok("d/ 755\nd/t/ 711\nd/t/b.txt = 2 644\nd/t/c = 3 644"),
        ),
        (
            "everywhere",
            "",
            source,
            only(&[], &["**/*.txt", "u", "l"]),
            Ok("d/ 755\nd/t/ 711\nd/t/c = 3 644"),
        ),
        (
            "with an exception",
            "",
            source,
            only(&[], &["*", "!t/c"]),
            Ok("d/ 755\nd/t/ 711\nd/t/c = 3 644"),
        ),
        (
            "both",
            "",
            source,
            only(&["t", "a.txt"], &["t/c"]),
            Ok("d/ 755\nd/a.txt = 1 644\nd/t/ 711\nd/t/b.txt = 2 644"),
        ),
        (
            "directories stay, if empty",
            "",
            source,
            only(&[], &["t/*", "u/*", "a.txt", "l"]),
            Ok("d/ 755\nd/t/ 711\nd/u/ 700"),
        ),
        (
            "a file itself is not left out",
            "",
            source,
            file,
            Ok("d/ 755\nd/f.txt = 4 644"),
        ),
        (
            "malformed",
            "",
            source,
            only(&[], &["["]),
            Err("invalid excludepatterns: [[]: syntax error in pattern"),
        ),
        (
            "required and there",
            "",
            "s/\ns/a = 1",
            needs(&["a"]),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        (
            "required and missing",
            "",
            source,
            needs(&["t/x"]),
            Err("\"/s/t/x\": not found"),
        ),
        (
            "required below a link",
            "",
            source,
            needs(&["l/c"]),
            Err("\"/s/l/c\": not found"),
        ),
        (
            "required is the source itself",
            "",
            source,
            needs(&["/"]),
            Err("\"/s\": not found"),
        ),
    ]);
}
