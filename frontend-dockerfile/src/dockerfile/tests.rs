use proptest::prelude::*;

use super::{Dockerfile, MAX_ERRORS};

#[test]
fn several_errors_are_reported_at_once() {
    let file = Dockerfile::parse(b"RUN x\nFROM scratch\nFOO\nCOPY a\nCMD [1]\n");
    let messages: Vec<&str> = file.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "when using JSON array syntax, arrays must be comprised of strings only",
            "no build stage in current context",
            "dockerfile parse error on line 3: unknown instruction: FOO (did you mean FROM?)",
            "dockerfile parse error on line 4: COPY requires at least two arguments, but only one was provided. \
             Destination could not be determined",
        ]
    );
    assert_eq!(file.stages.len(), 1);
}

#[test]
fn large_files_are_read() {
    let text = format!(
        "FROM a\n{}",
        "RUN echo something \\\n && echo more # x\n".repeat(100_000)
    );
    assert_eq!(Dockerfile::parse(text.as_bytes()).stages[0].instructions.len(), 100_000);
    let joined = format!("FROM a\nENV {}", "a=b \\\n".repeat(500_000));
    assert_eq!(Dockerfile::parse(joined.as_bytes()).errors, []);
}

#[test]
fn stages_are_bounded() {
    let file = Dockerfile::parse("FROM scratch\n".repeat(20_100).as_bytes());
    assert_eq!((file.stages.len(), file.errors.len()), (Dockerfile::MAX_STAGES, 1));
}

#[test]
fn a_mistake_is_told_of_once() {
    let messages = |text: &str| -> Vec<String> {
        let errors = Dockerfile::parse(text.as_bytes()).errors.into_iter();
        errors.map(|error| error.message).collect()
    };
    for (text, want) in [
        ("FROM a b\nRUN x\nCOPY a b\n", 1),
        ("RUN x\nRUN y\nFROM a\n", 1),
        ("FROM a\nENV a=b c\n", 1),
        ("FROM a\nENV a\nCOPY x\nFOO\n", 3),
        ("FROM a\nCOPY <<EOF\n", 1),
        ("FROM a\nRUN <<A <<B <<C\nA\n", 1),
    ] {
        assert_eq!(messages(text).len(), want, "{text:?}: {:?}", messages(text));
    }
    assert_eq!(messages(&"FOO\n".repeat(5_000)).len(), MAX_ERRORS);
    assert_eq!(
        messages(&("FROM a\n".to_owned() + &"ENV a\n".repeat(5_000))).len(),
        MAX_ERRORS
    );
}

#[test]
fn one_body_of_many_names_is_bounded() {
    let named = "<<A ".repeat(10_000);
    let ends = "A\n".repeat(9_999);
    let body = "x\n".repeat(100_000);
    let file = Dockerfile::parse(format!("FROM a\nCOPY {named}/d/\n{ends}{body}A\n").as_bytes());
    assert_eq!(
        file.errors[0].message,
        "dockerfile parse error on line 2: heredocs come to more than 64 MiB"
    );
}

proptest! {
    #[test]
    fn any_text_is_a_dockerfile_or_has_errors(text in "(FROM |a|AS |\n|RUN |--mount=|COPY |ENV |HEALTHCHECK |ONBUILD |VOLUME |CMD |<<E|E\n|\\\\\n|#|\"|\\[|\\]|,|é| |=|\\$\\{|:|-){0,40}") {
        let file = Dockerfile::parse(text.as_bytes());
        prop_assert!(!file.errors.is_empty() || !file.stages.is_empty());
    }
}
