//! Streams of packets over gRPC, for both halves of both file services.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response, Status, Streaming};

/// Packets under way in one direction. With 32 KiB each this keeps a connection busy.
pub(crate) const PACKETS: usize = 64;

/// The messages of a call that is still being answered. The call itself makes progress as the stream is read.
pub(crate) fn incoming<T: Send + 'static>(
    call: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    stream::once(call).map_ok(Response::into_inner).try_flatten().boxed()
}

/// A server's answer, made by a task that stops when the client loses interest.
pub(crate) struct Answer<T> {
    messages: ReceiverStream<T>,
    /// `None` once its result has been handed out.
    task: Option<AbortOnDropHandle<Result<(), Status>>>,
}

impl<T: Send + 'static> Answer<T> {
    /// Starts the task, which sends its messages through the channel it is given.
    pub(crate) fn start<F>(work: impl FnOnce(mpsc::Sender<T>) -> F) -> Self
    where
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, messages) = mpsc::channel(PACKETS);
        let task = AbortOnDropHandle::new(tokio::spawn(work(sender)));
        Self {
            messages: ReceiverStream::new(messages),
            task: Some(task),
        }
    }
}

impl<T> Stream for Answer<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = ready!(self.messages.poll_next_unpin(cx)) {
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(task) = &mut self.task else {
            return Poll::Ready(None);
        };
        let result = ready!(task.poll_unpin(cx));
        self.task = None;
        Poll::Ready(match result {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => Some(Err(Status::internal("the task that answers this call failed"))),
        })
    }
}
