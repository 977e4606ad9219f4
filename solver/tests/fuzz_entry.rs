//! The fuzz target, on a few inputs, so that it cannot rot. Fuzzing for long is `cargo +nightly fuzz run decode`.

#[path = "../fuzz/entry.rs"]
mod entry;

use cairn_solver::llb::{Builder, ContentCache, ExecOp, ImageSource, Mount, MountKind, OpMetadata, SourceOp};
use proptest::prelude::*;
use prost::Message as _;

/// A definition with a source, processes and a merge.
fn valid() -> Vec<u8> {
    let mut builder = Builder::new();
    let image = ImageSource {
        reference: "base".to_owned(),
        ..ImageSource::default()
    };
    let base = builder.source(SourceOp::Image(image), None, OpMetadata::named("base"));
    let steps: Vec<_> = (0..3)
        .map(|n| {
            let exec = ExecOp {
                args: vec![format!("step {n}")],
                cwd: "/".to_owned(),
                mounts: vec![Mount {
                    dest: "/".to_owned(),
                    input: Some(0),
                    selector: String::new(),
                    readonly: false,
                    output: Some(0),
                    kind: MountKind::Bind,
                    content_cache: ContentCache::Default,
                }],
                ..ExecOp::default()
            };
            builder.exec(exec, &[base], None, OpMetadata::default())
        })
        .collect();
    let merge = builder.merge(&steps, None, OpMetadata::default());
    builder.finish(merge).to_wire().encode_to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        entry::decode(&bytes);
    }

    #[test]
    fn damaged_definitions_are_decoded_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        end in any::<prop::sample::Index>(),
        is_cut in prop::bool::weighted(0.2),
    ) {
        let mut bytes = valid();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(end.index(bytes.len()));
        }
        entry::decode(&bytes);
    }
}
