//! Lists of what refers to a manifest.

use cairn_solver::Digest;

use super::fake::{FakeServer, Reply};
use super::*;

const WANTED: &str = "application/x-signature";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SIGNATURE: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn list() -> String {
    let entry = |kind: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{SIGNATURE}","size":3,"artifactType":"{kind}"}}"#
        )
    };
    let (other, wanted) = (entry("application/x-other"), entry(WANTED));
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{other},{wanted}]}}"#)
}

/// What a server with these answers, to the question and for the tag, is taken to list; none if that is an error.
async fn ask(asked: (u16, &str), tagged: (u16, &str)) -> Option<usize> {
    let reply = |(status, body): (u16, &str)| Reply::new(status).header("content-type", INDEX).body(body);
    let (asked, tagged) = (reply(asked), reply(tagged));
    let subject = Digest::sha256(b"a manifest");
    let hex = subject.hex();
    let server = FakeServer::start(move |request| {
        if request.path == format!("/v2/a/referrers/sha256:{hex}?artifactType=application%2Fx-signature") {
            asked.clone()
        } else if request.path == format!("/v2/a/manifests/sha256-{hex}") {
            tagged.clone()
        } else {
            Reply::new(500)
        }
    })
    .await;
    let reference = reference(&format!("{}/a:1", server.host));
    let found = anonymous().referrers(&reference, subject, WANTED).await.ok()?;
    assert!(found.iter().all(|found| found.digest.to_string() == SIGNATURE));
    Some(found.len())
}

#[tokio::test]
async fn referrers_are_listed_by_servers_or_under_a_tag() {
    let list = list();
    let manifest =
        format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"a","digest":"{SIGNATURE}","size":0}},"layers":[]}}"#);
    for (asked, tagged, want) in [
        ((200, list.as_str()), (500, ""), Some(1)),
        ((200, r#"{"schemaVersion":2,"manifests":[]}"#), (200, &list), Some(0)),
        ((404, "page not found"), (200, &list), Some(1)),
        ((404, ""), (404, ""), Some(0)),
        ((403, ""), (200, &list), None),
        ((404, ""), (200, "<html>"), None),
        ((200, &manifest), (200, &list), None),
    ] {
        assert_eq!(ask(asked, tagged).await, want, "{asked:?} {tagged:?}");
    }
}
