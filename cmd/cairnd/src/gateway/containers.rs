//! Containers of one driver.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_proto::pb;
use cairn_solver::llb::NetMode;
use cairn_solver::progress::VertexProgress;
use cairn_solver::worker::{CallContext, Ref};
use cairn_solver::{Digest, Entitlement};
use cairn_worker::service::{Container, ContainerRequest};
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::forwarder::Forwarder;
use super::{ops, wire};
use crate::convert;
use crate::failure::Failure;

/// Most containers of one driver.
const MAX_CONTAINERS: usize = 64;
/// Longest name of one.
const MAX_ID: usize = 256;

/// The containers, by the names that the driver gave them.
#[derive(Default)]
pub(super) struct Containers(Mutex<HashMap<String, Slot>>);

enum Slot {
    /// Being made.
    Reserved,
    Ready(Arc<dyn Container>),
}

impl Containers {
    /// The container of a name.
    pub(super) fn get(&self, id: &str) -> Option<Arc<dyn Container>> {
        match self.0.lock().get(id) {
            Some(Slot::Ready(container)) => Some(container.clone()),
            _ => None,
        }
    }

    /// The container of a name, and which of its mounts is meant.
    pub(super) fn mount(&self, id: &str, mount: i32) -> Result<(Arc<dyn Container>, usize), Status> {
        let container = self.get(id).ok_or_else(|| unknown(id))?;
        let mount = usize::try_from(mount);
        let mount = mount.map_err(|_| Status::invalid_argument("a negative mount index"))?;
        Ok((container, mount))
    }

    /// Takes a container out.
    pub(super) fn remove(&self, id: &str) -> Result<Arc<dyn Container>, Status> {
        let mut containers = self.0.lock();
        match containers.remove(id) {
            Some(Slot::Ready(container)) => Ok(container),
            Some(Slot::Reserved) => {
                containers.insert(id.to_owned(), Slot::Reserved);
                Err(unknown(id))
            }
            None => Err(unknown(id)),
        }
    }

    fn reserve(&self, id: &str) -> Result<Reservation<'_>, Failure> {
        if id.is_empty() || id.len() > MAX_ID {
            let message = format!("a container id has 1 to {MAX_ID} bytes");
            return Err(Failure::new(Code::InvalidArgument, message));
        }
        let mut containers = self.0.lock();
        if containers.contains_key(id) {
            let message = format!("Container {id} already exists");
            return Err(Failure::new(Code::AlreadyExists, message));
        }
        if containers.len() >= MAX_CONTAINERS {
            let message = format!("more than {MAX_CONTAINERS} containers");
            return Err(Failure::new(Code::ResourceExhausted, message));
        }
        containers.insert(id.to_owned(), Slot::Reserved);
        Ok(Reservation {
            containers: self,
            id: Some(id.to_owned()),
        })
    }
}

fn unknown(id: &str) -> Status {
    Status::unknown(format!("container details for {id} not found"))
}

/// A name that nobody else can take; given back when dropped.
struct Reservation<'a> {
    containers: &'a Containers,
    id: Option<String>,
}

impl Reservation<'_> {
    fn fill(mut self, container: Arc<dyn Container>) {
        if let Some(id) = self.id.take() {
            self.containers.0.lock().insert(id, Slot::Ready(container));
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.containers.0.lock().remove(&id);
        }
    }
}

impl Forwarder {
    /// The surroundings of calls to the worker that belong to no vertex.
    pub(crate) fn context(&self, name: &str) -> CallContext {
        let build = self.bridge.build();
        CallContext {
            progress: VertexProgress::new(Digest::sha256(name.as_bytes()), build.events().clone()),
            sessions: build.sessions().clone(),
            cancel: build.cancellation().child_token(),
            trace: build.trace(),
        }
    }

    /// Checks that the client was granted something.
    pub(super) fn check_allowed(&self, needed: Entitlement) -> Result<(), Failure> {
        if self.bridge.is_allowed(needed) {
            return Ok(());
        }
        Err(Failure::unknown(format!("{} is not allowed", needed.name())))
    }
}

/// Makes a container.
pub(super) async fn create(caller: &Forwarder, request: wire::NewContainerRequest) -> Result<(), Failure> {
    let reservation = caller.containers.reserve(&request.container_id)?;
    check_platform(caller, request.platform.as_ref())?;
    let mut mounts = request.mounts;
    let mut inputs = Vec::new();
    for mount in &mut mounts {
        // Only these count; what else a mount of a graph may say has no meaning here.
        mount.content_cache = 0;
        let id = std::mem::take(&mut mount.result_id);
        mount.input = -1;
        if let Some(result) = input(caller, &id, &mount.dest).await? {
            mount.input = i64::try_from(inputs.len()).unwrap_or(-1);
            inputs.push(Some(result));
        }
    }
    let op = pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec!["-".to_owned()],
            cwd: "/".to_owned(),
            hostname: request.hostname,
            extra_hosts: request.extra_hosts,
            ..pb::Meta::default()
        }),
        mounts,
        network: request.network,
        ..pb::ExecOp::default()
    };
    let op = ops::exec(op, inputs.len())?;
    if op.network == NetMode::Host {
        caller.check_allowed(Entitlement::NetworkHost)?;
    }
    let asked = ContainerRequest {
        mounts: op.mounts,
        inputs,
        own_dirs: Vec::new(),
        network: op.network,
        hostname: op.hostname,
        extra_hosts: op.extra_hosts,
    };
    let context = caller.context(&request.container_id);
    let container = caller.worker.container(asked, &context).await?;
    reservation.fill(container);
    Ok(())
}

/// The result that a mount shows; `None` for scratch.
async fn input(caller: &Forwarder, id: &str, dest: &str) -> Result<Option<Ref>, Failure> {
    if id.is_empty() {
        return Ok(None);
    }
    if let Some(state) = caller.failed.get(id) {
        return Ok(Some(state));
    }
    let found = caller.bridge.find(id);
    let found = found.ok_or_else(|| Failure::unknown(format!("failed to find ref {id} for {dest:?} mount")))?;
    Ok(caller.bridge.evaluate_whole(&found).await?)
}

/// Containers run on the worker's own platforms.
fn check_platform(caller: &Forwarder, asked: Option<&pb::Platform>) -> Result<(), Failure> {
    let Some(asked) = asked.map(convert::platform_from_wire) else {
        return Ok(());
    };
    let platforms = caller.worker.info().platforms;
    let fits = |own: &cairn_solver::Platform| own.os == asked.os && own.architecture == asked.architecture;
    if platforms.iter().any(fits) {
        return Ok(());
    }
    Err(Failure::unknown(format!("containers of {asked} cannot be run here")))
}
