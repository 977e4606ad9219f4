//! Which trace a call belongs to.

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use tonic::metadata::MetadataMap;

/// Where a call says it.
const HEADER: &str = "traceparent";

/// Where the spans of a build belong: into the client's trace if it says one (`traceparent`), else into one of their
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(super) trace: TraceId,
    /// The client's span.
    pub(super) span: Option<SpanId>,
}

impl Parent {
    /// What a call says. What makes no sense is taken for nothing, as tracing must not fail a build.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let said = metadata.get(HEADER).and_then(|text| parse(text.to_str().ok()?));
        if let Some((trace, span)) = said {
            return Self {
                trace,
                span: Some(span),
            };
        }
        Self {
            trace: RandomIdGenerator::default().new_trace_id(),
            span: None,
        }
    }
}

/// Trace and span in the form of W3C's Trace Context: version, trace, span and flags, of which later versions have more.
fn parse(text: &str) -> Option<(TraceId, SpanId)> {
    let mut parts = text.split('-');
    let mut next = |len: usize| {
        let part = parts.next()?;
        let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (part.len() == len && is_hex).then_some(part)
    };
    let version = next(2)?;
    let trace = TraceId::from_hex(next(32)?).ok()?;
    let span = SpanId::from_hex(next(16)?).ok()?;
    next(2)?;
    let is_sound = version != "ff" && (version != "00" || parts.next().is_none());
    (is_sound && trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(text: &str) -> Parent {
        let mut metadata = MetadataMap::new();
        metadata.insert("traceparent", text.parse().unwrap());
        Parent::of(&metadata)
    }

    #[test]
    fn the_client_s_trace_is_taken_over() {
        let said = parent("00-10240e55e84e8579da5166cc86e32e6e-98da9b3d93b1c0fb-01");
        assert_eq!(said.trace.to_string(), "10240e55e84e8579da5166cc86e32e6e");
        assert_eq!(said.span.unwrap().to_string(), "98da9b3d93b1c0fb");
        assert_eq!(
            parent("01-10240e55e84e8579da5166cc86e32e6e-98da9b3d93b1c0fb-00-more"),
            said
        );
    }

    #[test]
    fn nonsense_makes_a_trace_of_its_own() {
        for text in [
            "",
            "00-10240e55e84e8579da5166cc86e32e6e-98da9b3d93b1c0fb",
            "00-00000000000000000000000000000000-98da9b3d93b1c0fb-01",
            "00-10240e55e84e8579da5166cc86e32e6e-0000000000000000-01",
            "00-10240e55-98da9b3d93b1c0fb-01",
            "00-10240e55e84e8579da5166cc86e32e6e-98da9b3d93b1c0fb-01-more",
            "00-10240E55E84E8579DA5166CC86E32E6E-98da9b3d93b1c0fb-01",
            "ff-10240e55e84e8579da5166cc86e32e6e-98da9b3d93b1c0fb-01",
            "00-zz240e55e84e8579da5166cc86e32e6e-98da9b3d93b1c0fb-01",
        ] {
            let own = parent(text);
            assert_eq!(own.span, None, "{text}");
            assert_ne!(own.trace, TraceId::INVALID);
            assert_ne!(own, parent(text), "each build has its own");
        }
    }
}
