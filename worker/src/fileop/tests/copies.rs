//! The rules of copying, a row each: where copies go.

use super::*;

mod archives;
mod chosen;
mod looks;

/// What is shown, destination, source, copy, outcome.
type Row<'a> = (&'a str, &'a str, &'a str, CopyAction, Result<&'a str, &'a str>);

fn copies(rows: &[Row<'_>]) {
    if !is_root_or_skip() {
        return;
    }
    for (what, dest, source, action, want) in rows {
        check(what, dest, source, &FileActionKind::Copy(action.clone()), *want);
    }
}

#[test]
fn where_a_file_goes() {
    let row = dockerfile_copy;
    copies(&[
        ("new name", "", "a = 1", row("a", "/b"), Ok("b = 1 644")),
        (
            "into a directory that is there",
            "d/",
            "a = 1",
            row("/a", "/d"),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        (
            "into a directory by its slash",
            "",
            "a = 1",
            row("a", "/d/"),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        (
            "into a directory by its dot",
            "",
            "a = 1",
            row("a", "/d/."),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        ("into the root", "", "a = 1", row("a", "/"), Ok("a = 1 644")),
        (
            "parents are made",
            "",
            "a = 1",
            row("a", "/x/y/b"),
            Ok("x/ 755\nx/y/ 755\nx/y/b = 1 644"),
        ),
        (
            "parents keep their look",
            "x/ 700\nx : 7 8",
            "a = 1",
            row("a", "/x/b"),
            Ok("x/ 700 : 7 8\nx/b = 1 644"),
        ),
        (
            "replaces a file",
            "b = old 600",
            "a = 1",
            row("a", "/b"),
            Ok("b = 1 644"),
        ),
        (
            "replaces what a link leads to",
            "b -> c\nc = old",
            "a = 1",
            row("a", "/b"),
            Ok("b -> c\nc = 1 644"),
        ),
        (
            "replaces a link in a directory",
            "d/\nd/a -> ../c\nc = old",
            "a = 1",
            row("a", "/d/"),
            Ok("c = old 644\nd/ 755\nd/a = 1 644"),
        ),
        (
            "through a link to a directory",
            "l -> d\nd/",
            "a = 1",
            row("a", "/l/"),
            Ok("d/ 755\nd/a = 1 644\nl -> d"),
        ),
        (
            "through a link, without slash",
            "l -> /d\nd/",
            "a = 1",
            row("a", "/l"),
            Ok("d/ 755\nd/a = 1 644\nl -> /d"),
        ),
        (
            "dangling link",
            "l -> /tmp/zz",
            "a = 1",
            row("a", "/l"),
            Ok("l -> /tmp/zz\ntmp/ 755\ntmp/zz = 1 644"),
        ),
        (
            "parent is a file",
            "f = 1",
            "a = 1",
            row("a", "/f/b"),
            Err("mkdir /f: not a directory"),
        ),
        (
            "directory is a file",
            "f = 1",
            "a = 1",
            row("a", "/f/"),
            Err("mkdir /f: not a directory"),
        ),
        (
            "over a directory",
            "d/\nd/a/",
            "a = 1",
            row("a", "/d/"),
            Err("cannot replace to directory /d/a with file"),
        ),
        (
            "missing",
            "",
            "",
            row("x", "/"),
            Err("lstat /x: no such file or directory"),
        ),
        (
            "missing, below a file",
            "",
            "a = 1",
            row("a/x", "/"),
            Err("lstat /a/x: no such file or directory"),
        ),
    ]);
}

#[test]
fn where_a_directory_goes() {
    let contents = dockerfile_copy;
    let itself = |src: &str, dest: &str| CopyAction {
        dir_copy_contents: false,
        ..dockerfile_copy(src, dest)
    };
    let source = "s/ 700\ns/a = 1\ns/t/ 711\ns/t/b = 2";
    copies(&[
        (
            "contents, new",
            "",
            source,
            contents("s", "/d"),
            Ok("d/ 755\nd/a = 1 644\nd/t/ 711\nd/t/b = 2 644"),
        ),
        (
            "contents, there",
            "d/ 750",
            source,
            contents("s", "/d"),
            Ok("d/ 750\nd/a = 1 644\nd/t/ 711\nd/t/b = 2 644"),
        ),
        (
            "contents, to the root",
            "",
            source,
            contents("s/", "/"),
            Ok("a = 1 644\nt/ 711\nt/b = 2 644"),
        ),
        (
            "everything",
            "",
            "a = 1\nt/",
            contents("/", "/d/"),
            Ok("d/ 755\nd/a = 1 644\nd/t/ 755"),
        ),
        (
            "itself, new",
            "",
            source,
            itself("s", "/d"),
            Ok("d/ 700\nd/a = 1 644\nd/t/ 711\nd/t/b = 2 644"),
        ),
        (
            "itself, there",
            "d/",
            source,
            itself("s", "/d"),
            Ok("d/ 755\nd/s/ 700\nd/s/a = 1 644\nd/s/t/ 711\nd/s/t/b = 2 644"),
        ),
        (
            "itself, by slash",
            "",
            "s/\ns/a = 1",
            itself("s", "/d/"),
            Ok("d/ 755\nd/s/ 755\nd/s/a = 1 644"),
        ),
        (
            "merged",
            "d/\nd/t/ 700\nd/t/c = 3\nd/a -> t",
            source,
            contents("s", "/d"),
            Ok("d/ 755\nd/a = 1 644\nd/t/ 711\nd/t/b = 2 644\nd/t/c = 3 644"),
        ),
        (
            "onto a file",
            "d = x",
            source,
            contents("s", "/d"),
            Err("cannot copy to non-directory: /d"),
        ),
        (
            "a directory onto a file",
            "d/\nd/t = x",
            source,
            contents("s", "/d"),
            Err("cannot copy to non-directory: /d/t"),
        ),
        (
            "a directory onto a link",
            "d/\nd/t -> /e\ne/",
            source,
            contents("s", "/d"),
            Err("cannot copy to non-directory: /d/t"),
        ),
        (
            "a file onto a directory",
            "d/\nd/a/",
            source,
            contents("s", "/d"),
            Err("cannot replace to directory /d/a with file"),
        ),
    ]);
}

#[test]
fn replacing_other_types() {
    let row = |src: &str, dest: &str| CopyAction {
        always_replace: true,
        ..dockerfile_copy(src, dest)
    };
    copies(&[
        (
            "file over directory",
            "d/\nd/a/\nd/a/x = 1",
            "a = 1",
            row("a", "/d/"),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        (
            "directory over file",
            "d/\nd/t = x",
            "s/\ns/t/\ns/t/b = 2",
            row("s", "/d"),
            Ok("d/ 755\nd/t/ 755\nd/t/b = 2 644"),
        ),
        (
            "directory over link",
            "d/\nd/t -> /e\ne/",
            "s/\ns/t/\ns/t/b = 2",
            row("s", "/d"),
            Ok("d/ 755\nd/t/ 755\nd/t/b = 2 644\ne/ 755"),
        ),
    ]);
}

#[test]
fn plain_copies_take_paths_as_they_are() {
    copies(&[
        ("file", "", "a = 1", plain_copy("/a", "/b"), Ok("b = 1 644")),
        (
            "directory",
            "",
            "s/ 700\ns/a = 1",
            plain_copy("/s", "/b"),
            Ok("b/ 700\nb/a = 1 644"),
        ),
        ("link", "", "l -> a", plain_copy("/l", "/b"), Ok("b -> a")),
        (
            "parent",
            "",
            "a = 1",
            plain_copy("/a", "/x/b"),
            Err("failed to stat /x/b: no such file or directory"),
        ),
    ]);
}
