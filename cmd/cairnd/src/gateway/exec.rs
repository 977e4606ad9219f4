//! Processes in containers, talked to over one stream.
//!
//! The stream carries any number of processes, told apart by id. For each the client hears, in this order: that it
//! was started, what it writes, how it ended, that its outputs have ended, and that there is no more.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use cairn_worker::service::signal_by_name;
use rustix::process::Signal;

use self::process::{Asked, Outgoing};
use super::forwarder::Forwarder;
use super::wire;
use super::wire::exec_message::Input;

mod process;

/// Messages under way to the client.
const OUTGOING: usize = 16;
/// Messages under way to one process.
const INCOMING: usize = 16;
/// Most processes over the life of one stream.
const MAX_PROCESSES: usize = 4096;
/// Longest name of one.
const MAX_ID: usize = 256;

type ExecStream = Pin<Box<dyn Stream<Item = Result<wire::ExecMessage, Status>> + Send>>;

/// Serves a stream. Its processes end with it.
pub(super) fn serve(caller: Arc<Forwarder>, mut incoming: Streaming<wire::ExecMessage>) -> ExecStream {
    let (outgoing, messages) = mpsc::channel(OUTGOING);
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut exec = Exec {
            caller,
            outgoing: outgoing.clone(),
            running: HashMap::new(),
            known: HashSet::new(),
            tasks: JoinSet::new(),
        };
        if let Err(status) = exec.serve(&mut incoming).await {
            // Nobody listens any more if this fails.
            drop(outgoing.send(Err(status)).await);
        }
    }));
    let messages = ReceiverStream::new(messages).map(move |message| {
        let _lives = &task;
        message
    });
    messages.boxed()
}

/// One stream.
struct Exec {
    caller: Arc<Forwarder>,
    outgoing: mpsc::Sender<Result<wire::ExecMessage, Status>>,
    running: HashMap<String, Running>,
    /// Ids of all processes there ever were.
    known: HashSet<String>,
    /// A task per process; gives its id back.
    tasks: JoinSet<String>,
}

/// A process that has not ended, as far as is known.
struct Running {
    /// Where its standard input goes, while it is open.
    stdin: Option<mpsc::Sender<Bytes>>,
    asking: mpsc::Sender<Asked>,
}

impl Exec {
    /// Serves until the client has said everything and all processes have ended.
    async fn serve(&mut self, incoming: &mut Streaming<wire::ExecMessage>) -> Result<(), Status> {
        let mut is_open = true;
        while is_open || !self.tasks.is_empty() {
            let message = tokio::select! {
                message = incoming.message(), if is_open => Some(message?),
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(id) = ended {
                        self.running.remove(&id);
                    }
                    None
                }
            };
            match message {
                Some(Some(message)) => self.handle(message).await?,
                Some(None) => is_open = false,
                None => {}
            }
        }
        Ok(())
    }

    async fn handle(&mut self, message: wire::ExecMessage) -> Result<(), Status> {
        let id = message.process_id;
        if id.is_empty() {
            return Err(Status::invalid_argument("ProcessID required"));
        }
        if id.len() > MAX_ID {
            let length = id.len();
            return Err(Status::invalid_argument(format!("a process id of {length} bytes")));
        }
        match message.input {
            Some(Input::Init(init)) => self.start(id, init).await,
            Some(Input::File(file)) => self.write(&id, file).await,
            Some(Input::Resize(size)) => {
                let number = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                self.ask(&id, Asked::Resize(number(size.rows), number(size.cols)))
            }
            Some(Input::Signal(signal)) => self.ask(&id, Asked::Signal(parse_signal(&signal.name)?)),
            Some(Input::Started(_) | Input::Exit(_) | Input::Done(_)) | None => {
                Err(Status::invalid_argument("not a message of a client"))
            }
        }
    }

    async fn start(&mut self, id: String, init: wire::InitMessage) -> Result<(), Status> {
        if self.known.contains(&id) {
            return Err(Status::already_exists(format!("Process {id} already exists")));
        }
        if self.known.len() >= MAX_PROCESSES {
            return Err(Status::resource_exhausted(format!(
                "more than {MAX_PROCESSES} processes on one stream"
            )));
        }
        let container = self.caller.containers.get(&init.container_id).ok_or_else(|| {
            Status::not_found(format!(
                "container {:?} previously released or not created",
                init.container_id
            ))
        })?;
        self.known.insert(id.clone());
        let outgoing = Outgoing {
            process: id.clone(),
            sender: self.outgoing.clone(),
        };
        outgoing.send(Input::Started(wire::StartedMessage {})).await;
        let reads = init.fds.contains(&0);
        let (stdin, written) = mpsc::channel(INCOMING);
        let (asking, asked) = mpsc::channel(INCOMING);
        let stdin = reads.then_some(stdin);
        self.running.insert(id.clone(), Running { stdin, asking });
        // Here and not on the task, so that the first one that was asked for is the container's first.
        let description = process::Description::of(&init);
        let started = process::start(&self.caller, &*container, init).await;
        self.tasks.spawn(async move {
            process::run(started, description, written, asked, &outgoing).await;
            id
        });
        Ok(())
    }

    /// The process of an id; `None` once it has ended, when the client may not know yet.
    fn process(&mut self, id: &str) -> Result<Option<&mut Running>, Status> {
        if !self.known.contains(id) {
            return Err(Status::not_found(format!("IO for process {id:?} not found")));
        }
        Ok(self.running.get_mut(id))
    }

    async fn write(&mut self, id: &str, file: wire::FdMessage) -> Result<(), Status> {
        let Some(process) = self.process(id)? else {
            return Ok(());
        };
        if file.fd != 0 || (process.stdin.is_none() && !process.asking.is_closed()) {
            return Err(Status::out_of_range(format!("fd {} unavailable to write", file.fd)));
        }
        if let Some(stdin) = &process.stdin
            && !file.data.is_empty()
        {
            // Waits for the process to read; it may have closed its end, or ended.
            drop(stdin.send(file.data).await);
        }
        if file.eof {
            process.stdin = None;
        }
        Ok(())
    }

    fn ask(&mut self, id: &str, asked: Asked) -> Result<(), Status> {
        if let Some(process) = self.process(id)?
            && let Err(error) = process.asking.try_send(asked)
        {
            tracing::debug!(%error, "not passed on to a process");
        }
        Ok(())
    }
}

fn parse_signal(name: &str) -> Result<Signal, Status> {
    signal_by_name(name).ok_or_else(|| Status::invalid_argument(format!("Unknown signal {name}")))
}
