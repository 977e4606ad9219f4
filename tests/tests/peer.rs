//! Random definitions give the same files here as with Docker Engine's BuildKit.
//!
//! What file operations, merges and differences mean is found out by asking both. `CAIRN_PEER_CASES` (default 40) is how
//! many definitions are tried.

use anyhow::anyhow;
use cairn_client::SolveOptions;
use cairn_proto::pb;
use cairn_tests::llb::{self, Graph, change_files};
use cairn_tests::{Daemon, Engine, Lab, Need, files_of};
use pb::file_action::Action;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tokio::runtime::Runtime;

const PATHS: [&str; 8] = ["/a", "/a/b", "/a/b/c", "/d", "/d/e", "/d/e/f", "/l", "/a/l"];
const TARGETS: [&str; 5] = ["b", "/a", "../d", "/nowhere", "c"];
const SOURCES: [&str; 9] = ["/", "/a", "/a/b", "/d", "/d/e/f", "/l", "/*", "/a/*", "/d/e"];
const DESTINATIONS: [&str; 8] = ["/", "/a", "/a/", "/x/y", "/d/e", "/l", "/l/z", "/a/b/c"];
/// 2001-09-09, so that whatever is younger was not asked for.
const TIME: i64 = 1_000_000_000_000_000_000;

/// One operation; numbers choose among the states before it.
#[derive(Clone, Debug)]
enum Step {
    Files {
        on: usize,
        from: usize,
        changes: Vec<Change>,
    },
    Merge(Vec<usize>),
    Diff {
        lower: usize,
        upper: usize,
    },
}

/// One action of a file operation.
#[derive(Clone, Debug)]
enum Change {
    Directory {
        path: usize,
        mode: u32,
        owner: u32,
    },
    File {
        path: usize,
        mode: u32,
        text: u8,
        owner: u32,
    },
    Link {
        path: usize,
        target: usize,
    },
    Remove {
        path: usize,
        wildcard: bool,
    },
    Copy {
        source: usize,
        destination: usize,
        flags: u8,
        patterns: u8,
    },
}

fn change() -> impl Strategy<Value = Change> {
    // Not what the engine's umask takes away.
    let mode = prop::sample::select(vec![0o755_u32, 0o700, 0o511, 0o644]);
    let owner = prop::sample::select(vec![0_u32, 0, 0, 7]);
    prop_oneof![
        2 => (0..PATHS.len(), mode.clone(), owner.clone())
            .prop_map(|(path, mode, owner)| Change::Directory { path, mode, owner }),
        4 => (0..PATHS.len(), mode, any::<u8>(), owner)
            .prop_map(|(path, mode, text, owner)| Change::File { path, mode, text, owner }),
        2 => (0..PATHS.len(), 0..TARGETS.len()).prop_map(|(path, target)| Change::Link { path, target }),
        2 => (0..PATHS.len(), any::<bool>()).prop_map(|(path, wildcard)| Change::Remove { path, wildcard }),
        5 => (0..SOURCES.len(), 0..DESTINATIONS.len(), any::<u8>(), 0..6_u8).prop_map(
            |(source, destination, flags, patterns)| Change::Copy { source, destination, flags, patterns }
        ),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<usize>(), any::<usize>(), prop::collection::vec(change(), 1..4))
            .prop_map(|(on, from, changes)| Step::Files { on, from, changes }),
        2 => prop::collection::vec(any::<usize>(), 2..4).prop_map(Step::Merge),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(lower, upper)| Step::Diff { lower, upper }),
    ]
}

