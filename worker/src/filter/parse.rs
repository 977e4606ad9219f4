//! The text of a filter.

use regex::Regex;

use super::{Term, Test};

/// Text that is no filter. Clients match on this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filters: parse error: [{}]: {message}: invalid argument", pointed_at(filter, *position))]
pub struct FilterError {
    filter: String,
    /// Bytes from the beginning.
    position: usize,
    message: String,
}

/// The filter with a mark around the character where it stops making sense.
fn pointed_at(filter: &str, position: usize) -> String {
    let (before, rest) = filter.split_at_checked(position).unwrap_or((filter, ""));
    let mut after = rest.chars();
    match after.next() {
        Some(here) => format!("{before} >|{here}|< {}", after.as_str()),
        None => filter.to_owned(),
    }
}

pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// All of the text; an empty one has no terms.
    pub(super) fn filter(mut self) -> Result<Vec<Term>, FilterError> {
        let mut terms = Vec::new();
        if self.text.is_empty() {
            return Ok(terms);
        }
        loop {
            terms.push(self.term()?);
            match self.peek() {
                None => return Ok(terms),
                Some(',') => self.at += 1,
                Some(other) => return Err(self.error(format!("unexpected input: {other}"))),
            }
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn error(&self, message: impl Into<String>) -> FilterError {
        self.error_at(self.at, message)
    }

    fn error_at(&self, position: usize, message: impl Into<String>) -> FilterError {
        FilterError {
            filter: self.text.to_owned(),
            position,
            message: message.into(),
        }
    }

    /// The longest run of `allowed` characters from here.
    fn run(&mut self, allowed: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let run = &rest[..rest.find(|c| !allowed(c)).unwrap_or(rest.len())];
        self.at += run.len();
        run
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        if matches!(self.peek(), None | Some(',')) {
            let test = Test::Present;
            return Ok(Term { path, test });
        }
        let test = match self.operator()? {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            _ => {
                let pattern = self.value(true)?;
                Test::Matches(Regex::new(&pattern).map_err(|error| self.error(error.to_string()))?)
            }
        };
        Ok(Term { path, test })
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_space();
        if let Some(quote) = self.quote() {
            return self.quoted(quote, false);
        }
        match self.run(|c| c.is_ascii_alphanumeric() || c == '_') {
            "" => Err(self.error("expected field or quoted")),
            field => Ok(field.to_owned()),
        }
    }

    fn operator(&mut self) -> Result<&'a str, FilterError> {
        self.skip_space();
        let at = self.at;
        match self.run(|c| matches!(c, '=' | '!' | '~')) {
            operator @ ("==" | "!=" | "~=") => Ok(operator),
            "" => Err(self.error("expected an operator (\"==\"|\"!=\"|\"~=\")")),
            operator => Err(self.error_at(at, format!("unsupported operator {operator:?}"))),
        }
    }

    /// What a field is compared with. Patterns have more kinds of quotes, of which they need not escape all.
    fn value(&mut self, is_pattern: bool) -> Result<String, FilterError> {
        self.skip_space();
        if let Some(quote) = self.quote() {
            return self.quoted(quote, is_pattern);
        }
        let begins = self.peek().is_some_and(|c| !matches!(c, '.' | '=' | '!' | '~'));
        let is_part = |c: char| c != ',' && !c.is_whitespace() && !c.is_control();
        match self.run(|c| begins && is_part(c)) {
            "" => Err(self.error("expected value or quoted")),
            value => Ok(value.to_owned()),
        }
    }

    /// The quote that something begins with here.
    fn quote(&self) -> Option<char> {
        self.peek().filter(|c| matches!(c, '"' | '/' | '|'))
    }

    fn quoted(&mut self, quote: char, is_pattern: bool) -> Result<String, FilterError> {
        let start = self.at;
        let mut chars = self.rest().char_indices().skip(1);
        let mut bytes = Vec::new();
        loop {
            match chars.next() {
                Some((offset, c)) if c == quote => {
                    if !is_pattern && quote != '"' {
                        return Err(self.error("invalid quote encountered"));
                    }
                    self.at += offset + 1;
                    return Ok(String::from_utf8_lossy(&bytes).into_owned());
                }
                None | Some((_, '\n')) => return Err(self.error_at(start, "quoted literal not terminated")),
                Some((_, '\\')) => {
                    let mut next = || chars.next().map(|(_, c)| c);
                    unescape(&mut next, quote, &mut bytes).map_err(|problem| self.error_at(start, problem))?;
                }
                Some((_, c)) => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
    }
}

/// Adds what a backslash and the characters behind it stand for, as in texts of Go.
fn unescape(next: &mut dyn FnMut() -> Option<char>, quote: char, bytes: &mut Vec<u8>) -> Result<(), &'static str> {
    let (first, radix, digits) = match next() {
        Some('x') => (0, 16, 2),
        Some('u') => (0, 16, 4),
        Some('U') => (0, 16, 8),
        Some(c @ '0'..='7') => (u32::from(c) - u32::from('0'), 8, 2),
        other => {
            bytes.push(match other {
                Some('a') => 0x07,
                Some('b') => 0x08,
                Some('f') => 0x0c,
                Some('n') => b'\n',
                Some('r') => b'\r',
                Some('t') => b'\t',
                Some('v') => 0x0b,
                Some('\\') => b'\\',
                Some(c) if c == quote => u8::try_from(c).unwrap_or(b'"'),
                _ => return Err("illegal escape sequence"),
            });
            return Ok(());
        }
    };
    let mut value = first;
    for _ in 0..digits {
        let digit = next().and_then(|digit| digit.to_digit(radix));
        let digit = digit.ok_or("illegal numeric escape sequence")?;
        value = value.saturating_mul(radix).saturating_add(digit);
    }
    if digits == 2 {
        // A byte, which need not be a character.
        bytes.push(u8::try_from(value).map_err(|_| "unquoting failed: quote syntax error")?);
    } else {
        let c = char::from_u32(value).ok_or("unquoting failed: quote syntax error")?;
        bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_where_it_begins() {
        for (filter, want) in [
            ("==x", "[ >|=|< =x]: expected field or quoted"),
            (",", "[ >|,|< ]: expected field or quoted"),
            (" ", "[ ]: expected field or quoted"),
            ("type==", "[type==]: expected value or quoted"),
            ("type==,x", "[type== >|,|< x]: expected value or quoted"),
            ("type==\"x", "[type== >|\"|< x]: quoted literal not terminated"),
            ("type==\"\\q\"", "[type== >|\"|< \\q\"]: illegal escape sequence"),
            (
                "type==\"\\x4\"",
                "[type== >|\"|< \\x4\"]: illegal numeric escape sequence",
            ),
            ("type==/x/", "[type== >|/|< x/]: invalid quote encountered"),
            ("a b", "[a  >|b|< ]: expected an operator (\"==\"|\"!=\"|\"~=\")"),
            ("a-b==c", "[a >|-|< b==c]: expected an operator (\"==\"|\"!=\"|\"~=\")"),
            ("type=x", "[type >|=|< x]: unsupported operator \"=\""),
            ("type===x", "[type >|=|< ==x]: unsupported operator \"===\""),
            ("type=!x", "[type >|=|< !x]: unsupported operator \"=!\""),
            ("a==b c", "[a==b >| |< c]: unexpected input:  "),
            ("a.,b", "[a. >|,|< b]: expected field or quoted"),
        ] {
            let error = Parser::new(filter).filter().map(drop).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("filters: parse error: {want}: invalid argument"),
                "{filter}"
            );
        }
        let error = Parser::new("type~=(").filter().map(drop).unwrap_err().to_string();
        assert!(
            error.starts_with("filters: parse error: [type~=(]: regex parse error"),
            "{error}"
        );
    }
}
