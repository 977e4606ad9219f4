//! Measuring again and again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

/// How long after the beginning the first sample is taken, and at first the time between two.
const INTERVAL: Duration = Duration::from_secs(2);
/// Most samples that are kept. When there are more, every second goes, and they are taken half as often from then on.
const MAX_SAMPLES: usize = 32;

/// Takes samples while it lives.
pub struct Sampler<T> {
    taken: Arc<Mutex<Vec<T>>>,
    take: Take<T>,
    _task: AbortOnDropHandle<()>,
}

type Take<T> = Arc<dyn Fn() -> Option<T> + Send + Sync>;

impl<T: Clone + Send + 'static> Sampler<T> {
    /// Begins to take samples; `take` blocks for a moment, and gives none where there is nothing to measure.
    pub fn start(take: impl Fn() -> Option<T> + Send + Sync + 'static) -> Self {
        let (taken, take): (Arc<Mutex<Vec<T>>>, Take<T>) = (Arc::default(), Arc::new(take));
        let task = tokio::spawn(sample(taken.clone(), take.clone()));
        Self {
            taken,
            take,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The samples so far, and one of now.
    pub async fn taken(&self) -> Vec<T> {
        let last = one(&self.take).await;
        let mut taken = self.taken.lock().clone();
        taken.extend(last);
        taken
    }
}

/// Takes samples for ever.
async fn sample<T: Send + 'static>(taken: Arc<Mutex<Vec<T>>>, take: Take<T>) {
    let mut interval = INTERVAL;
    loop {
        tokio::time::sleep(interval).await;
        let Some(sample) = one(&take).await else { continue };
        let mut taken = taken.lock();
        taken.push(sample);
        if taken.len() > MAX_SAMPLES {
            let mut is_kept = false;
            taken.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            interval *= 2;
        }
    }
}

async fn one<T: Send + 'static>(take: &Take<T>) -> Option<T> {
    let take = take.clone();
    tokio::task::spawn_blocking(move || take()).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_measured_more_rarely() {
        let begin = tokio::time::Instant::now();
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        let sampler = Sampler::start(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Some(())
        });
        assert_eq!(
            sampler.taken().await.len(),
            1,
            "what is over at once is measured at its end"
        );
        let mut most = 0;
        while begin.elapsed() < Duration::from_secs(3600) {
            tokio::time::sleep(Duration::from_secs(60)).await;
            most = most.max(sampler.taken.lock().len());
        }
        let kept = sampler.taken().await.len();
        assert!(
            (10..=MAX_SAMPLES + 1).contains(&kept) && most <= MAX_SAMPLES,
            "{kept}, {most}"
        );
        let count = count.load(Ordering::SeqCst);
        assert!(count < 200, "an hour was measured {count} times");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_can_be_measured_there_are_no_samples() {
        let sampler = Sampler::<()>::start(|| None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(sampler.taken().await.is_empty());
    }
}
