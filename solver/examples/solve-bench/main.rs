//! Measures the engine by itself, on a worker that does nothing:
//! `cargo run --release -p cairn-solver --example solve-bench`.
//!
//! Each graph is built once by one process, which leaves the index behind, and then, all known, by another. So the
//! times and the memory of the second are those of a daemon that finds a large build cached after a restart.

#![expect(clippy::print_stdout, reason = "a program that prints its measurements")]

mod graphs;
mod idle;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cairn_proto::pb;
use cairn_solver::index::{CacheIndex, MemoryIndex, RedbIndex};
use cairn_solver::llb::{self, Definition};
use cairn_solver::{BuildOptions, Engine};
use prost::Message as _;

use self::graphs::Shape;
use self::idle::Idle;

/// As in `cairn`, which carries the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sizes of the graphs, to see that the cost of a vertex does not grow with them.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match arguments.as_slice() {
        [] => everything(&["chain", "reading", "fan", "dag", "together"]),
        ["cold", shape, size, dir] => runtime()?.block_on(cold(shape, size.parse()?, Path::new(dir))),
        ["warm", rounds, dir] => runtime()?.block_on(warm(rounds.parse()?, Path::new(dir))),
        ["together"] => runtime()?.block_on(together(1_000, 100)),
        some => everything(some),
    }
}

/// Runs each measurement in a process of its own.
fn everything(wanted: &[&str]) -> Outcome {
    let dir = Scratch::new()?;
    for shape in Shape::ALL.into_iter().filter(|shape| wanted.contains(&shape.name())) {
        for size in SIZES {
            let dir = dir.0.join(format!("{}-{size}", shape.name()));
            std::fs::create_dir_all(&dir)?;
            let place = dir.display().to_string();
            run(&["cold", shape.name(), &size.to_string(), &place])?;
            run(&["warm", "5", &place])?;
            std::fs::remove_dir_all(&dir)?;
        }
    }
    if wanted.contains(&"together") {
        run(&["together"])?;
    }
    Ok(())
}

fn run(arguments: &[&str]) -> Outcome {
    let status = Command::new(std::env::current_exe()?).args(arguments).status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{} {status}", arguments.join(" ")).into())
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("cairn-solve-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Everything is to do: what the engine costs per vertex.
async fn cold(shape: &str, size: usize, dir: &Path) -> Outcome {
    let shape = Shape::ALL.into_iter().find(|known| known.name() == shape);
    let definition = shape.ok_or("no such graph")?.graph(size);
    std::fs::write(dir.join("definition"), definition.to_wire().encode_to_vec())?;
    let vertices = llb::decode(&definition)?.map_or(0, |graph| graph.len());
    let in_memory = solve_cold(&definition, Arc::new(MemoryIndex::default())).await?;
    let in_file = solve_cold(&definition, Arc::new(RedbIndex::open(&dir.join("index"))?)).await?;
    println!(
        "{:8} {vertices:7} vertices, all to do:  {:6.1} us each, {:6.1} us with an index on disk; of processor time {:6.1} and {:6.1} us",
        dir.file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split('-').next())
            .unwrap_or_default(),
        each(in_memory.0, vertices),
        each(in_file.0, vertices),
        each(in_memory.1, vertices),
        each(in_file.1, vertices),
    );
    Ok(())
}

fn each(total: Duration, count: usize) -> f64 {
    total.as_secs_f64() * 1e6 / count as f64
}

async fn solve_cold(
    definition: &Definition,
    index: Arc<dyn CacheIndex>,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let worker = Arc::<Idle>::default();
    let engine = Engine::new(worker.clone(), index);
    let (start, before) = (Instant::now(), processor_time()?);
    let build = engine.build(BuildOptions::default());
    build.solve(definition).await?;
    let took = start.elapsed();
    let used = processor_time()? - before;
    drop(build);
    engine.index().flush()?;
    Ok((took, used))
}

/// Everything is known: load, identify, look the target up.
async fn warm(rounds: usize, dir: &Path) -> Outcome {
    let wire = pb::Definition::decode(std::fs::read(dir.join("definition"))?.as_slice())?;
    let definition = Definition::from_wire(wire);
    let worker = Arc::<Idle>::default();
    let engine = Engine::new(worker.clone(), Arc::new(RedbIndex::open(&dir.join("index"))?));
    let mut times = Vec::new();
    let mut loads = Vec::new();
    let mut vertices = 0;
    let before = processor_time()?;
    for _ in 0..rounds {
        let start = Instant::now();
        let build = engine.build(BuildOptions::default());
        build.solve(&definition).await?;
        times.push(start.elapsed());
        drop(build);
    }
    if worker.executed.load(Ordering::Relaxed) > 0 {
        return Err("something was executed that is known".into());
    }
    let (used, memory) = (processor_time()? - before, peak_memory()?);
    // Only now, so that the memory is that of the builds.
    for _ in 0..rounds {
        let start = Instant::now();
        vertices = llb::decode(&definition)?.map_or(0, |graph| graph.len());
        loads.push(start.elapsed());
    }
    let first = times[0];
    times.sort_unstable();
    loads.sort_unstable();
    println!(
        "{:8} {vertices:7} vertices, all known:  {:9.1} ms at first, {:9.1} ms median ({:6.2} us each), of it decoding {:9.1} ms; {:9.1} ms of processor time; peak memory {} MB",
        "",
        first.as_secs_f64() * 1e3,
        times[rounds / 2].as_secs_f64() * 1e3,
        each(times[rounds / 2], vertices),
        loads[rounds / 2].as_secs_f64() * 1e3,
        used.as_secs_f64() * 1e3 / rounds as f64,
        memory >> 10,
    );
    Ok(())
}

/// Many builds of one graph at the same time.
async fn together(builds: usize, vertices: usize) -> Outcome {
    let definition = Arc::new(Shape::Dag.graph(vertices));
    let worker = Arc::<Idle>::default();
    let engine = Engine::new(worker.clone(), Arc::new(MemoryIndex::default()));
    let (start, before) = (Instant::now(), processor_time()?);
    let mut solves = tokio::task::JoinSet::new();
    for _ in 0..builds {
        let (engine, definition) = (engine.clone(), definition.clone());
        solves.spawn(async move { engine.build(BuildOptions::default()).solve(&definition).await.map(drop) });
    }
    for outcome in solves.join_all().await {
        outcome?;
    }
    println!(
        "{builds} builds at once of one graph of {vertices} vertices: {:.1} ms, {:.1} ms of processor time, {} vertices executed; peak memory {} MB",
        start.elapsed().as_secs_f64() * 1e3,
        (processor_time()? - before).as_secs_f64() * 1e3,
        worker.executed.load(Ordering::Relaxed),
        peak_memory()? >> 10,
    );
    Ok(())
}

/// Processor time this process has used, to a hundredth of a second. On a busy machine it tells more than the clock.
fn processor_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(") ").ok_or("no stat")?;
    let mut ticks = 0;
    for field in fields.split(' ').skip(11).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// Most memory this process has had at once, in KiB.
fn peak_memory() -> Result<usize, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
