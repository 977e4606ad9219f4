//! What the fuzz targets check, with random input; so it is checked in every run, and the targets keep compiling.

use proptest::prelude::*;

#[path = "../fuzz/src/dockerfile.rs"]
mod dockerfile;
#[path = "../fuzz/src/expansion.rs"]
mod expansion;
#[path = "../fuzz/src/patterns.rs"]
mod patterns;

/// Text of the pieces that Dockerfiles are made of.
fn dockerfile_text() -> impl Strategy<Value = String> {
    let pieces = [
        "FROM a",
        "FROM a AS b",
        "\n",
        "\n",
        "\n",
        " ",
        " ",
        "\t",
        "\u{b}",
        "\u{a0}",
        "\r\n",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "LABEL ",
        "ARG ",
        "CMD ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD",
        "VOLUME ",
        "EXPOSE ",
        "USER ",
        "foo ",
        "--x=",
        "--",
        "--'",
        "--mount=type=bind,",
        "<<E",
        "<<-\"E\"",
        "1<<E",
        "E\n",
        "\tE\n",
        "<< ",
        "\\\n",
        "\\ \n",
        "`\n",
        "\\",
        "`",
        "#",
        "# c\n",
        "#\n",
        "# escape=`\n",
        "# check=skip=all\n",
        "\"",
        "'",
        "[\"a\"",
        ",\"b\"]",
        "[",
        "]",
        ",",
        "a",
        "b=c",
        "é",
        "=",
        "${",
        "$a",
        "}",
        "\u{feff}",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn any_bytes_are_a_dockerfile_or_have_errors(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        dockerfile::check(&data);
    }

    #[test]
    fn printed_trees_parse_to_themselves(text in dockerfile_text()) {
        dockerfile::check(text.as_bytes());
    }

    #[test]
    fn any_word_expands_or_fails(how in 0_u8..4, word in "([$\\{\\}:#%/?+\\-a-e'\"\\\\`<* é]|\\$\\{v|\\$\\{v//){0,24}") {
        expansion::check(&[&[how][..], word.as_bytes()].concat());
    }

    #[test]
    fn any_ignore_file_decides_or_is_refused(file in "([!#*?/a-c.\\[\\]^\\-\\\\]|\\*\\*|\n| ){0,40}", path in "[a-c.]{1,3}(/[a-c]{1,2}){0,3}") {
        patterns::check(&[file.as_bytes(), b"\0", path.as_bytes()].concat());
    }
}
