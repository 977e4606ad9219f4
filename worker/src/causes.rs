//! Errors as one line of text.

use std::error::Error;
use std::io;

/// The error and what led to it. A cause that the text before it repeats already is not said twice.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = words(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = words(error);
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

fn words(error: &(dyn Error + 'static)) -> String {
    error
        .downcast_ref::<io::Error>()
        .map_or_else(|| error.to_string(), system_words)
}

/// The system's words for an error, without Rust's addition of the number.
pub(crate) fn system_words(error: &io::Error) -> String {
    let text = error.to_string();
    if error.raw_os_error().is_none() {
        return text;
    }
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = words.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_speaks_as_in_other_programs() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to connect")]
        struct Failed(#[source] io::Error);

        let refused = Failed(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert_eq!(with_causes(&refused), "failed to connect: connection refused");
        let wrapped = io::Error::other(refused);
        assert_eq!(with_causes(&wrapped), "failed to connect: connection refused");
        assert_eq!(with_causes(&io::Error::other("Just So")), "Just So");
    }
}
