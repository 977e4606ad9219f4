//! A worker that does nothing, at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::llb::SourceOp;
use cairn_solver::worker::{
    CallContext, ContentSelector, Execution, FileStat, ImageQuery, ResolvedImage, ResolvedSource, SourceMeta,
    WorkerInfo,
};
use cairn_solver::{Digest, Platform, Ref, ResultId, Worker, WorkerError};

/// Every result is named after its vertex, and is still there whenever it is asked for.
#[derive(Default)]
pub(crate) struct Idle {
    /// Number of vertices executed.
    pub(crate) executed: AtomicUsize,
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
        self.executed.fetch_add(1, Ordering::Relaxed);
        let id = ResultId::new(execution.vertex.digest.hex());
        Ok(vec![Some(Ref::new(id, Arc::new(())))])
    }

    async fn digest(&self, input: Option<&Ref>, _: &ContentSelector, _: &CallContext) -> Result<Digest, WorkerError> {
        Ok(Digest::sha256(input.map_or("", |input| input.id().as_str()).as_bytes()))
    }

    async fn open(&self, id: &ResultId) -> Result<Option<Ref>, WorkerError> {
        Ok(Some(Ref::new(id.clone(), Arc::new(()))))
    }

    async fn resolve_image(&self, query: &ImageQuery, _: &CallContext) -> Result<ResolvedImage, WorkerError> {
        Err(WorkerError::NotFound(query.reference.clone()))
    }

    async fn source_meta(&self, source: &SourceOp, _: &CallContext) -> Result<SourceMeta, WorkerError> {
        Err(WorkerError::Unsupported(format!("{source:?} has no metadata")))
    }

    async fn read_file(&self, _: Option<&Ref>, path: &Path, _: Option<(u64, u64)>) -> Result<Bytes, WorkerError> {
        Err(WorkerError::NotFound(path.display().to_string()))
    }

    async fn read_dir(&self, _: Option<&Ref>, path: &Path, _: Option<&[u8]>) -> Result<Vec<FileStat>, WorkerError> {
        Err(WorkerError::NotFound(path.display().to_string()))
    }

    async fn stat_file(&self, _: Option<&Ref>, path: &Path) -> Result<FileStat, WorkerError> {
        Err(WorkerError::NotFound(path.display().to_string()))
    }
}
