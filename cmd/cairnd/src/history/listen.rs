//! What listeners are told: what is known first, and then what happens.

use std::time::SystemTime;

use cairn_proto::control::{BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRequest};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast::error::RecvError;
use tonic::{Code, Status};

use super::filter::RecordFilters;
use super::{Event, History};
use crate::failure::Failure;

impl History {
    /// Running builds, finished ones, and then news for as long as somebody listens.
    ///
    /// # Errors
    /// If filters or limit make no sense.
    pub(crate) fn listen(
        &self,
        request: &BuildHistoryRequest,
    ) -> Result<BoxStream<'static, Result<BuildHistoryEvent, Status>>, Failure> {
        let filters = RecordFilters::parse(&request.filter, SystemTime::now())
            .map_err(|error| Failure::new(Code::InvalidArgument, error.to_string()))?;
        let limit = usize::try_from(request.limit)
            .map_err(|_| Failure::new(Code::InvalidArgument, format!("invalid limit {}", request.limit)))?;
        let is_wanted = |id: &str| request.r#ref.is_empty() || request.r#ref == id;
        // Nothing changes between looking and listening.
        let table = self.0.table.lock();
        let news = self.0.events.subscribe();
        let running = table.running.values().filter(|record| is_wanted(&record.r#ref));
        let mut known: Vec<Event> = running
            .map(|record| Event::new(BuildHistoryEventType::Started, record.clone()))
            .collect();
        let mut finished: Vec<Event> = Vec::new();
        if !request.active_only {
            let kept = table.finished.iter().filter(|(id, _)| is_wanted(id));
            finished.extend(kept.map(|(_, kept)| Event::new(BuildHistoryEventType::Complete, kept.record.clone())));
        }
        drop(table);
        known.retain(|event| filters.matches(&event.record));
        finished.retain(|event| filters.matches(&event.record));
        let created = |event: &Event| event.record.created_at.map(|time| (time.seconds, time.nanos));
        finished.sort_by_key(created);
        if limit > 0 {
            finished.reverse();
            finished.truncate(limit);
        }
        let known = stream::iter(known.into_iter().chain(finished)).map(|event| Ok(event.to_wire()));
        if request.early_exit {
            return Ok(known.boxed());
        }
        let id = request.r#ref.clone();
        let news = stream::unfold(Some(news), async |news| {
            let mut news = news?;
            match news.recv().await {
                Ok(event) => Some((Ok(event), Some(news))),
                Err(RecvError::Closed) => None,
                Err(RecvError::Lagged(missed)) => {
                    let message = format!("{missed} events were missed: they were not read in time");
                    Some((Err(Status::data_loss(message)), None))
                }
            }
        });
        let news = news.filter_map(move |event| {
            let event = match event {
                Ok(event) if !id.is_empty() && event.record.r#ref != id => None,
                event => Some(event.map(|event| event.to_wire())),
            };
            std::future::ready(event)
        });
        let closing = self.0.closing.clone().cancelled_owned();
        Ok(known.chain(news.take_until(closing)).boxed())
    }
}
