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

    /// Workers, and what they have done.
    struct Scene {
        workers: Workers<Held>,
        done: mpsc::UnboundedSender<()>,
        dones: mpsc::UnboundedReceiver<()>,
    }

    impl Scene {
        fn new(spare: usize) -> Self {
            let (done, dones) = mpsc::unbounded_channel();
            Self {
                workers: Workers::new(spare),
                done,
                dones,
            }
        }

        fn begin(&mut self) -> oneshot::Sender<()> {
            let (end, until) = oneshot::channel();
            self.workers.give((until, self.done.clone()), hold);
            end
        }

        async fn end(&mut self, job: oneshot::Sender<()>) {
            job.send(()).unwrap();
            self.dones.recv().await.unwrap();
        }

        async fn one_is_gone(&mut self) {
            assert!(self.workers.ended().await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn whoever_is_done_is_given_the_next_job() {
        let mut scene = Scene::new(4);
        for _ in 0..3 {
            let job = scene.begin();
            scene.end(job).await;
            assert_eq!(scene.workers.tasks.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_job_that_hangs_holds_up_no_other() {
        let mut scene = Scene::new(4);
        let (_hangs, job) = (scene.begin(), scene.begin());
        scene.end(job).await;
        assert_eq!(scene.workers.tasks.len(), 2);
    }

    #[tokio::test]
    async fn after_a_rush_no_more_stay_than_are_spare() {
        let mut scene = Scene::new(2);
        for job in [(); 5].map(|()| scene.begin()) {
            scene.end(job).await;
        }
        for _ in 0..3 {
            scene.one_is_gone().await;
        }
        assert_eq!(scene.workers.tasks.len(), 2);
    }

    #[tokio::test]
    async fn once_wound_up_who_waits_ends_at_once_and_who_works_with_the_job() {
        let mut scene = Scene::new(4);
        let (works, waits) = (scene.begin(), scene.begin());
        scene.end(waits).await;
        scene.workers.wind_up();
        scene.one_is_gone().await;
        assert!(!scene.workers.is_empty());
        scene.end(works).await;
        scene.one_is_gone().await;
        assert!(scene.workers.is_empty());
    }

    #[tokio::test]
    async fn a_job_that_panics_is_told() {
        let mut workers = Workers::new(4);
        workers.give((), |()| async { panic!("a bug") });
        assert!(workers.ended().await.unwrap().unwrap_err().is_panic());
    }
}
