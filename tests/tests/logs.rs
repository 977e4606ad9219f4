//! Output by the hundreds of megabytes.

use anyhow::{Context as _, ensure};
use cairn_client::{Client, ProgressEvent, SolveOptions};
use cairn_proto::pb;
use cairn_tests::llb::{Graph, image, input, run};
use cairn_tests::{Daemon, Lab, Need};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Half of what is written, in bytes: each line has 50.
const HALF: usize = 100_000_000;

/// A step with a cache directory at `/gate`.
fn step(base: &str, script: &str) -> pb::Op {
    let mut op = run(input(base, 0), &["sh", "-c", script]);
    if let Some(pb::op::Op::Exec(exec)) = &mut op.op {
        exec.mounts.push(pb::Mount {
            input: -1,
            dest: "/gate".to_owned(),
            output: -1,
            mount_type: pb::MountType::Cache.into(),
            cache_opt: Some(pb::CacheOpt {
                id: "gate".to_owned(),
                sharing: pb::CacheSharingOpt::Shared.into(),
            }),
            ..pb::Mount::default()
        });
    }
    op
}

/// Counts what a build writes, and checks that it is in order.
#[derive(Default)]
struct Reader {
    bytes: usize,
    part: Vec<u8>,
    next: usize,
}

impl Reader {
    fn read(&mut self, data: &[u8]) -> anyhow::Result<()> {
        self.bytes += data.len();
        self.part.extend_from_slice(data);
        let whole = self.part.len() - self.part.len() % 50;
        for line in self.part[..whole].chunks(50) {
            let want = format!("{:049}\n", self.next);
            ensure!(
                line == want.as_bytes(),
                "{:?} in place of {want:?}",
                String::from_utf8_lossy(line)
            );
            self.next += 1;
        }
        self.part.drain(..whole);
        Ok(())
    }
}

/// Builds, and reads all that is written.
async fn follow(client: &Client, definition: pb::Definition, written: &watch::Sender<usize>) -> anyhow::Result<Reader> {
    let (events, mut news) = mpsc::channel(16);
    let options = SolveOptions {
        definition: Some(definition),
        ..SolveOptions::default()
    };
    let read = async {
        let mut reader = Reader::default();
        while let Some(event) = news.recv().await {
            if let ProgressEvent::Status(status) = event {
                for log in &status.logs {
                    reader.read(&log.msg)?;
                }
                written.send_replace(reader.bytes);
            }
        }
        Ok::<_, anyhow::Error>(reader)
    };
    let (solved, read) = tokio::join!(client.solve(options, events, CancellationToken::new()), read);
    solved.context("the build failed")?;
    read
}

/// Most memory that a process has had, in bytes.
fn peak_memory(pid: u32) -> anyhow::Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("no VmHWM")?;
    Ok(kib.trim().parse::<usize>()? << 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_megabytes_of_output_take_little_memory_and_who_comes_late_gets_all() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let unlimited = [
        ("BUILDKIT_STEP_LOG_MAX_SIZE", "-1"),
        ("BUILDKIT_STEP_LOG_MAX_SPEED", "-1"),
    ];
    let mut daemon = Daemon::start_with_variables(&lab, &unlimited)?;
    let client = Client::connect(&daemon.address().parse()?).await?;

    // Half before somebody comes late and opens the gate, half after.
    let lines = |from: usize| format!("seq -f %049.0f {from} {}", from + HALF / 50 - 1);
    let script = format!(
        "{}; while [ ! -e /gate/open ]; do sleep 0.1; done; {}",
        lines(0),
        lines(HALF / 50)
    );
    let mut graph = Graph::default();
    let base = graph.add(&image("docker.io/library/debian:latest"));
    let large = graph.add(&step(&base, &script));
    let first = graph.asking_for(&large, 0);
    let mut graph = Graph::default();
    let base = graph.add(&image("docker.io/library/debian:latest"));
    let large = graph.add(&step(&base, &script));
    let gate = graph.add(&step(&base, "touch /gate/open"));
    let merge = graph.add(&pb::Op {
        inputs: vec![input(&large, 0), input(&gate, 0)],
        op: Some(pb::op::Op::Merge(pb::MergeOp {
            inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }],
        })),
        ..pb::Op::default()
    });
    let second = graph.asking_for(&merge, 0);

    let (written, mut seen) = watch::channel(0);
    let (nobody, _) = watch::channel(0);
    let early = follow(&client, first, &written);
    let late = async {
        seen.wait_for(|&bytes| bytes >= HALF)
            .await
            .context("the step wrote too little")?;
        follow(&client, second, &nobody).await
    };
    let (early, late) = tokio::try_join!(early, late)?;
    ensure!(early.bytes == 2 * HALF, "the first saw {} bytes", early.bytes);
    ensure!(late.bytes == 2 * HALF, "who came late saw {} bytes", late.bytes);
    let peak = peak_memory(daemon.pid())?;
    say(&format!(
        "{} MB of output, {} MB of memory at most",
        2 * HALF / 1_000_000,
        peak / 1_000_000
    ));
    ensure!(peak < HALF * 2, "{peak} bytes of memory");
    let left = std::fs::read_dir(daemon.root().join("spool"))?.count();
    ensure!(left == 0, "{left} files are left");
    ensure!(daemon.stop()?.success(), "{}", daemon.log());
    Ok(())
}

/// Says what was measured, to whoever runs the test with its output shown.
fn say(text: &str) {
    use std::io::Write as _;
    let _lost = writeln!(std::io::stdout(), "{text}");
}
