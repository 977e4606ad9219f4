//! One record of comma-separated values, as options such as `--mount` are written.

/// Splits one record. A field in double quotes may contain commas; `""` inside is a quote.
///
/// # Errors
/// What is wrong, in the words of Go's `encoding/csv`.
pub fn record(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted, text.len() - quoted.len())?,
            None => {
                let (field, tail) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if let Some(at) = field.find('"') {
                    return Err(format!(
                        "parse error on line 1, column {}: bare \" in non-quoted-field",
                        text.len() - rest.len() + at + 1
                    ));
                }
                (field.to_owned(), tail)
            }
        };
        fields.push(field);
        match tail.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

fn quoted_field(mut rest: &str, offset: usize) -> Result<(String, &str), String> {
    let mut field = String::new();
    let whole = rest.len();
    loop {
        let Some(end) = rest.find('"') else {
            return Err(format!(
                "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
                offset + whole + 1
            ));
        };
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.as_bytes().first() {
            Some(b'"') => {
                field.push('"');
                rest = &rest[1..];
            }
            None | Some(b',') => return Ok((field, rest)),
            Some(_) => {
                return Err(format!(
                    "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
                    offset + whole - rest.len()
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_split_at_commas_outside_of_quotes() {
        assert_eq!(record("a,b=c,").unwrap(), ["a", "b=c", ""]);
        assert_eq!(record("\"a,b\",c").unwrap(), ["a,b", "c"]);
        assert_eq!(record("\"a\"\"b\"").unwrap(), ["a\"b"]);
        assert_eq!(record("").unwrap_err(), "EOF");
        assert!(record("a\"b").is_err() && record("\"a").is_err() && record("\"a\"b").is_err());
    }
}
