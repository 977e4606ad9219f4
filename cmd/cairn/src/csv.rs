//! One line of comma-separated values, quoted as in RFC 4180, and the `key=value` lists written in it.

use crate::error::CliError;

/// Splits a line into its fields.
///
/// # Errors
/// An unclosed quote, or text after a closing one.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => plain_field(rest)?,
        };
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

fn plain_field(text: &str) -> Result<(String, Option<&str>), &'static str> {
    let (field, after) = match text.split_once(',') {
        Some((field, after)) => (field, Some(after)),
        None => (text, None),
    };
    if field.contains('"') {
        return Err("a quote inside an unquoted field");
    }
    Ok((field.to_owned(), after))
}

/// `text` begins after the opening quote.
fn quoted_field(text: &str) -> Result<(String, Option<&str>), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"').ok_or("a quote that is not closed")?;
        field.push_str(before);
        if let Some(more) = after.strip_prefix('"') {
            field.push('"');
            rest = more;
        } else if after.is_empty() {
            return Ok((field, None));
        } else {
            let after = after.strip_prefix(',').ok_or("text after a closing quote")?;
            return Ok((field, Some(after)));
        }
    }
}

/// Joins values into one field list that [`fields`] splits into the same values.
pub(crate) fn join<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let quoted = values.into_iter().map(|value| {
        if value.contains(['"', ',']) {
            format!("\"{}\"", value.replace('"', "\"\""))
        } else {
            value.to_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(",")
}

/// Reads the `key=value` pairs of an option such as `--output`; a key without value has none.
///
/// # Errors
/// [`CliError::Usage`] that names the option.
pub(crate) fn pairs(option: &str, line: &str) -> Result<Vec<(String, Option<String>)>, CliError> {
    let fields = fields(line).map_err(|reason| CliError::usage(format!("invalid {option} {line:?}: {reason}")))?;
    fields
        .into_iter()
        .map(|field| {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (field.as_str(), None),
            };
            let key = key.trim().to_ascii_lowercase();
            if key.is_empty() {
                return Err(CliError::usage(format!(
                    "invalid {option} {line:?}: a field has no name"
                )));
            }
            Ok((key, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_fields() {
        for (line, expected) in [
            ("", &[""] as &[&str]),
            ("a", &["a"]),
            ("a,b=c,", &["a", "b=c", ""]),
            (r#""a,b",c"#, &["a,b", "c"]),
            (r#""a ""b""""#, &[r#"a "b""#]),
            (r#"type=image,"name=a,b""#, &["type=image", "name=a,b"]),
        ] {
            assert_eq!(fields(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn refuses_broken_quotes() {
        for line in [r#""a"#, r#""a"b"#, r#"a"b"#] {
            assert!(fields(line).is_err(), "{line}");
        }
    }

    #[test]
    fn joining_is_the_reverse_of_splitting() {
        for values in [&["a", "b"] as &[&str], &["a,b", "c\"d"], &[""]] {
            assert_eq!(fields(&join(values.iter().copied())).unwrap(), values);
        }
    }
}
