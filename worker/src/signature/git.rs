//! What is signed of a commit or tag, as git stores it.

use super::{Demands, SignatureError, ssh, verify};

/// What ssh signatures of git are for.
const NAMESPACE: &str = "git";
/// The header with the signature, by the kind of hash that names the object.
const SHA1_HEADER: &str = "gpgsig";
const SHA256_HEADER: &str = "gpgsig-sha256";
/// How signatures begin that follow the message of a tag.
const BEGIN: [&str; 2] = ["-----BEGIN PGP SIGNATURE-----", ssh::BEGIN];

/// Who has to have signed a commit, or the tag that leads to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signers<'a> {
    /// Their keys, as text: of OpenPGP, or in the form of `authorized_keys`.
    pub(crate) keys: &'a str,
    /// What else is asked.
    pub(crate) demands: Demands,
    /// It has to be the tag.
    pub(crate) require_tag: bool,
    /// The tag's signature is not looked at.
    pub(crate) ignore_tag: bool,
}

/// Checks that one of the signers made the tag or, unless it has to be the tag, the commit. An object is empty if there is
/// none; `object` is the hash that names one of them. Blocks.
pub(crate) fn verify_objects(
    signers: Signers<'_>,
    object: &str,
    commit: &[u8],
    tag: &[u8],
) -> Result<(), SignatureError> {
    let check = |(payload, signature): (Vec<u8>, String)| {
        verify(signers.keys, &signature, &payload, NAMESPACE, signers.demands)
    };
    let of_tag = tag_parts(tag).filter(|_| !signers.ignore_tag).map(check);
    match of_tag {
        Some(Ok(())) => return Ok(()),
        Some(Err(error)) if signers.require_tag => return Err(error),
        None if signers.require_tag => return Err(SignatureError::NoTag),
        _ => {}
    }
    let header = if object.len() == 64 { SHA256_HEADER } else { SHA1_HEADER };
    match (commit_parts(commit, header).map(check), of_tag) {
        (Some(checked), _) => checked,
        (None, Some(of_tag)) => of_tag,
        (None, None) => Err(SignatureError::Missing),
    }
}

/// What is signed of a commit, and the signature: it is in a header, and all headers of signatures are left out.
fn commit_parts(object: &[u8], header: &str) -> Option<(Vec<u8>, String)> {
    let mut payload = Vec::with_capacity(object.len());
    let mut signature = String::new();
    // Whether the line before belongs to a signature, and whether to the one that is wanted.
    let (mut is_signature, mut is_wanted) = (false, false);
    let mut rest = object;
    while !rest.is_empty() {
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |at| at + 1);
        let (line, next) = rest.split_at(end);
        if line == b"\n" {
            break;
        }
        let value = match line.strip_prefix(b" ") {
            Some(more) if is_signature => more,
            Some(_) => {
                payload.extend_from_slice(line);
                rest = next;
                continue;
            }
            None => {
                let (name, value) = line.split_at(line.iter().position(|byte| *byte == b' ').unwrap_or(line.len()));
                is_signature = [SHA1_HEADER, SHA256_HEADER]
                    .iter()
                    .any(|known| known.as_bytes() == name);
                is_wanted = name == header.as_bytes();
                if !is_signature {
                    payload.extend_from_slice(line);
                }
                value.strip_prefix(b" ").unwrap_or_default()
            }
        };
        if is_signature && is_wanted {
            signature.push_str(std::str::from_utf8(value).ok()?);
        }
        rest = next;
    }
    payload.extend_from_slice(rest);
    (!signature.is_empty()).then_some((payload, signature))
}

/// What is signed of a tag, and the signature: it is at the end.
fn tag_parts(object: &[u8]) -> Option<(Vec<u8>, String)> {
    let mut start = None;
    let mut at = 0;
    for line in object.split_inclusive(|byte| *byte == b'\n') {
        if BEGIN.iter().any(|begin| line.starts_with(begin.as_bytes())) {
            start = Some(at);
        }
        at += line.len();
    }
    let (payload, signature) = object.split_at(start?);
    Some((payload.to_vec(), String::from_utf8(signature.to_vec()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_taken_out_of_commits() {
        let commit = "tree t\nparent p\ngpgsig -----BEGIN\n \n abc\n -----END\ngpgsig-sha256 x\n y\nmergetag m\n gpgsig no\n\
                      encoding e\n\ngpgsig message\n more\n";
        let want = "tree t\nparent p\nmergetag m\n gpgsig no\nencoding e\n\ngpgsig message\n more\n";
        let (payload, signature) = commit_parts(commit.as_bytes(), SHA1_HEADER).unwrap();
        assert_eq!(String::from_utf8(payload).unwrap(), want);
        assert_eq!(signature, "-----BEGIN\n\nabc\n-----END\n");
        let (payload, signature) = commit_parts(commit.as_bytes(), SHA256_HEADER).unwrap();
        assert_eq!(String::from_utf8(payload).unwrap(), want);
        assert_eq!(signature, "x\ny\n");
        for unsigned in ["", "tree t\n", "tree t\n\ngpgsig x\n", "\n\n"] {
            assert_eq!(commit_parts(unsigned.as_bytes(), SHA1_HEADER), None, "{unsigned}");
        }
    }

    #[test]
    fn signatures_are_taken_off_tags() {
        let begin = BEGIN[0];
        let tag = format!("object o\n\n{begin}\nno\nmessage\n{begin}\nabc\n-----END PGP SIGNATURE-----\n");
        let (payload, signature) = tag_parts(tag.as_bytes()).unwrap();
        assert_eq!(payload, format!("object o\n\n{begin}\nno\nmessage\n").as_bytes());
        assert!(signature.starts_with(begin) && signature.contains("abc"));
        assert_eq!(tag_parts(b"object o\n\nmessage\n"), None);
        assert_eq!(tag_parts(format!("object o\n\n {begin}\n").as_bytes()), None);
    }
}
