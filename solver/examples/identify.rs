//! Measures what a build costs that finds everything known: `cargo run --release -p cairn-solver --example identify`.

#![expect(clippy::print_stdout, reason = "a program that prints its measurements")]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::index::{CacheIndex, MemoryIndex, RedbIndex};
use cairn_solver::llb::{
    Builder, ContentCache, Definition, ExecOp, ImageSource, Mount, MountKind, OpMetadata, SourceOp,
};
use cairn_solver::worker::{
    CallContext, ContentSelector, Execution, FileStat, ImageQuery, ResolvedImage, ResolvedSource, SourceMeta,
    WorkerInfo,
};
use cairn_solver::{BuildOptions, Digest, Engine, Platform, Ref, ResultId, Worker, WorkerError};

/// A worker that does nothing at once.
#[derive(Default)]
struct Idle {
    known: parking_lot::Mutex<HashSet<ResultId>>,
}

#[async_trait]
impl Worker for Idle {
    fn info(&self) -> WorkerInfo {
        WorkerInfo {
            platforms: vec![Platform::host()],
            ..WorkerInfo::default()
        }
    }

    async fn resolve_source(
        &self,
        _: &SourceOp,
        _: Option<&Platform>,
        _: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        Ok(ResolvedSource {
            pin: "pin".to_owned(),
            parts: BTreeMap::new(),
            result: None,
        })
    }

    async fn execute(&self, execution: Execution, _: &CallContext) -> Result<Vec<Option<Ref>>, WorkerError> {
        let id = ResultId::new(execution.vertex.digest.hex());
        self.known.lock().insert(id.clone());
        Ok(vec![Some(Ref::new(id, Arc::new(())))])
    }

    async fn digest(&self, input: Option<&Ref>, _: &ContentSelector, _: &CallContext) -> Result<Digest, WorkerError> {
        Ok(Digest::sha256(input.map_or("", |input| input.id().as_str()).as_bytes()))
    }

    async fn open(&self, id: &ResultId) -> Result<Option<Ref>, WorkerError> {
        let is_known = self.known.lock().contains(id);
        Ok(is_known.then(|| Ref::new(id.clone(), Arc::new(()))))
    }

    async fn resolve_image(&self, query: &ImageQuery, _: &CallContext) -> Result<ResolvedImage, WorkerError> {
        Err(WorkerError::NotFound(query.reference.clone()))
    }

    async fn source_meta(&self, source: &SourceOp, _: &CallContext) -> Result<SourceMeta, WorkerError> {
        Err(WorkerError::Unsupported(format!("{source:?} has no metadata")))
    }

    async fn read_file(&self, _: Option<&Ref>, path: &str, _: Option<(u64, u64)>) -> Result<Bytes, WorkerError> {
        Err(WorkerError::NotFound(path.to_owned()))
    }

    async fn read_dir(&self, _: Option<&Ref>, path: &str, _: Option<&str>) -> Result<Vec<FileStat>, WorkerError> {
        Err(WorkerError::NotFound(path.to_owned()))
    }

    async fn stat_file(&self, _: Option<&Ref>, path: &str) -> Result<FileStat, WorkerError> {
        Err(WorkerError::NotFound(path.to_owned()))
    }
}

/// A chain in which every step also reads the base image by content.
fn graph(vertices: usize) -> Definition {
    let mount = |dest: &str, input, readonly, output| Mount {
        dest: dest.to_owned(),
        input: Some(input),
        selector: String::new(),
        readonly,
        output,
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
    };
    let mut builder = Builder::new();
    let image = ImageSource {
        reference: "base".to_owned(),
        ..ImageSource::default()
    };
    let base = builder.source(SourceOp::Image(image), None, OpMetadata::default());
    let mut last = base;
    for n in 1..vertices {
        let exec = ExecOp {
            args: vec!["step".to_owned(), n.to_string()],
            cwd: "/".to_owned(),
            mounts: vec![mount("/", 0, false, Some(0)), mount("/base", 1, true, None)],
            ..ExecOp::default()
        };
        last = builder.exec(exec, &[last, base], None, OpMetadata::named(format!("step {n}")));
    }
    builder.finish(last)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("cairn-identify-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let indexes: [(&str, Arc<dyn CacheIndex>); 2] = [
        ("memory", Arc::new(MemoryIndex::default())),
        ("redb", Arc::new(RedbIndex::open(&dir.join("index.redb"))?)),
    ];
    for (name, index) in indexes {
        let engine = Engine::new(Arc::new(Idle::default()), index);
        for vertices in [20, 10_000] {
            let definition = graph(vertices);
            let mut fastest = std::time::Duration::MAX;
            for round in 0..20 {
                let start = Instant::now();
                let build = engine.build(BuildOptions::default());
                build.solve(&definition).await?;
                drop(build);
                engine.index().flush()?;
                let took = start.elapsed();
                if round == 0 {
                    println!("{name}, {vertices} vertices, all to do: {took:?}");
                } else {
                    fastest = fastest.min(took);
                }
            }
            println!("{name}, {vertices} vertices, nothing to do: {fastest:?}");
        }
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
