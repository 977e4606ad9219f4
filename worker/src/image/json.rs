//! JSON text, laid out anew: numbers and the order of members stay as they were written.

/// Removes white space outside strings. `json` must be valid.
pub(super) fn compact(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    for_each_token(json, |byte, _| out.push(byte));
    out
}

/// Removes white space as [`compact`] does, and writes `<`, `>`, `&` and two separators of lines in strings as escapes, as
/// builders written in Go do: documents that say the same then have the same digest. `json` must be valid.
pub(super) fn compact_escaped(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    for_each_token(json, |byte, _| {
        out.push(byte);
        let (length, escape): (usize, &[u8]) = match byte {
            b'<' => (1, br"\u003c"),
            b'>' => (1, br"\u003e"),
            b'&' => (1, br"\u0026"),
            0xa8 if out.ends_with("\u{2028}".as_bytes()) => (3, br"\u2028"),
            0xa9 if out.ends_with("\u{2029}".as_bytes()) => (3, br"\u2029"),
            _ => return,
        };
        out.truncate(out.len() - length);
        out.extend_from_slice(escape);
    });
    out
}

/// Indents by two spaces, with nothing inside empty objects and arrays. `json` must be valid. What is deeply nested
/// grows a lot: `None` if that would be more than `max` bytes.
pub(super) fn indent(json: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut is_open = false;
    for_each_token(json, |byte, in_string| {
        if out.len() > max {
            return;
        }
        if in_string {
            if is_open {
                line(&mut out, depth);
                is_open = false;
            }
            out.push(byte);
            return;
        }
        match byte {
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !is_open {
                    line(&mut out, depth);
                }
                is_open = false;
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => {
                if is_open {
                    line(&mut out, depth);
                }
                is_open = matches!(byte, b'{' | b'[');
                depth += usize::from(is_open);
                out.push(byte);
            }
        }
    });
    (out.len() <= max).then_some(out)
}

fn line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.extend(std::iter::repeat_n(b' ', depth * 2));
}

/// Calls `each` for every byte that is no white space between tokens, and says whether it belongs to a string.
fn for_each_token(json: &[u8], mut each: impl FnMut(u8, bool)) {
    let mut in_string = false;
    let mut is_escaped = false;
    for &byte in json {
        if in_string {
            each(byte, true);
            in_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
        } else if byte == b'"' {
            in_string = true;
            each(byte, true);
        } else if !byte.is_ascii_whitespace() {
            each(byte, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const ODD: &str = r#" { "a\" {" : [ 1.50e3 , -0 ,[ ],{ } , "x , y" ], "b":null } "#;

    #[test]
    fn only_white_space_changes() {
        let short = r#"{"a\" {":[1.50e3,-0,[],{},"x , y"],"b":null}"#;
        assert_eq!(compact(ODD.as_bytes()), short.as_bytes());
        let long = "{\n  \"a\\\" {\": [\n    1.50e3,\n    -0,\n    [],\n    {},\n    \"x , y\"\n  ],\n  \"b\": null\n}";
        assert_eq!(String::from_utf8(indent(ODD.as_bytes(), 1000).unwrap()).unwrap(), long);
    }

    #[test]
    fn what_browsers_could_take_for_markup_is_escaped() {
        let text = "{ \"<a>\" : \"x & y \u{2028}\u{2029}\u{2027}ü\\n\" }";
        let want = r#"{"\u003ca\u003e":"x \u0026 y \u2028\u2029"#.to_owned() + "\u{2027}ü\\n\"}";
        assert_eq!(String::from_utf8(compact_escaped(text.as_bytes())).unwrap(), want);
    }

    #[test]
    fn what_would_grow_a_lot_is_not_indented() {
        let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
        assert_eq!(indent(deep.as_bytes(), 1 << 20), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn both_forms_are_those_of_a_serializer(value in any_json()) {
            let short = serde_json::to_vec(&value).unwrap();
            let long = serde_json::to_vec_pretty(&value).unwrap();
            prop_assert_eq!(compact(&long), short.clone());
            let escaped = serde_json::from_slice::<Value>(&compact_escaped(&long)).unwrap();
            prop_assert_eq!(escaped, value);
            prop_assert_eq!(indent(&short, usize::MAX), Some(long.clone()));
            prop_assert_eq!(indent(&long, long.len()), Some(long.clone()));
            prop_assert_eq!(indent(&long, long.len() - 1), None);
        }
    }
}
