//! Sources that make no sense.

use super::*;

#[test]
fn sources() {
    refused(&source("alpine", &[]), "invalid source op %: no scheme in \"alpine\"");
    refused(
        &source("docker-image://", &[]),
        "invalid source op %: no name in \"docker-image://\"",
    );
    refused(
        &source("ftp://x", &[]),
        "source scheme \"ftp\" is not supported by this daemon (vertex %)",
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    for reference in ["a", "a@b", "a:1"] {
        refused(
            &source(&format!("docker-image+blob://{reference}"), &[]),
            &format!("invalid source op %: no digest of a blob in {reference:?}"),
        );
    }
    for (key, value, want) in [
        (
            "http.filename",
            "../x",
            "invalid source op %: attribute http.filename is \"../x\"",
        ),
        ("http.perm", "rw", "invalid source op %: attribute http.perm is \"rw\""),
        (
            "oci.store",
            "s",
            "attribute \"oci.store\" of a blob source is not supported by this daemon (vertex %)",
        ),
    ] {
        refused(
            &source(&format!("docker-image+blob://a@{digest}"), &[(key, value)]),
            want,
        );
    }
    let git = |attrs: &[(&str, &str)]| source("git://h/r.git", attrs);
    refused(
        &git(&[("git.sig.rejectexpired", "true")]),
        "invalid source op %: no git.sig.pubkey to verify signatures with",
    );
    refused(
        &git(&[
            ("git.sig.pubkey", "k"),
            ("git.sig.requiresignedtag", "true"),
            ("git.sig.ignoresignedtag", "true"),
        ]),
        "invalid source op %: the tag has to be signed, and its signature is to be ignored",
    );
    refused(
        &git(&[("git.sig.pubkey", &"k".repeat((256 << 10) + 1))]),
        "invalid source op %: attribute git.sig.pubkey of more than 262144 bytes",
    );
    let (bundle, sum) = (
        format!("oci-layout+blob://a/b@sha256:{}", "0".repeat(64)),
        ("git.checksum", "0123"),
    );
    let stored = ("oci.store", "s");
    let in_registry = bundle.replace("oci-layout", "docker-image");
    let bundles: [(&[(&str, &str)], &str); 8] = [
        (&[("git.bundle", &bundle), stored], "requires git.checksum to be set"),
        (
            &[("git.bundle", "https://a/b"), sum],
            "git.bundle locator scheme \"https\" is not supported",
        ),
        (
            &[("git.bundle", "a"), sum],
            "git.bundle locator scheme \"\" is not supported",
        ),
        (
            &[("git.bundle", "docker-image+blob://a"), sum],
            "no digest of a blob in \"a\"",
        ),
        (
            &[stored],
            "oci.session and oci.store are for a git.bundle in an OCI layout",
        ),
        (
            &[("git.bundle", &in_registry), stored, sum],
            "oci.session and oci.store are for a git.bundle in an OCI layout",
        ),
        (
            &[("git.checkoutbundle", "true"), ("git.keepgitdir", "true")],
            "git.checkoutbundle is incompatible with git.keepgitdir",
        ),
        (
            &[("git.checkoutbundle", "yes")],
            "attribute git.checkoutbundle is \"yes\"",
        ),
    ];
    for (attrs, want) in bundles {
        let want = match want.starts_with("requires") {
            true => format!("git.bundle {} {want}", &bundle[18..]),
            false => want.to_owned(),
        };
        refused(&git(attrs), &format!("invalid source op %: {want}"));
    }
    for key in ["http.sig.pubkey", "http.sig.signature"] {
        refused(
            &source("http://h/f", &[(key, "k")]),
            "invalid source op %: http.sig.pubkey and http.sig.signature do not go without each other",
        );
    }
    for (key, value, want) in [
        ("image.resolvemode", "sometimes", "invalid resolvemode: sometimes"),
        (
            "image.layerlimit",
            "0",
            "invalid layer limit 0: attribute image.layerlimit",
        ),
        (
            "image.layerlimit",
            "-1",
            "invalid layer limit -1: attribute image.layerlimit",
        ),
        (
            "image.checksum",
            "sha256:zz",
            "attribute image.checksum is \"sha256:zz\"",
        ),
    ] {
        refused(
            &source("docker-image://a", &[(key, value)]),
            &format!("invalid source op %: {want}"),
        );
    }
    refused(
        &source("docker-image://a", &[("image.new", "x")]),
        "attribute \"image.new\" of an image source is not supported by this daemon (vertex %)",
    );
    refused(
        &source("local://a", &[("local.new", "x")]),
        "attribute \"local.new\" of a local source is not supported by this daemon (vertex %)",
    );
    refused(
        &source("local://a", &[("local.differ", "x")]),
        "invalid source op %: attribute local.differ is \"x\"",
    );
    refused(
        &source("local://a", &[("local.includepattern", "[1]")]),
        "invalid source op %: attribute local.includepattern is no list of strings: invalid type: integer `1`, \
         expected a string at line 1 column 2",
    );
    for (key, value) in [
        ("http.checksum", "md5:00"),
        ("http.perm", "0888"),
        ("http.perm", "010000"),
        ("http.perm", "-1"),
        ("http.uid", "-1"),
        ("http.uid", "4294967296"),
        ("http.gid", "root"),
        ("http.filename", ".."),
        ("http.filename", "../x"),
        ("http.filename", "a/b"),
        ("http.filename", "a\0b"),
    ] {
        refused(
            &source("https://h/x", &[(key, value)]),
            &format!("invalid source op %: attribute {key} is {value:?}"),
        );
    }
    for key in ["http.header.cookie", "http.header.Accept", "http.new"] {
        refused(
            &source("http://h/x", &[(key, "x")]),
            &format!("attribute {key:?} of an http source is not supported by this daemon (vertex %)"),
        );
    }
    refused(
        &source(&format!("http://h/{}", "x".repeat(8 << 10)), &[]),
        "invalid source op %: a URL that is too long",
    );
    refused(
        &source("oci-layout://a/b:tag", &[]),
        "invalid source op %: reference \"a/b:tag\" must have digest",
    );
    refused(
        &source("oci-layout://a@b", &[("image.resolvemode", "pull")]),
        "attribute \"image.resolvemode\" of an OCI layout source is not supported by this daemon (vertex %)",
    );
    refused(
        &source("oci-layout://a@b", &[("oci.layerlimit", "0")]),
        "invalid source op %: invalid layer limit 0: attribute oci.layerlimit",
    );
    let mut with_input = source("local://a", &[]);
    with_input.inputs = op(pb::op::Op::Merge(pb::MergeOp::default()), 1).inputs;
    refused(&with_input, "invalid source op %: a source has no inputs");
}
