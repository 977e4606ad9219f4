//! Archives that a copy extracts.

use super::*;

#[test]
fn archives_are_extracted() {
    let add = |src: &str, dest: &str| CopyAction {
        attempt_unpack: true,
        ..dockerfile_copy(src, dest)
    };
    let source = "t = TAR:x\nn = none\ns/\ns/t = TAR:x";
    copies(&[
        (
            "into a new directory",
            "",
            source,
            add("t", "/d"),
            Ok("d/ 755\nd/x = extracted 644"),
        ),
        (
            "owner",
            "",
            source,
            CopyAction {
                owner: ids(4, 5),
                ..add("t", "/d")
            },
            Ok("d/ 755 : 4 5\nd/x = extracted 644 : 4 5"),
        ),
        ("no archive", "", source, add("n", "/d"), Ok("d = none 644")),
        (
            "named by a link, which is not followed otherwise",
            "",
            "t = TAR:x\nn = none\nl/\nl/t -> /t\nl/n -> ../n\nl/gone -> nowhere",
            CopyAction {
                follow_symlink: false,
                ..add("l/*", "/d/")
            },
            Ok("d/ 755\nd/gone -> nowhere\nd/n -> ../n\nd/x = extracted 644"),
        ),
        (
            "not inside directories",
            "",
            source,
            add("s", "/d"),
            Ok("d/ 755\nd/t = TAR:x 644"),
        ),
        (
            "wildcards",
            "",
            source,
            add("[nt]", "/d/"),
            Ok("d/ 755\nd/n = none 644\nd/x = extracted 644"),
        ),
        (
            "not asked for",
            "",
            source,
            dockerfile_copy("t", "/d"),
            Ok("d = TAR:x 644"),
        ),
        (
            "onto a file",
            "d = 1",
            source,
            add("t", "/d"),
            Err("mkdir /d: not a directory"),
        ),
    ]);
}
