//! What is found in Dockerfiles beside what is wrong.

use super::*;

/// The rules that fire, in order.
fn warnings(dockerfile: &str, options: &[(&str, &str)]) -> Vec<String> {
    let (result, warnings) = checked(dockerfile, options);
    if let Err(error) = result {
        panic!("{dockerfile:?}: {error}");
    }
    warnings
}

/// The outcome, and the rules that fire, in order.
fn checked(dockerfile: &str, options: &[(&str, &str)]) -> (Result<FrontendResult, FrontendError>, Vec<String>) {
    let bridge = Arc::new(FakeBridge::new(dockerfile).file("context", ".dockerignore", "*.txt"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let result = runtime.block_on(solve(&bridge, options));
    let log = bridge.log.lock().unwrap();
    let warnings = log.iter().filter_map(|entry| entry.strip_prefix("W "));
    (result, warnings.map(str::to_owned).collect())
}

#[test]
fn builds_that_fail_are_checked_too() {
    for (dockerfile, error, want) in [
        (
            "FROM scratch\nLABEL r=\"$first ${second:?msg}$third\"",
            "failed to process",
            &[
                "UndefinedVar: Usage of undefined variable '$first' (line 2)",
                "UndefinedVar: Usage of undefined variable '$second' (line 2)",
            ][..],
        ),
        (
            "FROM $X",
            "base name ($X) should not be blank",
            &[
                "InvalidDefaultArgInFrom: Default value for ARG $X results in empty or invalid base image name (line 1)",
                "UndefinedArgInFrom: FROM argument 'X' is not declared (line 1)",
            ],
        ),
        (
            "FROM scratch\nEXPOSE 80:81-82\nCMD a",
            "invalid ranges specified",
            &[
                "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found \
                 '80:81-82' (line 2)",
            ],
        ),
        // What comes behind a wrong instruction is not looked at, and neither is how instructions fit together.
        (
            "FROM scratch AS a\nENV a b\nFROM scratch as a\nENV c $d \\\n\n e\nMAINTAINER x\nFOO\nMAINTAINER y",
            "dockerfile parse error on line 8: unknown instruction: FOO",
            &[
                "NoEmptyContinuation: Empty continuation line (line 6)",
                "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3)",
                "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 7)",
            ],
        ),
        ("FROM scratch as a\nENV a", "ENV must have two arguments", &[]),
    ] {
        let (result, found) = checked(dockerfile, &[]);
        let text = render(&result);
        assert!(text.starts_with(&format!("error: {error}")), "{dockerfile:?}: {text}");
        assert_eq!(found, want, "{dockerfile:?}");
    }
}

#[test]
fn unknown_options_are_told_of() {
    assert_eq!(
        warnings("FROM scratch", &[("bogus", "1")]),
        ["frontend option bogus is unknown and has no effect"]
    );
}

#[test]
fn directives_are_complained_about_where_others_do() {
    for (dockerfile, want) in [
        ("# escape=x\nFROM scratch", ""),
        ("# syntax=docker/dockerfile:1\n# escape=x\nFROM scratch", "1"),
        ("# escape=`\n# escape=`\nFROM scratch", "1"),
        ("# x\n# y", "2"),
    ] {
        let text = lowered(dockerfile, &[]);
        let place = text.trim_end().rsplit_once("at Dockerfile:").unwrap().1;
        assert_eq!(place.trim(), want, "{text}");
    }
}

#[test]
fn findings_say_what_and_where() {
    assert_eq!(
        warnings("FROM scratch\nENV PATH=$PATHH", &[]),
        ["UndefinedVar: Usage of undefined variable '$PATHH' (did you mean $PATH?) (line 2)"]
    );
    let twice = warnings("FROM scratch\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]", &[]);
    assert_eq!(
        twice,
        [
            "MultipleInstructionsDisallowed: Multiple ENTRYPOINT instructions should not be used in the same stage because \
          only the last one will be used (line 2)"
        ]
    );
}

#[test]
fn findings_can_be_made_errors() {
    let want = "lint violation found for rules: JSONArgsRecommended";
    assert_eq!(error("# check=error=true\nFROM scratch\nCMD a", &[]), want);
    let replaced = [("build-arg:BUILDKIT_DOCKERFILE_CHECK", "error=true")];
    assert_eq!(error("# check=skip=all\nFROM scratch\nCMD a", &replaced), want);
    assert_eq!(
        error("# check=foo\nFROM scratch", &[]),
        "failed to parse check options: invalid check option \"foo\""
    );
    assert_eq!(
        error("# check=foo=bar\nFROM scratch", &[]),
        "failed to parse check options: invalid check option \"foo\""
    );
}
