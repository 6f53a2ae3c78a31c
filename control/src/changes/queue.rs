//! From whoever asks for changes to the one who makes them.

use tokio::sync::{mpsc, oneshot};

use super::{Outcome, Refusal, Request};

/// Changes that wait. Whoever comes when so many do waits too, so that none is lost.
const WAITING_MAX: usize = 1_024;

/// A change that waits to be made.
#[derive(Debug)]
pub struct Pending {
    /// What is asked for.
    pub request: Request,
    answer: oneshot::Sender<Result<Outcome, Refusal>>,
}

impl Pending {
    /// Says what has become of it. Somebody who no longer waits for that is not told.
    pub fn answer(self, outcome: Result<Outcome, Refusal>) {
        let _ = self.answer.send(outcome);
    }
}

/// Where changes are asked for.
#[derive(Clone, Debug)]
pub struct Changer(mpsc::Sender<Pending>);

/// The two ends of a queue.
pub fn queue() -> (Changer, mpsc::Receiver<Pending>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Changer(sender), receiver)
}

impl Changer {
    /// Asks for a change, and waits until it is in force or refused.
    ///
    /// # Errors
    /// Why it was not made.
    pub async fn change(&self, request: Request) -> Result<Outcome, Refusal> {
        let ending = || Refusal::Failed("Crossdock is ending".to_owned());
        let (answer, outcome) = oneshot::channel();
        self.0.send(Pending { request, answer }).await.map_err(|_| ending())?;
        outcome.await.unwrap_or_else(|_| Err(ending()))
    }
}