/// The definition of the last of `steps`. Recent states are chosen more often, so that most of it is needed.
fn definition(steps: &[Step]) -> pb::Definition {
    let mut graph = Graph::default();
    // The first is nothing at all.
    let mut states: Vec<Option<String>> = vec![None];
    for step in steps {
        let choose = |number: usize| states[states.len() - 1 - (number % 4).min(states.len() - 1)].clone();
        let mut inputs = Inputs::default();
        let op = match step {
            Step::Files { on, from, changes } => {
                let (on, from) = (inputs.add(choose(*on)), inputs.add(choose(*from)));
                let mut actions = Vec::new();
                for change in changes {
                    // Each on top of the one before.
                    let count = i64::try_from(inputs.0.len() + actions.len()).unwrap_or_default();
                    let on = if actions.is_empty() { on } else { count - 1 };
                    // The engine panics when it has to copy from nothing.
                    let is_from_nothing = matches!(change, Change::Copy { .. }) && from < 0;
                    let change = if is_from_nothing {
                        &Change::Directory {
                            path: 0,
                            mode: 0o755,
                            owner: 0,
                        }
                    } else {
                        change
                    };
                    actions.push(action(change, on, from));
                }
                change_files(inputs.0, actions)
            }
            Step::Merge(parts) => {
                // As clients write it: every input once, in order, and none that is nothing.
                inputs.0 = parts
                    .iter()
                    .filter_map(|part| choose(*part))
                    .map(|digest| llb::input(&digest, 0))
                    .collect();
                if inputs.0.is_empty() {
                    states.push(None);
                    continue;
                }
                let merged = (0..)
                    .zip(&inputs.0)
                    .map(|(input, _)| pb::MergeInput { input })
                    .collect();
                operation(inputs, pb::op::Op::Merge(pb::MergeOp { inputs: merged }))
            }
            Step::Diff { lower, upper } if choose(*upper).is_none() || choose(*lower) == choose(*upper) => {
                // Nothing; the engine panics when a file operation is given it.
                states.push(None);
                continue;
            }
            Step::Diff { lower, upper } => {
                let lower = pb::LowerDiffInput {
                    input: inputs.add(choose(*lower)),
                };
                let upper = pb::UpperDiffInput {
                    input: inputs.add(choose(*upper)),
                };
                let diff = pb::DiffOp {
                    lower: Some(lower),
                    upper: Some(upper),
                };
                operation(inputs, pb::op::Op::Diff(diff))
            }
        };
        states.push(Some(graph.add(&op)));
    }
    match states.into_iter().rev().flatten().next() {
        Some(last) => graph.asking_for(&last, 0),
        None => pb::Definition::default(),
    }
}

fn operation(inputs: Inputs, op: pb::op::Op) -> pb::Op {
    pb::Op {
        inputs: inputs.0,
        op: Some(op),
        ..pb::Op::default()
    }
}

/// The inputs of an operation.
#[derive(Default)]
struct Inputs(Vec<pb::Input>);

impl Inputs {
    /// The index of a state, which is added if it is not there; -1 is nothing.
    fn add(&mut self, state: Option<String>) -> i64 {
        let Some(digest) = state else { return -1 };
        let known = self.0.iter().position(|input| input.digest == digest);
        let index = known.unwrap_or_else(|| {
            self.0.push(llb::input(&digest, 0));
            self.0.len() - 1
        });
        i64::try_from(index).unwrap_or_default()
    }
}

