//! Tasks that do one job after another.
//!
//! A task for each job would be an allocation of some kilobytes for a moment, thousands of times
//! between allocations that stay: a heap in pieces.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinSet},
};

/// Whoever waits for a job; nobody may any more where there is no list.
type Idle<J> = Arc<Mutex<Option<Vec<oneshot::Sender<J>>>>>;

/// As many tasks as there are jobs at once.
pub(super) struct Workers<J> {
    tasks: JoinSet<()>,
    idle: Idle<J>,
    /// No more wait for a job than this.
    spare: usize,
}

impl<J: Send + 'static> Workers<J> {
    /// Nobody yet; of those who come, so many stay when there is nothing to do.
    pub(super) fn new(spare: usize) -> Self {
        Self {
            tasks: JoinSet::new(),
            idle: Arc::new(Mutex::new(Some(Vec::new()))),
            spare,
        }
    }

    /// Has a job done, by whoever waited last or by somebody new, who will `perform` all theirs.
    pub(super) fn give<F, D>(&mut self, mut job: J, perform: F)
    where
        F: Fn(J) -> D + Send + 'static,
        D: Future<Output = ()> + Send,
    {
        while let Some(waiting) = with(&self.idle, Vec::pop).flatten() {
            match waiting.send(job) {
                Ok(()) => return,
                Err(back) => job = back,
            }
        }
        let (idle, spare) = (self.idle.clone(), self.spare);
        self.tasks.spawn(async move {
            loop {
                perform(job).await;
                let Some(next) = wait(&idle, spare) else {
                    return;
                };
                let Ok(next) = next.await else { return };
                job = next;
            }
        });
    }

    /// From here on nobody waits for a job: each ends with their own.
    pub(super) fn wind_up(&mut self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Whether nobody is left.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The next end of one of them; `None` where nobody is left. An error is a job's that panicked.
    pub(super) async fn ended(&mut self) -> Option<Result<(), JoinError>> {
        self.tasks.join_next().await
    }
}

fn with<J, T>(idle: &Idle<J>, f: impl FnOnce(&mut Vec<oneshot::Sender<J>>) -> T) -> Option<T> {
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    idle.as_mut().map(f)
}

/// Where the next job comes from, if somebody more may wait for one.
fn wait<J>(idle: &Idle<J>, spare: usize) -> Option<oneshot::Receiver<J>> {
    let (sender, receiver) = oneshot::channel();
    with(idle, |idle| (idle.len() < spare).then(|| idle.push(sender)))
        .flatten()
        .map(|()| receiver)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// A job is done when its sender is given something; it says so.
    type Held = (oneshot::Receiver<()>, mpsc::UnboundedSender<()>);

    async fn hold((until, done): Held) {
        let _ = until.await;
        let _ = done.send(());
    }

    fn held(done: &mpsc::UnboundedSender<()>) -> (oneshot::Sender<()>, Held) {
        let (end, until) = oneshot::channel();
        (end, (until, done.clone()))
    }

    #[tokio::test]
    async fn whoever_is_done_is_given_the_next_job() {
        let mut workers = Workers::new(4);
        let (done, mut dones) = mpsc::unbounded_channel();
        for _ in 0..3 {
            let (end, job) = held(&done);
            workers.give(job, hold);
            end.send(()).unwrap();
            dones.recv().await.unwrap();
            assert_eq!(workers.tasks.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_job_that_hangs_holds_up_no_other() {
        let mut workers = Workers::new(4);
        let (done, mut dones) = mpsc::unbounded_channel();
        let (_hangs, job) = held(&done);
        workers.give(job, hold);
        let (end, job) = held(&done);
        workers.give(job, hold);
        end.send(()).unwrap();
        dones.recv().await.unwrap();
        assert_eq!(workers.tasks.len(), 2);
    }

    #[tokio::test]
    async fn after_a_rush_no_more_stay_than_are_spare() {
        let mut workers = Workers::new(2);
        let (done, mut dones) = mpsc::unbounded_channel();
        let ends: Vec<_> = (0..5).map(|_| held(&done)).collect();
        let ends = ends.into_iter().map(|(end, job)| {
            workers.give(job, hold);
            end
        });
        for end in ends.collect::<Vec<_>>() {
            end.send(()).unwrap();
            dones.recv().await.unwrap();
        }
        for _ in 0..3 {
            assert!(workers.ended().await.unwrap().is_ok());
        }
        assert_eq!(workers.tasks.len(), 2);
    }

    #[tokio::test]
    async fn once_wound_up_who_waits_ends_at_once_and_who_works_with_the_job() {
        let mut workers = Workers::new(4);
        let (done, mut dones) = mpsc::unbounded_channel();
        let (end, job) = held(&done);
        workers.give(job, hold);
        let (other, job) = held(&done);
        workers.give(job, hold);
        other.send(()).unwrap();
        dones.recv().await.unwrap();
        workers.wind_up();
        assert!(workers.ended().await.unwrap().is_ok());
        assert!(!workers.is_empty());
        end.send(()).unwrap();
        assert!(workers.ended().await.unwrap().is_ok());
        assert!(workers.is_empty());
    }

    #[tokio::test]
    async fn a_job_that_panics_is_told() {
        let mut workers = Workers::new(4);
        workers.give((), |()| async { panic!("a bug") });
        assert!(workers.ended().await.unwrap().unwrap_err().is_panic());
    }
}
