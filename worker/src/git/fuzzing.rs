//! What is fuzzed here; see [`crate::fuzzing`].

use super::{Remote, Wanted};

/// A reference, then a zero byte and what a remote says of its references: nothing that is found is taken for an
/// option by git, and hashes are hashes.
pub(crate) fn reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (reference, said) = text.split_once('\0').unwrap_or((&text, ""));
    let wanted = Wanted {
        reference: reference.to_owned(),
        ..Wanted::default()
    };
    if wanted.check().is_err() {
        return;
    }
    assert!(!wanted.reference.starts_with('-'), "an option");
    assert!(
        wanted.patterns().iter().all(|pattern| !pattern.starts_with('-')),
        "an option"
    );
    if let Ok(found) = wanted.find(said) {
        for hash in [&found.object, &found.commit] {
            assert!(super::reference::is_commit_hash(hash), "{hash:?} is no hash");
        }
        assert!(found.name.is_none_or(|name| !name.starts_with('-')), "an option");
    }
}

/// Addresses of repositories: a password is in none that is shown, and none is taken for an option.
pub(crate) fn remote(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(remote) = Remote::parse(text) {
        assert!(
            !remote.url().starts_with('-') && !remote.authority().starts_with('-'),
            "an option"
        );
        if let Some((_, password)) = remote.login() {
            let password = String::from_utf8_lossy(password.expose());
            assert!(
                password.len() < 8 || !remote.url().contains(&*password),
                "a password is shown"
            );
        }
    }
}