fn action(change: &Change, input: i64, from: i64) -> pb::FileAction {
    let owner = |id: u32| {
        let by_id = || pb::UserOpt {
            user: Some(pb::user_opt::User::ById(id)),
        };
        (id != 0).then(|| pb::ChownOpt {
            user: Some(by_id()),
            group: Some(by_id()),
        })
    };
    let (secondary_input, action) = match *change {
        Change::Directory { path, mode, owner: id } => (
            -1,
            Action::Mkdir(pb::FileActionMkDir {
                path: PATHS[path].to_owned(),
                mode: mode.cast_signed(),
                make_parents: true,
                owner: owner(id),
                timestamp: TIME,
            }),
        ),
        Change::File {
            path,
            mode,
            text,
            owner: id,
        } => (
            -1,
            Action::Mkfile(pb::FileActionMkFile {
                path: PATHS[path].to_owned(),
                mode: mode.cast_signed(),
                data: vec![b'a' + text % 8].into(),
                owner: owner(id),
                timestamp: TIME + i64::from(text % 4) * 1_000_000_000,
            }),
        ),
        Change::Link { path, target } => (
            -1,
            Action::Symlink(pb::FileActionSymlink {
                oldpath: TARGETS[target].to_owned(),
                newpath: PATHS[path].to_owned(),
                owner: None,
                timestamp: TIME,
            }),
        ),
        Change::Remove { path, wildcard } => (
            -1,
            Action::Rm(pb::FileActionRm {
                path: if wildcard {
                    "/*/b*".to_owned()
                } else {
                    PATHS[path].to_owned()
                },
                allow_not_found: true,
                allow_wildcard: wildcard,
            }),
        ),
        Change::Copy {
            source,
            destination,
            flags,
            patterns,
        } => {
            let is = |bit: u8| flags & (1 << bit) != 0;
            let list = |patterns: &[&str]| patterns.iter().map(|&text| text.to_owned()).collect();
            let (include, exclude): (Vec<String>, Vec<String>) = match patterns {
                0 => (list(&["b*"]), Vec::new()),
                1 => (Vec::new(), list(&["**/c", "e"])),
                2 => (list(&["**/c", "d"]), list(&["d/e"])),
                _ => Default::default(),
            };
            let copy = pb::FileActionCopy {
                src: SOURCES[source].to_owned(),
                dest: DESTINATIONS[destination].to_owned(),
                owner: owner(if is(0) && is(1) { 9 } else { 0 }),
                mode: if is(2) && is(3) { 0o750 } else { -1 },
                follow_symlink: is(4),
                dir_copy_contents: is(5),
                create_dest_path: true,
                allow_wildcard: true,
                allow_empty_wildcard: true,
                timestamp: if is(2) { TIME } else { -1 },
                include_patterns: include,
                exclude_patterns: exclude,
                always_replace_existing_dest_paths: is(6) && is(7),
                ..pb::FileActionCopy::default()
            };
            (from, Action::Copy(copy))
        }
    };
    pb::FileAction {
        input,
        secondary_input,
        output: -1,
        action: Some(action),
    }
}

#[test]
fn random_definitions_give_the_same_files() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Sid])? else {
        return Ok(());
    };
    let cases = std::env::var("CAIRN_PEER_CASES").map_or(Ok(40), |text| text.parse())?;
    let (daemon, engine) = (Daemon::start(&lab)?, Engine::start(&lab)?);
    let runtime = Runtime::new()?;
    let (our_tar, their_tar) = (lab.path("ours.tar"), lab.path("theirs.tar"));
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    };
    let seed = match std::env::var("CAIRN_PEER_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => 1_u8,
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let tried = runner.run(&prop::collection::vec(step(), 1..9), |steps| {
        let definition = definition(&steps);
        let both = async {
            // A build that fails may take its connection to the engine with it.
            let (ours, theirs) = tokio::try_join!(daemon.connect(), engine.connect())?;
            let our = files_of(&ours, &definition, SolveOptions::default(), &our_tar).await?;
            let their = files_of(&theirs, &definition, SolveOptions::default(), &their_tar).await?;
            anyhow::Ok((our, their))
        };
        let (our, their) = runtime
            .block_on(both)
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        match (our, their) {
            (Ok(our), Ok(their)) => prop_assert_eq!(our, their),
            // Texts may differ.
            (Err(_), Err(_)) => {}
            // What is to be removed if it is there is not there below a file either: the engine takes offence.
            (Ok(_), Err(their)) if their.starts_with("unlinkat") => {}
            (our, their) => prop_assert!(false, "ours: {:?}, theirs: {:?}", our, their),
        }
        Ok(())
    });
    tried.map_err(|error| anyhow!("{error}"))
}
