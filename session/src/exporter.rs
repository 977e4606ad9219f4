//! Exporters that a client adds once a build has a result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::exporter::exporter_client::ExporterClient;
use cairn_proto::exporter::exporter_server::{Exporter, ExporterServer};
use cairn_proto::exporter::{
    ExporterRequest, FinalizeExportRequest, FinalizeExportResponse, FindExportersRequest, FindExportersResponse,
};
use tonic::{Code, Request, Response, Status, async_trait};

use crate::error::SessionError;
use crate::services::Services;
use crate::session::Session;

const FIND_EXPORTERS: &str = "/moby.exporter.v1.Exporter/FindExporters";
const FINALIZE_EXPORT: &str = "/moby.exporter.v1.Exporter/FinalizeExport";
/// A client may look at what was built before it answers.
const TIMEOUT: Duration = Duration::from_secs(300);

/// An exporter that a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddedExporter {
    /// Its type, such as `image`.
    pub kind: String,
    /// Its settings.
    pub attrs: BTreeMap<String, String>,
}

/// Asks the client for exporters, now that there is a result with this metadata for these platforms. A client that
/// knows nothing of it has none.
///
/// # Errors
/// [`SessionError`] if the client cannot answer.
pub async fn find_exporters(
    session: &Session,
    metadata: BTreeMap<String, Bytes>,
    refs: Vec<String>,
) -> Result<Vec<AddedExporter>, SessionError> {
    let mut client = ExporterClient::new(session.channel());
    let request = FindExportersRequest { metadata, refs };
    let found = session.unary(FIND_EXPORTERS, TIMEOUT, client.find_exporters(request));
    let response = unless_absent(found.await)?.unwrap_or_default();
    let added = response.exporters.into_iter().map(|exporter| AddedExporter {
        kind: exporter.r#type,
        attrs: exporter.attrs,
    });
    Ok(added.collect())
}

/// Tells the client what came of all exporters.
///
/// # Errors
/// [`SessionError`] if the client cannot take it.
pub async fn finalize_export(
    session: &Session,
    exporter_response: BTreeMap<String, String>,
) -> Result<(), SessionError> {
    let mut client = ExporterClient::new(session.channel());
    let request = FinalizeExportRequest { exporter_response };
    let told = session.unary(FINALIZE_EXPORT, TIMEOUT, client.finalize_export(request));
    unless_absent(told.await).map(drop)
}

/// A client without the service, or one that is gone, is no failure.
fn unless_absent<T>(outcome: Result<T, SessionError>) -> Result<Option<T>, SessionError> {
    match outcome {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if matches!(error.code(), Code::Unavailable | Code::Unimplemented) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a client decides about exporters.
#[async_trait]
pub trait AddExporters: Send + Sync + 'static {
    /// Exporters for a result with this metadata, for these platforms.
    ///
    /// # Errors
    /// Fail the build.
    async fn find(&self, metadata: BTreeMap<String, Bytes>, refs: Vec<String>) -> Result<Vec<AddedExporter>, Status>;

    /// Takes what came of all exporters.
    ///
    /// # Errors
    /// Fail the build.
    async fn finalize(&self, response: BTreeMap<String, String>) -> Result<(), Status>;
}

/// Offers to add exporters.
pub fn serve(services: &mut Services, exporters: Arc<dyn AddExporters>) {
    let server = ExporterServer::new(Served(exporters));
    services.add(server, &[FIND_EXPORTERS, FINALIZE_EXPORT]);
}

struct Served(Arc<dyn AddExporters>);

#[async_trait]
impl Exporter for Served {
    async fn find_exporters(
        &self,
        request: Request<FindExportersRequest>,
    ) -> Result<Response<FindExportersResponse>, Status> {
        let request = request.into_inner();
        let added = self.0.find(request.metadata, request.refs).await?;
        let exporters = added.into_iter().map(|exporter| ExporterRequest {
            r#type: exporter.kind,
            attrs: exporter.attrs,
        });
        Ok(Response::new(FindExportersResponse {
            exporters: exporters.collect(),
        }))
    }

    async fn finalize_export(
        &self,
        request: Request<FinalizeExportRequest>,
    ) -> Result<Response<FinalizeExportResponse>, Status> {
        self.0.finalize(request.into_inner().exporter_response).await?;
        Ok(Response::new(FinalizeExportResponse {}))
    }
}
