//! The graphs.

use cairn_proto::pb;
use cairn_tests::llb::{self, Graph};

const BASE: &str = "docker.io/library/alpine:latest";
/// How deep states may lie over one another in the random graph; daemons limit the number of layers.
const DEEPEST: usize = 50;

/// A kind of graph; those made of different seeds have nothing in common but their base.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) make: fn(usize) -> pb::Definition,
}

pub(crate) const SHAPES: [Shape; 6] = [
    Shape {
        name: "chain of 1000 files",
        make: |seed| chain(seed, 1000),
    },
    Shape {
        name: "chain of 100 files",
        make: |seed| chain(seed, 100),
    },
    Shape {
        name: "fan of 1000 files",
        make: |seed| fan(seed, 1000),
    },
    Shape {
        name: "random, 1000 files",
        make: |seed| random(seed, 1000),
    },
    Shape {
        name: "20 RUN side by side",
        make: |seed| side_by_side(seed, 20),
    },
    Shape {
        name: "20 RUN in a row",
        make: |seed| in_a_row(seed, 20),
    },
];

/// The base image with nothing done to it.
pub(crate) fn base() -> pb::Definition {
    let (graph, base) = start();
    graph.asking_for(&base, 0)
}

fn start() -> (Graph, String) {
    let mut graph = Graph::default();
    let base = graph.add(&llb::image(BASE));
    (graph, base)
}

/// Each operation makes a file on the one before.
fn chain(seed: usize, length: usize) -> pb::Definition {
    let mut graph = Graph::default();
    let mut last: Option<String> = None;
    for index in 0..length {
        let below: Vec<pb::Input> = last.iter().map(|digest| llb::input(digest, 0)).collect();
        let on = if below.is_empty() { -1 } else { 0 };
        let file = llb::making_file(on, &format!("/file{index}"), &format!("{seed} in a chain of {length}"));
        last = Some(graph.add(&llb::change_files(below, vec![file])));
    }
    graph.asking_for(&last.unwrap_or_default(), 0)
}

/// Each operation makes a file on nothing; one copies them all.
fn fan(seed: usize, width: usize) -> pb::Definition {
    let mut graph = Graph::default();
    let file = |index| llb::make_file("/file", &format!("{seed} and {index} of a fan"));
    let files: Vec<String> = (0..width).map(|index| graph.add(&file(index))).collect();
    let joined = graph.add(&join(&files, "/file"));
    graph.asking_for(&joined, 0)
}

/// Copies `path` of every one of `digests` to a name of its own, on nothing.
fn join(digests: &[String], path: &str) -> pb::Op {
    let inputs: Vec<pb::Input> = digests.iter().map(|digest| llb::input(digest, 0)).collect();
    let count = inputs.len() as i64;
    let copies = (0..count).map(|index| {
        // Results of earlier actions are numbered after the inputs.
        let on = if index == 0 { -1 } else { count + index - 1 };
        llb::copying(on, index, path, &format!("{path}{index}"))
    });
    let copies = copies.collect();
    llb::change_files(inputs, copies)
}

/// Each operation makes a file on one of those before, or copies from one of them to another.
fn random(seed: usize, count: usize) -> pb::Definition {
    let mut graph = Graph::default();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ (seed as u64 + 1));
    let mut states: Vec<(String, usize)> = Vec::new();
    for index in 0..count {
        let text = format!("{seed} and {index} of a random graph");
        let below = states
            .get(numbers.below(index + 1))
            .filter(|(_, depth)| *depth < DEEPEST);
        let Some((below, depth)) = below.cloned() else {
            states.push((graph.add(&llb::make_file("/file", &text)), 1));
            continue;
        };
        let (mut inputs, path) = (vec![llb::input(&below, 0)], format!("/file{index}"));
        let action = if numbers.below(2) == 0 {
            llb::making_file(0, &path, &text)
        } else {
            let (from, _) = &states[numbers.below(states.len())];
            inputs.push(llb::input(from, 0));
            llb::copying(0, 1, "/file", &path)
        };
        states.push((graph.add(&llb::change_files(inputs, vec![action])), depth + 1));
    }
    let all: Vec<String> = states.into_iter().map(|(digest, _)| digest).collect();
    let joined = graph.add(&join(&all, "/file"));
    graph.asking_for(&joined, 0)
}

/// Steps that need nothing of one another.
fn side_by_side(seed: usize, count: usize) -> pb::Definition {
    let (mut graph, base) = start();
    let steps: Vec<String> = (0..count)
        .map(|index| graph.add(&step(&base, &format!("{seed} and {index} side by side"))))
        .collect();
    let joined = graph.add(&join(&steps, "/made"));
    graph.asking_for(&joined, 0)
}

/// Steps of which each needs the one before.
fn in_a_row(seed: usize, count: usize) -> pb::Definition {
    let (mut graph, base) = start();
    let last = (0..count).fold(base, |below, index| {
        graph.add(&step(&below, &format!("{seed} and {index} in a row")))
    });
    graph.asking_for(&last, 0)
}

/// A process that does next to nothing. It gets no network, for which the privilege would have to be granted.
fn step(on: &str, text: &str) -> pb::Op {
    let mut op = llb::run(
        llb::input(on, 0),
        &["/bin/busybox", "sh", "-c", &format!("echo {text} > /made")],
    );
    if let Some(pb::op::Op::Exec(exec)) = &mut op.op {
        exec.network = pb::NetMode::None.into();
    }
    op
}

/// A sequence that is the same every time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap_or_default()
    }
}
