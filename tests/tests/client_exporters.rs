//! Exporters that a client adds once its build has a result.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use cairn_proto::control::SolveRequest;
use cairn_session::exporter::{self, AddExporters, AddedExporter};
use cairn_session::{Services, tunnel};
use cairn_tests::driven;
use cairn_tests::llb::{Graph, make_file};
use cairn_tests::{Daemon, Lab, Need};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

/// Has the result kept under a name, and remembers what came of it.
struct Keeper {
    kind: &'static str,
    told: Mutex<Option<BTreeMap<String, String>>>,
}

#[tonic::async_trait]
impl AddExporters for Keeper {
    async fn find(&self, _: BTreeMap<String, bytes::Bytes>, refs: Vec<String>) -> Result<Vec<AddedExporter>, Status> {
        if !refs.is_empty() {
            return Err(Status::invalid_argument("there is one result"));
        }
        Ok(vec![AddedExporter {
            kind: self.kind.to_owned(),
            attrs: [("name".to_owned(), "added-by/client:1".to_owned())].into(),
        }])
    }

    async fn finalize(&self, response: BTreeMap<String, String>) -> Result<(), Status> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
        Ok(())
    }
}

async fn build(daemon: &Daemon, kind: &'static str) -> anyhow::Result<(Result<String, Status>, Arc<Keeper>)> {
    let mut control = driven::control(daemon).await?;
    let keeper = Arc::new(Keeper {
        kind,
        told: Mutex::default(),
    });
    let mut services = Services::new();
    exporter::serve(&mut services, keeper.clone());
    let session = format!("adds-{kind}");
    let (serving, id) = (control.clone(), session.clone());
    let _served = AbortOnDropHandle::new(tokio::spawn(
        async move { tunnel::serve(serving, &id, "", services).await },
    ));
    let mut graph = Graph::default();
    let file = graph.add(&make_file("/f", "text"));
    let request = SolveRequest {
        r#ref: format!("build-{kind}"),
        definition: Some(graph.asking_for(&file, 0)),
        session,
        enable_session_exporter: true,
        ..SolveRequest::default()
    };
    let solved = control.solve(request).await.map(|response| {
        let mut response = response.into_inner().exporter_response;
        response.remove("image.name").unwrap_or_default()
    });
    Ok((solved, keeper))
}

#[tokio::test]
async fn a_client_adds_exporters_to_its_own_build() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let (name, keeper) = build(&daemon, "image").await?;
    let name = name?;
    ensure!(name.ends_with("added-by/client:1"), "{name}");
    let told = keeper.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let told = told.context("the client was not told")?;
    ensure!(told.get("image.name") == Some(&name), "{told:?}");
    ensure!(told.contains_key("containerimage.digest"), "{told:?}");

    let (refused, keeper) = build(&daemon, "floppy").await?;
    let refused = refused.err().context("there is no such exporter")?;
    ensure!(refused.message().contains("floppy"), "{refused:?}");
    let told = keeper.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(told.is_none(), "{told:?}");
    Ok(())
}
