//! The graphs that are measured.

use cairn_solver::llb::{
    Builder, ContentCache, Definition, ExecOp, ImageSource, Mount, MountKind, OpMetadata, Output, SourceOp,
};

/// A shape of graph.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// Each step on top of the one before.
    Chain,
    /// A chain in which each step also reads the base image by content.
    Reading,
    /// Half of the vertices on one base, and one merge of them all.
    Fan,
    /// Each step on up to three of those before it, half of them by content.
    Dag,
}

impl Shape {
    /// All shapes.
    pub(crate) const ALL: [Self; 4] = [Self::Chain, Self::Reading, Self::Fan, Self::Dag];

    /// The name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Reading => "reading",
            Self::Fan => "fan",
            Self::Dag => "dag",
        }
    }

    /// A graph of about `size` vertices; a fan has half as many.
    pub(crate) fn graph(self, size: usize) -> Definition {
        let mut write = Write::default();
        let base = write.base();
        let target = match self {
            Self::Chain => (1..size).fold(base, |last, n| write.step(n, &[(last, false)])),
            Self::Reading => (1..size).fold(base, |last, n| write.step(n, &[(last, false), (base, true)])),
            Self::Fan => {
                let users: Vec<Output> = (0..size / 2).map(|n| write.step(n, &[(base, false)])).collect();
                write.0.merge(&users, None, OpMetadata::named("merge"))
            }
            Self::Dag => dag(&mut write, base, size),
        };
        write.0.finish(target)
    }
}

fn dag(write: &mut Write, base: Output, size: usize) -> Output {
    // A small generator, always seeded the same.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap_or_default()
    };
    let mut outputs = vec![base];
    for n in 1..size {
        // The last one is always among the inputs, so that all are needed.
        let mut inputs = vec![(outputs[n - 1], false)];
        for _ in 0..random(3) {
            inputs.push((outputs[random(n)], random(2) == 0));
        }
        outputs.push(write.step(n, &inputs));
    }
    outputs[size - 1]
}

#[derive(Default)]
struct Write(Builder);

impl Write {
    fn base(&mut self) -> Output {
        let image = ImageSource {
            reference: "base".to_owned(),
            ..ImageSource::default()
        };
        self.0.source(SourceOp::Image(image), None, OpMetadata::default())
    }

    /// A step that changes its first input, and reads the others: by content where told so.
    fn step(&mut self, number: usize, inputs: &[(Output, bool)]) -> Output {
        let mounts = inputs.iter().enumerate().map(|(n, (_, by_content))| Mount {
            dest: if n == 0 { "/".to_owned() } else { format!("/in{n}") },
            input: Some(n),
            selector: String::new(),
            readonly: *by_content,
            output: (n == 0).then_some(0),
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        });
        let exec = ExecOp {
            args: vec!["/bin/sh".to_owned(), "-c".to_owned(), format!("make step{number}")],
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            cwd: "/".to_owned(),
            mounts: mounts.collect(),
            ..ExecOp::default()
        };
        let inputs: Vec<Output> = inputs.iter().map(|(input, _)| *input).collect();
        let name = OpMetadata::named(format!("[stage {number}/9] RUN make step{number}"));
        self.0.exec(exec, &inputs, None, name)
    }
}
