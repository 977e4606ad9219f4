//! How long large inputs take: `cargo bench -p cairn-dockerfile`.
//!
//! Prints the mean of some runs. A Dockerfile of 2,000 lines in 200 stages should take less than 5 ms from
//! text to graph, 1,000,000 paths against 100 ignore patterns less than 1 s.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_dockerfile::{Dockerfile, DockerfileFrontend};
use cairn_patterns::PatternSet;
use cairn_solver::frontend::{Bridge, BridgeRef, Frontend, FrontendError, FrontendRequest, FrontendResult};
use cairn_solver::llb::{Definition, GitSource, SourceOp};
use cairn_solver::progress::Warning;
use cairn_solver::worker::{FileStat, ImageQuery, ResolvedImage, SourceMeta, WorkerInfo};
use cairn_solver::{Digest, Platform, SolveError, WorkerError};

/// As in `cairn`, which carries the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let text = dockerfile(200);
    println!("dockerfile: {} lines, {} stages", text.lines().count(), 200);
    measure("  parse", 50, || drop(black_box(Dockerfile::parse(text.as_bytes()))));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let bridge: Arc<dyn Bridge> = Arc::new(OneFile(text.into()));
    measure("  parse and lower", 50, || {
        let solved = DockerfileFrontend.solve(Arc::clone(&bridge), FrontendRequest::default());
        black_box(runtime.block_on(solved).expect("the Dockerfile is good"));
    });

    let patterns = patterns();
    let paths = paths(1_000_000);
    println!("ignore file: {} patterns, {} paths", patterns.len(), paths.len());
    measure("  whole paths", 5, || {
        let set = PatternSet::new(&patterns).expect("the patterns are good");
        black_box(
            paths
                .iter()
                .filter(|path| set.matches(path).expect("the patterns are good"))
                .count(),
        );
    });
    measure("  walking", 5, || {
        let set = PatternSet::new(&patterns).expect("the patterns are good");
        black_box(walk(&set, &paths));
    });
}

/// Measures time on the processor, so that a busy machine does not matter. The kernel counts it in steps too coarse for a
/// single short run.
fn measure(what: &str, runs: u32, mut run: impl FnMut()) {
    run();
    let begun = on_processor();
    for _ in 0..runs {
        run();
    }
    println!("{what}: {:?}", on_processor().saturating_sub(begun) / runs);
}

/// How long this thread has been running.
fn on_processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("the first number is time"))
}

/// Ten lines per stage, each stage from the one before or from an image, and copying from another.
fn dockerfile(stages: usize) -> String {
    let stage = |n: usize| {
        let base = if n.is_multiple_of(10) {
            "alpine".to_owned()
        } else {
            format!("s{}", n - 1)
        };
        let from = n.saturating_sub(7);
        let copy = if n == 0 {
            "COPY b /b".to_owned()
        } else {
            format!("COPY --from=s{from} /out/{from} /in/{from}")
        };
        format!(
            "FROM {base} AS s{n}\nARG VERSION=1.{n}\nENV NAME=stage-{n} \\\n    PATH=/opt/{n}/bin:$PATH\n\
             WORKDIR /src/{n}\n{copy}\nCOPY --chown=1000:1000 dir{n}/*.txt ${{NAME%-*}}/\n\
             RUN --mount=type=cache,target=/cache make VERSION=${{VERSION:-0}} && make install\n\
             LABEL org.example.stage=\"{n}\" org.example.name=$NAME\nRUN echo done > /out/{n}\n"
        )
    };
    (0..stages).map(stage).collect()
}

fn patterns() -> Vec<String> {
    let kinds = [
        "**/*.x{}",
        "dir{}/**",
        "**/node_modules{}",
        "src/**/test{}_*.rs",
        "!src/**/keep{}",
        "*.tmp{}",
        "/top{}/[a-f]*",
        "a?c{}",
        "build{}",
        "**/out{}/*.o",
    ];
    (0..100)
        .map(|n| kinds[n % 10].replace("{}", &(n / 10).to_string()))
        .collect()
}

fn paths(count: usize) -> Vec<String> {
    let extensions = ["rs", "x3", "js", "o", "tmp1", "txt"];
    let path = |n: usize| {
        let (a, b, c) = (n / 10_000, n / 100 % 100, n % 100);
        let top = ["src", "dir", "packages", "top3", "vendor"][a % 5];
        format!("{top}/module{a}/part{b}/test{}_file{c}.{}", c % 10, extensions[n % 6])
    };
    (0..count).map(path).collect()
}

/// Enters every directory once, as a walk of the tree does.
fn walk(set: &PatternSet, paths: &[String]) -> usize {
    let mut open: Vec<(&str, cairn_patterns::DirState)> = Vec::new();
    let mut matched = 0;
    for path in paths {
        let (dir, name) = path.rsplit_once('/').expect("every path has a directory");
        let names: Vec<&str> = dir.split('/').collect();
        let same = open
            .iter()
            .zip(&names)
            .take_while(|((open, _), name)| open == *name)
            .count();
        open.truncate(same);
        for name in &names[same..] {
            let above = open.last().map_or_else(|| set.root(), |(_, state)| state.clone());
            open.push((name, set.enter(&above, name).expect("the patterns are good")));
        }
        let (_, parent) = open.last().expect("every path has a directory");
        matched += usize::from(set.enter(parent, name).expect("the patterns are good").is_match());
    }
    matched
}

/// A daemon with one file and one image.
struct OneFile(Bytes);

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/bin:/bin"],"Cmd":["/bin/sh"]},
    "rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#;

fn missing(what: &Path) -> SolveError {
    WorkerError::NotFound(what.display().to_string()).into()
}

#[async_trait]
impl Bridge for OneFile {
    fn session_id(&self) -> &str {
        "session"
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        vec![WorkerInfo {
            platforms: vec![Platform::new("linux", "amd64", "")],
            ..WorkerInfo::default()
        }]
    }

    async fn solve(&self, definition: Definition) -> Result<Option<BridgeRef>, SolveError> {
        Ok(Some(BridgeRef {
            id: "ref".to_owned(),
            definition: Arc::new(definition),
        }))
    }

    async fn begin(&self, _: Definition) {}

    async fn read_file(&self, _: &BridgeRef, path: &Path, _: Option<(u64, u64)>) -> Result<Bytes, SolveError> {
        if path == Path::new("Dockerfile") {
            return Ok(self.0.clone());
        }
        Err(missing(path))
    }

    async fn read_dir(&self, _: &BridgeRef, path: &Path, _: Option<&[u8]>) -> Result<Vec<FileStat>, SolveError> {
        Err(missing(path))
    }

    async fn stat_file(&self, _: &BridgeRef, path: &Path) -> Result<FileStat, SolveError> {
        Err(missing(path))
    }

    async fn resolve_image(&self, query: ImageQuery, _: &str) -> Result<ResolvedImage, SolveError> {
        Ok(ResolvedImage {
            reference: query.reference.clone(),
            digest: Digest::sha256(query.reference.as_bytes()),
            config: CONFIG.into(),
        })
    }

    async fn source_meta(&self, _: SourceOp, name: &str) -> Result<SourceMeta, SolveError> {
        Err(missing(Path::new(name)))
    }

    async fn host_keys(&self, _: &GitSource) -> String {
        String::new()
    }

    async fn solve_frontend(self: Arc<Self>, name: &str, _: FrontendRequest) -> Result<FrontendResult, FrontendError> {
        Err(FrontendError::Option(format!("invalid frontend: {name}")))
    }

    fn warn(&self, _: Option<Digest>, _: Warning) {}
}
