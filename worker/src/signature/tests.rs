//! Signatures that `gpg` and `ssh-keygen` make.

use std::path::Path;
use std::process::{Command, Stdio};

use pgp::composed::{ArmorOptions, Deserializable as _, SignedPublicKey, SignedSecretKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::types::{KeyDetails as _, Password, Timestamp};
use sha2::{Digest as _, Sha256};
use ssh_key::{Algorithm, HashAlg, LineEnding, SshSig};

use super::*;

const MESSAGE: &[u8] = b"tree 1\nauthor somebody\n\na message\n";
const YEAR: u64 = 31_536_000;
/// 2020-01-01, in seconds since the epoch.
const START: u64 = 1_577_836_800;

/// Whether a program is there; without it the test is skipped, unless nothing may be.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn has(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let found = command.status().is_ok();
    assert!(
        found || std::env::var_os("CAIRN_TEST_STRICT").is_none(),
        "{program} is not installed"
    );
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A home of gpg; its agent ends with it.
struct Gpg(tempfile::TempDir);

impl Gpg {
    fn new() -> Option<Self> {
        has("gpg", &["--version"]).then(|| Self(tempfile::tempdir().unwrap()))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A call at a time, given in seconds since the epoch.
    fn at(&self, time: Option<u64>, arguments: &[&str]) -> String {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.path());
        command.args([
            "--quiet",
            "--batch",
            "--yes",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        if let Some(time) = time {
            command.arg(format!("--faked-system-time={time}!"));
        }
        String::from_utf8(run(command.args(arguments))).unwrap()
    }

    fn make_key(&self, time: Option<u64>, name: &str, algorithm: &str, usage: &str, expires: &str) {
        self.at(time, &["--quick-generate-key", name, algorithm, usage, expires]);
    }

    fn fingerprint(&self, name: &str) -> String {
        let listed = self.at(None, &["--with-colons", "--list-keys", name]);
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    fn public(&self, name: &str) -> String {
        self.at(None, &["--armor", "--export", name])
    }

    fn sign(&self, time: Option<u64>, name: &str, more: &[&str]) -> String {
        let file = self.path().join("message");
        std::fs::write(&file, MESSAGE).unwrap();
        let mut arguments = vec!["--armor", "--local-user", name, "--output", "-"];
        arguments.extend(more);
        arguments.extend(["--detach-sign", file.to_str().unwrap()]);
        self.at(time, &arguments)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let mut command = Command::new("gpgconf");
        command.arg("--homedir").arg(self.path()).args(["--kill", "all"]);
        drop(command.stdin(Stdio::null()).stderr(Stdio::null()).status());
    }
}

fn check(keys: &str, signature: &str, message: &[u8]) -> Result<(), SignatureError> {
    verify(keys, signature, message, "git", Demands::default())
}

#[test]
fn every_strong_key_of_openpgp_is_known() {
    let Some(gpg) = Gpg::new() else { return };
    gpg.make_key(None, "another", "ed25519", "sign", "never");
    let another = gpg.public("another");
    for algorithm in ["ed25519", "rsa2048", "nistp256", "nistp384", "nistp521"] {
        gpg.make_key(None, algorithm, algorithm, "sign", "2y");
        let (keys, signature) = (gpg.public(algorithm), gpg.sign(None, algorithm, &[]));
        assert_eq!(check(&keys, &signature, MESSAGE), Ok(()), "{algorithm}");
        assert_eq!(
            check(&format!("{another}\n{keys}"), &signature, MESSAGE),
            Ok(()),
            "{algorithm}"
        );
        let not_by_keys = Err(SignatureError::NotByKeys);
        assert_eq!(check(&keys, &signature, b"something else"), not_by_keys, "{algorithm}");
        assert_eq!(check(&another, &signature, MESSAGE), not_by_keys, "{algorithm}");
    }
    let keys = gpg.public("rsa2048");
    for (more, want) in [
        (["--digest-algo", "SHA512"], Ok(())),
        (["--digest-algo", "SHA384"], Ok(())),
        (
            ["--digest-algo", "SHA1"],
            Err(SignatureError::Unfit("its hash is too weak or not supported")),
        ),
    ] {
        assert_eq!(
            check(&keys, &gpg.sign(None, "rsa2048", &more), MESSAGE),
            want,
            "{more:?}"
        );
    }
}

#[test]
fn subkeys_sign_if_they_are_for_that() {
    let Some(gpg) = Gpg::new() else { return };
    gpg.make_key(None, "main", "ed25519", "cert", "never");
    let fingerprint = gpg.fingerprint("main");
    let alone = gpg.public("main");
    gpg.at(None, &["--quick-add-key", &fingerprint, "cv25519", "encrypt", "never"]);
    gpg.at(None, &["--quick-add-key", &fingerprint, "ed25519", "sign", "1y"]);
    let (keys, signature) = (gpg.public("main"), gpg.sign(None, "main", &[]));
    assert_eq!(check(&keys, &signature, MESSAGE), Ok(()));
    assert_eq!(check(&alone, &signature, MESSAGE), Err(SignatureError::NotByKeys));
    gpg.at(None, &["--quick-set-expire", &fingerprint, "1d", "*"]);
    assert_eq!(check(&gpg.public("main"), &signature, MESSAGE), Ok(()));
}

#[test]
fn weak_keys_and_hashes_do_not_count() {
    let Some(gpg) = Gpg::new() else { return };
    let unfit = |text| Err(SignatureError::Unfit(text));
    for (algorithm, want) in [
        ("rsa1024", "its key is too short"),
        ("dsa2048", "its key is of a kind that is not supported"),
    ] {
        gpg.make_key(None, algorithm, algorithm, "sign", "never");
        let (keys, signature) = (
            gpg.public(algorithm),
            gpg.sign(None, algorithm, &["--digest-algo", "SHA256"]),
        );
        assert_eq!(check(&keys, &signature, MESSAGE), unfit(want), "{algorithm}");
        assert_eq!(
            check(&keys, &signature, b"something else"),
            Err(SignatureError::NotByKeys),
            "{algorithm}"
        );
    }
    // What a key says of itself has to be as strong.
    gpg.at(
        None,
        &[
            "--cert-digest-algo",
            "SHA1",
            "--quick-generate-key",
            "old",
            "rsa2048",
            "sign",
            "never",
        ],
    );
    let (keys, signature) = (gpg.public("old"), gpg.sign(None, "old", &[]));
    let want = unfit("nothing that its key says of itself can be verified");
    assert_eq!(check(&keys, &signature, MESSAGE), want);
    let text = gpg.sign(None, "old", &["--textmode"]);
    let want = Err(SignatureError::Unsupported("the kind of this OpenPGP signature"));
    assert_eq!(check(&keys, &text, MESSAGE), want);
    let noted = gpg.sign(None, "old", &["--sig-notation", "!a@example.com=b"]);
    assert_eq!(
        check(&keys, &noted, MESSAGE),
        unfit("it has a condition that is not known")
    );
}

/// Anybody could say that the key of somebody else is theirs.
#[test]
fn subkeys_have_to_agree() {
    let Some(gpg) = Gpg::new() else { return };
    gpg.make_key(None, "main", "ed25519", "cert", "never");
    let fingerprint = gpg.fingerprint("main");
    gpg.at(None, &["--quick-add-key", &fingerprint, "ed25519", "sign", "never"]);
    let signature = gpg.sign(None, "main", &[]);
    let secret = gpg.at(None, &["--armor", "--export-secret-keys", "main"]);
    let secret = SignedSecretKey::from_string(&secret).unwrap().0;
    let mut public = SignedPublicKey::from_string(&gpg.public("main")).unwrap().0;
    let text = |public: &SignedPublicKey| public.to_armored_string(ArmorOptions::default()).unwrap();
    assert_eq!(check(&text(&public), &signature, MESSAGE), Ok(()));

    let key = public.public_subkeys[0].key.clone();
    let algorithm = secret.primary_key.algorithm();
    let mut binding = SignatureConfig::v4(SignatureType::SubkeyBinding, algorithm, HashAlgorithm::Sha256);
    let mut flags = KeyFlags::default();
    flags.set_sign(true);
    binding.hashed_subpackets = [
        SubpacketData::SignatureCreationTime(Timestamp::now()),
        SubpacketData::KeyFlags(flags),
    ]
    .map(|data| Subpacket::regular(data).unwrap())
    .into();
    let bound = binding.sign_subkey_binding(&secret.primary_key, &public.primary_key, &Password::empty(), &key);
    let agreed = std::mem::replace(&mut public.public_subkeys[0].signatures, vec![bound.unwrap()]);
    let unfit = |text| Err(SignatureError::Unfit(text));
    assert_eq!(
        check(&text(&public), &signature, MESSAGE),
        unfit("its key is not for signing")
    );

    // Without any binding it is not a part of the certificate that signs.
    public.public_subkeys[0].signatures = vec![public.details.users[0].signatures[0].clone()];
    assert_eq!(
        check(&text(&public), &signature, MESSAGE),
        unfit("its key is not for signing")
    );
    public.public_subkeys[0].signatures = agreed;
    assert_eq!(check(&text(&public), &signature, MESSAGE), Ok(()));

    // A revoked one stays revoked.
    let mut revocation = SignatureConfig::v4(SignatureType::SubkeyRevocation, algorithm, HashAlgorithm::Sha256);
    revocation.hashed_subpackets =
        vec![Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::now())).unwrap()];
    let revoked = revocation.sign_subkey_binding(&secret.primary_key, &public.primary_key, &Password::empty(), &key);
    public.public_subkeys[0].signatures.push(revoked.unwrap());
    assert_eq!(check(&text(&public), &signature, MESSAGE), unfit("its key was revoked"));
}

#[test]
fn keys_expire_and_are_revoked() {
    let Some(gpg) = Gpg::new() else { return };
    gpg.make_key(Some(START), "old", "ed25519", "sign", "1y");
    let keys = gpg.public("old");
    let strict = Demands { reject_expired: true };
    let signature = gpg.sign(Some(START + 100), "old", &[]);
    let at = |signature: &str, demands, now| openpgp::verify(&keys, signature, &mut Cursor::new(MESSAGE), demands, now);
    assert_eq!(at(&signature, strict, START + 200), Ok(()));
    assert_eq!(at(&signature, Demands::default(), START + 2 * YEAR), Ok(()));
    let unfit = |text| Err(SignatureError::Unfit(text));
    assert_eq!(at(&signature, strict, START + 2 * YEAR), unfit("its key has expired"));
    assert_eq!(
        at(&signature, Demands::default(), START - 1000),
        unfit("nothing that its key says of itself can be verified").or(unfit("it was made in the future")),
    );
    let short = gpg.sign(Some(START + 100), "old", &["--default-sig-expire", "1d"]);
    assert_eq!(at(&short, strict, START + 200), Ok(()));
    assert_eq!(
        at(&short, Demands::default(), START + YEAR / 2),
        unfit("it has expired")
    );

    let revocation = gpg
        .path()
        .join("openpgp-revocs.d")
        .join(format!("{}.rev", gpg.fingerprint("old")));
    let text = std::fs::read_to_string(revocation)
        .unwrap()
        .replace(":-----BEGIN", "-----BEGIN");
    let revoking = gpg.path().join("revoke");
    std::fs::write(&revoking, text).unwrap();
    gpg.at(None, &["--import", revoking.to_str().unwrap()]);
    let revoked = gpg.public("old");
    assert_eq!(check(&revoked, &signature, MESSAGE), unfit("its key was revoked"));
}

#[test]
fn ssh_keys_sign_for_a_purpose() {
    if !has("ssh-keygen", &["-?"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let message = dir.path().join("message");
    std::fs::write(&message, MESSAGE).unwrap();
    let mut all = String::from("# nobody\n\nno key\n");
    for (kind, bits) in [
        ("ed25519", "256"),
        ("rsa", "2048"),
        ("ecdsa", "256"),
        ("ecdsa", "384"),
        ("ecdsa", "521"),
    ] {
        let key = dir.path().join(format!("{kind}{bits}"));
        let mut make = Command::new("ssh-keygen");
        run(make
            .args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", "some body", "-f"])
            .arg(&key));
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let sign = |namespace: &str| {
            let made = message.with_extension("sig");
            drop(std::fs::remove_file(&made));
            let mut sign = Command::new("ssh-keygen");
            run(sign
                .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
                .arg(&key)
                .arg(&message));
            std::fs::read_to_string(made).unwrap()
        };
        let signature = sign("git");
        assert_eq!(check(&public, &signature, MESSAGE), Ok(()), "{kind}");
        let listed = format!("{all}{public}");
        assert_eq!(check(&listed, &signature, MESSAGE), Ok(()), "{kind}");
        let limited = format!("namespaces=\"file\" {public}");
        assert_eq!(
            check(&limited, &signature, MESSAGE),
            Err(SignatureError::NotByKeys),
            "{kind}"
        );
        assert_eq!(
            check(&public, &signature, b"else"),
            Err(SignatureError::NotByKeys),
            "{kind}"
        );
        assert_eq!(
            check(&all, &signature, MESSAGE),
            Err(SignatureError::NotByKeys),
            "{kind}"
        );
        let short: String = signature.lines().filter(|line| !line.starts_with('-')).collect();
        let lines: Vec<_> = short
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        let wrapped = format!("{}\n{}\n-----END SSH SIGNATURE-----", ssh::BEGIN, lines.join("\r\n"));
        assert_eq!(check(&public, &wrapped, MESSAGE), Ok(()), "{kind}");
        let unfit = Err(SignatureError::Unfit("it was made for another purpose"));
        assert_eq!(check(&public, &sign("file"), MESSAGE), unfit, "{kind}");
        all.push_str(&public);
    }
}

#[test]
fn short_ssh_keys_do_not_count() {
    if !has("ssh-keygen", &["-?"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (key, message) = (dir.path().join("key"), dir.path().join("message"));
    std::fs::write(&message, MESSAGE).unwrap();
    let mut make = Command::new("ssh-keygen");
    run(make.args(["-q", "-t", "rsa", "-b", "1024", "-N", "", "-f"]).arg(&key));
    let mut sign = Command::new("ssh-keygen");
    // Newer ones do not even sign with it.
    let signed = sign
        .args(["-q", "-Y", "sign", "-n", "git", "-f"])
        .arg(&key)
        .arg(&message)
        .status();
    if signed.unwrap().success() {
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let signature = std::fs::read_to_string(message.with_extension("sig")).unwrap();
        let unfit = Err(SignatureError::Unfit("its key is too short"));
        assert_eq!(check(&public, &signature, MESSAGE), unfit);
    }
}

/// What a security key does: its signature is over a hash of what is signed, with flags and a counter.
#[test]
fn keys_in_hardware_sign_as_well() {
    use ssh_key::public::{KeyData, SkEd25519};
    use ssh_key::{PublicKey, Signature, private::Ed25519Keypair};

    let pair = Ed25519Keypair::from_seed(&[7; 32]);
    let key = KeyData::SkEd25519(SkEd25519::new(pair.public, "ssh:"));
    let sign = |message: &[u8], flags: u8| {
        let signed = SshSig::signed_data("git", HashAlg::Sha512, message).unwrap();
        let trailer = [flags, 0, 0, 0, 9];
        let device = [&Sha256::digest("ssh:")[..], &trailer, &Sha256::digest(&signed)].concat();
        let made = rsa::signature::Signer::<Signature>::sign(&pair, &device);
        let bytes = [made.as_bytes(), &trailer].concat();
        let signature = Signature::new(Algorithm::SkEd25519, bytes).unwrap();
        let whole = SshSig::new(key.clone(), "git", HashAlg::Sha512, signature).unwrap();
        whole.to_pem(LineEnding::LF).unwrap()
    };
    let public = PublicKey::from(key.clone()).to_openssh().unwrap();
    assert_eq!(check(&public, &sign(MESSAGE, 1), MESSAGE), Ok(()));
    assert_eq!(
        check(&public, &sign(b"else", 1), MESSAGE),
        Err(SignatureError::NotByKeys)
    );
    let touchless = sign(MESSAGE, 0);
    assert_eq!(
        check(&public, &touchless, MESSAGE),
        Err(SignatureError::Unfit("nobody touched its key"))
    );
}

#[test]
fn commits_and_tags_are_verified_as_git_signs_them() {
    if !has("ssh-keygen", &["-?"]) || !has("git", &["--version"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["ours", "theirs"] {
        let mut make = Command::new("ssh-keygen");
        run(make
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(dir.path().join(name)));
    }
    let public = |name: &str| std::fs::read_to_string(dir.path().join(name).with_extension("pub")).unwrap();
    let git = |signer: &str, arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(dir.path())
            .env("HOME", dir.path())
            .env("GIT_CONFIG_NOSYSTEM", "1");
        git.args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "gpg.format=ssh",
            "-c",
        ]);
        git.arg(format!("user.signingkey={}", dir.path().join(signer).display()));
        run(git.args(arguments))
    };
    git("ours", &["init", "-q"]);
    git(
        "ours",
        &["commit", "-q", "--allow-empty", "-S", "-m", "signed\n\n more"],
    );
    git("ours", &["tag", "-a", "-m", "plain", "plain"]);
    git("theirs", &["tag", "-s", "-m", "signed", "signed"]);
    let commit = git("ours", &["cat-file", "commit", "HEAD"]);
    let (plain, signed) = (
        git("ours", &["cat-file", "tag", "plain"]),
        git("ours", &["cat-file", "tag", "signed"]),
    );
    git("ours", &["commit", "-q", "--allow-empty", "-m", "unsigned"]);
    let unsigned = git("ours", &["cat-file", "commit", "HEAD"]);
    let (ours, theirs) = (public("ours"), public("theirs"));
    let not_by_keys = Err(SignatureError::NotByKeys);
    let nothing: &[u8] = b"";
    let cases = [
        (&ours, &commit[..], nothing, [false, false], Ok(())),
        (&theirs, &commit[..], nothing, [false, false], not_by_keys.clone()),
        (
            &ours,
            &unsigned[..],
            nothing,
            [false, false],
            Err(SignatureError::Missing),
        ),
        (&ours, &commit[..], &plain[..], [false, false], Ok(())),
        (
            &ours,
            &commit[..],
            &plain[..],
            [true, false],
            Err(SignatureError::NoTag),
        ),
        (&theirs, &unsigned[..], &signed[..], [true, false], Ok(())),
        // A tag that somebody else signed leaves it to the commit, unless it has to be the tag.
        (&ours, &commit[..], &signed[..], [false, false], Ok(())),
        (&ours, &commit[..], &signed[..], [true, false], not_by_keys.clone()),
        (&ours, &unsigned[..], &signed[..], [false, false], not_by_keys.clone()),
        (
            &ours,
            &unsigned[..],
            &plain[..],
            [false, false],
            Err(SignatureError::Missing),
        ),
        (&ours, &commit[..], &signed[..], [false, true], Ok(())),
        (&theirs, &commit[..], &signed[..], [false, true], not_by_keys),
    ];
    for (number, (keys, commit, tag, [require_tag, ignore_tag], want)) in cases.into_iter().enumerate() {
        let demands = Demands::default();
        let signers = git::Signers {
            keys,
            demands,
            require_tag,
            ignore_tag,
        };
        assert_eq!(git::verify_objects(signers, "0123", commit, tag), want, "{number}");
    }
    let mut changed = commit.clone();
    changed.push(b'.');
    let signers = git::Signers {
        keys: &ours,
        demands: Demands::default(),
        require_tag: false,
        ignore_tag: false,
    };
    assert_eq!(
        git::verify_objects(signers, "0123", &changed, nothing),
        Err(SignatureError::NotByKeys)
    );
}

#[test]
fn what_is_neither_is_told_of() {
    for (keys, signature) in [("", ""), ("x", "-----BEGIN PGP SIGNATURE-----\n")] {
        let failed = check(keys, signature, MESSAGE);
        assert!(matches!(failed, Err(SignatureError::Malformed { .. })), "{failed:?}");
    }
}
