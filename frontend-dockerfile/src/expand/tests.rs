use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Expander, NoVariables};
use crate::testing::cases;

fn variables() -> BTreeMap<String, String> {
    [("v", "foobarbaz"), ("e", ""), ("p", "/a/b.tar.gz"), ("n", "a\nb")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

fn expand(escape: char, word: &str) -> Result<String, String> {
    Expander::new(escape)
        .expand(word, &variables())
        .map(|e| e.value.into_owned())
        .map_err(|e| e.cause.to_string())
}

#[test]
fn errors_show_the_word() {
    let error = Expander::new('\\').expand("\"a", &NoVariables).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to process \"\\\"a\": unexpected end of statement while looking for matching double-quote"
    );
}

/// A word per line; how they are read is the option `as`.
#[test]
fn words_expand_as_they_are_meant() {
    cases::check("expand", |case| {
        let how = match case.options.first().map(|(_, how)| how.as_str()) {
            None => Expander::new('\\'),
            Some("backquote") => Expander::new('`'),
            Some("body") => Expander::heredoc_body(),
            Some("display") => Expander::display('\\'),
            Some(other) => panic!("{}: what is {other}?", case.name),
        };
        let line = |word: &str| match how.expand(word, &variables()) {
            Ok(expanded) => format!("{word} = {}", expanded.value.replace('\n', "⏎")),
            Err(error) => format!("{word} : {}", error.cause),
        };
        case.input.lines().map(line).collect::<Vec<_>>().join("\n")
    });
}

#[test]
fn heredoc_bodies_keep_quotes() {
    let variables = variables();
    let body = Expander::heredoc_body()
        .expand("$v \\$v '$v' \"$e\" \\n\n", &variables)
        .unwrap();
    assert_eq!(body.value, "foobarbaz $v 'foobarbaz' \"\" n\n");
}

#[test]
fn commands_are_shown_with_what_is_known() {
    let variables = variables();
    let shown = Expander::display('\\')
        .expand("echo $v ${u} ${u:-d} \\$x \"a b\" a\\ b", &variables)
        .unwrap();
    assert_eq!(shown.value, "echo foobarbaz ${u} ${u:-d} $x \"a b\" a b");
}

#[test]
fn names_are_told_apart_by_whether_they_have_a_value() {
    let variables = variables();
    let expanded = Expander::new('\\').expand("$v ${u:-$w} ${v:-$x}", &variables).unwrap();
    assert!(expanded.matched.into_iter().eq(["v"]));
    assert!(expanded.unmatched.into_iter().eq(["u", "w", "x"]));
}

#[test]
fn values_are_split_into_words_unless_quoted() {
    let vars: BTreeMap<String, String> = [("b".to_owned(), "81 82".to_owned())].into();
    let words = |text: &str| Expander::new('\\').words(text, &vars).unwrap();
    assert_eq!(words("${b}"), ["81", "82"]);
    assert_eq!(words("\"${b}\" 'x y'z"), ["81 82", "x yz"]);
    assert_eq!(words("$u"), [""; 0]);
    assert_eq!(words("''"), [""]);
}

#[test]
fn hostile_words_are_bounded() {
    assert!(expand('\\', &"${a:-".repeat(100_000)).is_err());
    let vars: BTreeMap<String, String> = [("a".to_owned(), "x".repeat(1000))].into();
    assert!(Expander::new('\\').expand(&"$a".repeat(2_000), &vars).is_err());
}

#[test]
fn replacements_and_patterns_are_bounded() {
    let vars: BTreeMap<String, String> = [
        ("a".to_owned(), "x".repeat(200_000)),
        ("match".to_owned(), "$0".repeat(50_000)),
        ("p".to_owned(), format!("*{}y", "x".repeat(1_000))),
    ]
    .into();
    for (word, want) in [
        ("${a//$u/$a}", "result is longer than"),
        ("${a//*/$match}", "result is longer than"),
        (
            "${a#$p}",
            "patterns and values in substitutions are too long to be matched",
        ),
        (
            "${a/$p/}",
            "patterns and values in substitutions are too long to be matched",
        ),
    ] {
        let error = Expander::new('\\').expand(word, &vars).unwrap_err();
        assert!(error.cause.to_string().starts_with(want), "{word}: {}", error.cause);
    }
}

#[test]
fn replacements_of_every_match_are_templates() {
    let vars: BTreeMap<String, String> = [("v", "abab"), ("t", "<$0${0}$$-$x.$>")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let expand = |word: &'static str| Expander::new('\\').expand(word, &vars).unwrap().value;
    assert_eq!(expand("${v//b/$t}"), "a<bb$-.$>a<bb$-.$>");
    assert_eq!(expand("${v/b/$t}"), "a<$0${0}$$-$x.$>ab");
}

#[test]
fn long_texts_expand() {
    let text = "word ".repeat(1 << 20);
    let expanded = Expander::heredoc_body().expand(&text, &NoVariables).unwrap();
    assert_eq!(expanded.value, text);
}

proptest! {
    #[test]
    fn any_text_expands_or_fails(word in "[$\\{\\}:#%/?+\\-a-c'\"\\\\<* é]{0,24}") {
        for how in [Expander::new('\\'), Expander::new('`'), Expander::heredoc_body(), Expander::display('\\'), Expander::raw_words()] {
            drop(how.expand(&word, &variables()));
        }
    }

    #[test]
    fn raw_words_rejoin_to_the_text(word in "[a-c'\"\\\\ ]{0,24}") {
        if let Ok(words) = Expander::raw_words().words(&word, &NoVariables) {
            let squeezed = |text: &str| text.replace(' ', "");
            prop_assert_eq!(squeezed(&words.concat()), squeezed(&word));
        }
    }
}
