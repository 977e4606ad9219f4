//! Places in traces, as processes are told of them.

use std::fmt;
use std::time::SystemTime;

use crate::Digest;
use crate::llb::VertexDigest;

/// A span in a trace. Whoever is told of it makes it the parent of its own spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
}

impl TraceContext {
    /// The place with these ids, of which none is all zeros.
    pub fn new(trace: [u8; 16], span: [u8; 8]) -> Self {
        Self { trace, span }
    }

    /// The id of the span.
    pub fn span(&self) -> [u8; 8] {
        self.span
    }

    /// The run of a vertex within a build whose place this is.
    pub fn run(&self, vertex: &VertexDigest, started: SystemTime) -> Self {
        self.child(&[vertex.as_bytes(), &nanos(started)])
    }

    /// An action in a run of a vertex within a build whose place this is.
    pub fn action(&self, vertex: &VertexDigest, started: SystemTime, id: &str) -> Self {
        self.child(&[vertex.as_bytes(), &nanos(started), id.as_bytes()])
    }

    /// What has this identity within this: whoever knows that finds it without having seen it.
    fn child(&self, parts: &[&[u8]]) -> Self {
        let hash = Digest::sha256(&[&self.trace[..], &self.span, &parts.concat()].concat());
        let mut span = [0; 8];
        span.copy_from_slice(&hash.as_bytes()[..8]);
        // All zeros would be no id.
        span[7] |= 1;
        Self {
            trace: self.trace,
            span,
        }
    }
}

/// In the form of W3C's Trace Context, as the variable `TRACEPARENT` has it.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        f.write_str("00-")?;
        hex(f, &self.trace)?;
        f.write_str("-")?;
        hex(f, &self.span)?;
        f.write_str("-01")
    }
}

fn nanos(time: SystemTime) -> [u8; 16] {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_and_written_as_everybody_reads_them() {
        let build = TraceContext::new([0xab; 16], [1; 8]);
        assert_eq!(
            build.to_string(),
            "00-abababababababababababababababab-0101010101010101-01"
        );
        let vertex = Digest::sha256(b"a");
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let run = build.run(&vertex, at(1));
        assert_eq!(run, build.run(&vertex, at(1)));
        assert_eq!(
            run.to_string()[..36],
            build.to_string()[..36],
            "it is in the same trace"
        );
        for other in [
            build.run(&vertex, at(2)),
            build.run(&Digest::sha256(b"b"), at(1)),
            build.action(&vertex, at(1), "pull"),
            TraceContext::new([0xab; 16], [2; 8]).run(&vertex, at(1)),
        ] {
            assert_ne!(other.span(), run.span());
        }
    }
}
