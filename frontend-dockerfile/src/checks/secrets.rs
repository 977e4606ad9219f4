//! Names that sound like secrets.

const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Whether a variable of this name is likely to hold a secret.
pub(crate) fn names_a_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::names_a_secret;

    #[test]
    fn whole_words_count() {
        assert!(names_a_secret("MY_TOKEN") && names_a_secret("password"));
        assert!(!names_a_secret("PUBLIC_KEY") && !names_a_secret("TOKENX") && !names_a_secret("SSH_KEY_FILE"));
    }
}
