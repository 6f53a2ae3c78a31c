//! Walks over all workers' connections, as many at a time as a worker takes. What a walk finds is waited for by looking,
//! once a millisecond: a worker makes no system call, so it can wake nobody.
//!
//! Whoever drops a [`Walk`] ends it, in every worker: so does a client of the API that goes away.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use dataplane::flow::filter::Filter;
use dataplane::flow::walk::{Order, Progress, Record, Task, WALKS_MAX, WalkQueue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// Records between a worker and a reader: what a worker finds in a millisecond, about.
const QUEUE_RECORDS: usize = 1_024;
/// Records handed on at once.
const BATCH_RECORDS: usize = 256;
/// How long a reader that found nothing waits before it looks again.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Some records, each with the number of the worker that told it.
pub type Batch = ArrayVec<(u16, Record), BATCH_RECORDS>;

/// Too many walks are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyWalks;

impl fmt::Display for TooManyWalks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{WALKS_MAX} listings or deletions are under way, and no more are possible at a time; try again when one \
             has ended"
        )
    }
}

impl std::error::Error for TooManyWalks {}

/// All workers' walk queues.
#[derive(Clone, Debug)]
pub struct Walkers {
    queues: Arc<[WalkQueue]>,
    permits: Arc<Semaphore>,
}

impl Walkers {
    /// Of these workers, by their numbers.
    pub fn new(queues: impl IntoIterator<Item = WalkQueue>) -> Self {
        Self { queues: queues.into_iter().collect(), permits: Arc::new(Semaphore::new(WALKS_MAX)) }
    }

    /// How many workers there are.
    pub fn worker_count(&self) -> usize {
        self.queues.len()
    }

    /// Counts the connections that `filter` matches, at all workers or at one.
    ///
    /// # Errors
    /// [`TooManyWalks`].
    pub fn count(&self, filter: &Filter, worker: Option<u16>) -> Result<Walk, TooManyWalks> {
        self.start(filter, worker, || Task::Count)
    }

    /// Deletes them.
    ///
    /// # Errors
    /// [`TooManyWalks`].
    pub fn delete(&self, filter: &Filter, worker: Option<u16>) -> Result<Walk, TooManyWalks> {
        self.start(filter, worker, || Task::Delete)
    }

    /// Lists them.
    ///
    /// # Errors
    /// [`TooManyWalks`].
    pub fn list(&self, filter: &Filter, worker: Option<u16>) -> Result<Walk, TooManyWalks> {
        self.start(filter, worker, || Task::List(Arc::new(ArrayQueue::new(QUEUE_RECORDS))))
    }

    fn start(
        &self,
        filter: &Filter,
        worker: Option<u16>,
        task: impl Fn() -> Task,
    ) -> Result<Walk, TooManyWalks> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| TooManyWalks)?;
        let mut walk = Walk { shares: Vec::new(), found_by_the_gone: 0, next: 0, _permit: permit };
        for (number, queue) in self.queues.iter().enumerate() {
            let number = number as u16;
            if worker.is_some_and(|worker| worker != number) {
                continue;
            }
            let order = Order { task: task(), filter: filter.clone(), progress: Arc::default() };
            let share = Share { worker: number, order: order.clone() };
            // A worker that has not given back cancelled ones yet may have no room; dropping the walk ends it elsewhere.
            queue.start(order).map_err(|_| TooManyWalks)?;
            walk.shares.push(share);
        }
        Ok(walk)
    }
}

/// One worker's share of a walk.
#[derive(Debug)]
struct Share {
    worker: u16,
    order: Order,
}

impl Share {
    fn progress(&self) -> &Progress {
        &self.order.progress
    }
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    /// Of the workers that have not ended theirs.
    shares: Vec<Share>,
    found_by_the_gone: u64,
    /// Whose queue is looked at next.
    next: usize,
    _permit: OwnedSemaphorePermit,
}

impl Walk {
    /// Waits until every worker has ended its share; how many connections there were. For a listing, whose records nobody
    /// takes, that may be never.
    pub async fn finish(mut self) -> u64 {
        loop {
            let (ended, going) = self.shares.drain(..).partition(|share| share.progress().has_ended());
            self.shares = going;
            self.found_by_the_gone +=
                ended.iter().map(|share: &Share| share.progress().matched()).sum::<u64>();
            if self.shares.is_empty() {
                return self.found_by_the_gone;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for the next records of a listing; `None` after the last.
    pub async fn next_batch(&mut self) -> Option<Batch> {
        loop {
            let mut batch = Batch::new();
            for _ in 0..self.shares.len() {
                self.take_from_next(&mut batch);
            }
            if !batch.is_empty() {
                return Some(batch);
            }
            if self.shares.is_empty() {
                return None;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Takes what one worker has told so far, as far as there is room; forgets it when that was all.
    fn take_from_next(&mut self, batch: &mut Batch) {
        self.next = if self.next + 1 < self.shares.len() { self.next + 1 } else { 0 };
        let Some(Share { worker, order }) = self.shares.get(self.next) else { return };
        let Task::List(queue) = &order.task else { return };
        // Asked first: what is in the queue then is the rest.
        let is_rest = order.progress.has_ended();
        let records = std::iter::from_fn(|| queue.pop()).map(|record| (*worker, record));
        batch.extend(records.take(batch.remaining_capacity()));
        if is_rest && queue.is_empty() {
            self.shares.swap_remove(self.next);
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.shares.iter().for_each(|share| share.progress().cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn walks_beyond_the_bound_are_refused_and_a_dropped_one_makes_room() {
        let queue = WalkQueue::default();
        let walkers = Walkers::new([queue]);
        let mut walks: Vec<_> =
            (0..WALKS_MAX).map(|_| walkers.list(&Filter::default(), None).unwrap()).collect();
        assert_eq!(walkers.count(&Filter::default(), None).unwrap_err(), TooManyWalks);
        let dropped = walks.pop().map(|walk| Arc::clone(&walk.shares[0].order.progress)).unwrap();
        // No worker runs here: the order that was dropped is still in its queue, and that is full.
        assert_eq!(walkers.count(&Filter::default(), None).unwrap_err(), TooManyWalks);
        assert!(!dropped.has_ended());
        assert!(walkers.count(&Filter::default(), Some(7)).unwrap().shares.is_empty());
    }
}
