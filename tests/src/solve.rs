//! Builds by the client library of which only the outcome matters.

use std::collections::BTreeMap;
use std::path::Path;

use cairn_client::{Client, ClientError, OutputTarget, ReceiveMode, SolveOptions, SolveOutput, Solved};
use cairn_proto::pb;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::daemon::Daemon;
use crate::llb::Graph;

/// Progress under way.
const NEWS: usize = 64;

/// Builds, whatever is told meanwhile.
///
/// # Errors
/// The build's.
pub async fn solve(client: &Client, options: SolveOptions) -> Result<Solved, ClientError> {
    let (events, mut news) = mpsc::channel(NEWS);
    let drain = async { while news.recv().await.is_some() {} };
    // Boxed: it is large, and so would be every test.
    let solving = Box::pin(client.solve(options, events, CancellationToken::new()));
    let (solved, ()) = tokio::join!(solving, drain);
    solved
}

/// Asks for one source, with its files in `dir`.
///
/// # Errors
/// The build's, or that the daemon does not answer.
pub async fn fetch(daemon: &Daemon, source: &pb::Op, dir: &Path, options: SolveOptions) -> anyhow::Result<Solved> {
    let mut graph = Graph::default();
    let digest = graph.add(source);
    let options = SolveOptions {
        definition: Some(graph.asking_for(&digest, 0)),
        outputs: vec![to_dir(dir)],
        ..options
    };
    Ok(solve(&daemon.connect().await?, options).await?)
}

/// The output that is files in a directory.
pub fn to_dir(dir: &Path) -> SolveOutput {
    SolveOutput {
        kind: "local".to_owned(),
        attrs: BTreeMap::new(),
        target: Some(OutputTarget::Directory {
            path: dir.to_owned(),
            mode: ReceiveMode::Merge,
        }),
    }
}
