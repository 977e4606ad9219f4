//! Secrets of the client, by id.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_proto::secrets::secrets_client::SecretsClient;
use cairn_proto::secrets::secrets_server::{Secrets, SecretsServer};
use cairn_proto::secrets::{GetSecretRequest, GetSecretResponse};
use tokio::io::AsyncReadExt;
use tonic::{Code, Request, Response, Status, async_trait};

use crate::error::SessionError;
use crate::secret::Secret;
use crate::services::Services;
use crate::session::Session;

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const TIMEOUT: Duration = Duration::from_secs(60);
/// The size that clients agree on.
const MAX_SECRET: u64 = 500 << 10;

/// Asks the client for a secret; `None` if it has none of that id.
///
/// # Errors
/// [`SessionError`] if the client cannot answer.
pub async fn get_secret(session: &Session, id: &str) -> Result<Option<Secret>, SessionError> {
    let mut client = SecretsClient::new(session.channel());
    let request = GetSecretRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    match session.unary(GET_SECRET, TIMEOUT, client.get_secret(request)).await {
        Ok(response) => Ok(Some(Secret::new(response.data))),
        Err(SessionError::Unsupported { .. }) => Ok(None),
        Err(error) if matches!(error.code(), Code::NotFound | Code::Unimplemented) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the client finds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The content of a file.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
}

/// Offers secrets, each read when it is asked for.
pub fn serve(services: &mut Services, sources: BTreeMap<String, SecretSource>) {
    let store = SecretStore {
        sources: Arc::new(sources),
    };
    services.add(SecretsServer::new(store), &[GET_SECRET]);
}

struct SecretStore {
    sources: Arc<BTreeMap<String, SecretSource>>,
}

#[async_trait]
impl Secrets for SecretStore {
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let missing = || Status::not_found(format!("secret {id} not found"));
        let source = self.sources.get(&id).ok_or_else(missing)?;
        let data = match source {
            SecretSource::Env(name) => {
                use std::os::unix::ffi::OsStringExt;
                std::env::var_os(name).ok_or_else(missing)?.into_vec()
            }
            SecretSource::File(path) => read(path).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => missing(),
                _ => Status::unknown(format!("failed to read secret {id} from {}: {error}", path.display())),
            })?,
        };
        if data.len() as u64 > MAX_SECRET {
            return Err(Status::invalid_argument(format!(
                "invalid secret {id}: larger than {MAX_SECRET} bytes"
            )));
        }
        Ok(Response::new(GetSecretResponse { data: data.into() }))
    }
}

/// Reads at most one byte more than a secret may have.
async fn read(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    tokio::fs::File::open(path)
        .await?
        .take(MAX_SECRET + 1)
        .read_to_end(&mut data)
        .await?;
    Ok(data)
}
