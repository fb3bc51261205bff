//! Leads, or waits to: keeps the Lease, moves the fence, and ends when the Lease is lost.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

use super::election::{Election, RENEW_DEADLINE, RETRY_PERIOD, Standing, given_back};
use crate::{
    Clock,
    api::Reason,
    decide::Failure,
    kubernetes::{Fence, LeaseObject, LeaseWrite},
    telemetry::{Health, Metrics},
};

/// What a replica does about leading.
pub struct Candidate {
    /// The Lease.
    pub lease: LeaseObject,
    /// Who this is, unlike any other replica, now or ever.
    pub identity: String,
    /// What is open while this replica leads.
    pub fence: Fence,
    /// The time, for the Lease's own record.
    pub clock: Arc<dyn Clock>,
    /// Where to say that it leads.
    pub metrics: Arc<Metrics>,
    /// Where to say what stands in the way.
    pub health: Arc<Health>,
}

/// A leader that ends gives this long for giving the Lease back: it ends within ten seconds in all.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(1);

/// A Lease that was touched meanwhile is written again after so long.
const TOUCHED: Duration = Duration::from_millis(50);

/// What `/readyz` is told about.
const TOPIC: &str = "leader election";

impl Candidate {
    /// Waits for the Lease, says so by `leads`, and keeps it until `over`, when it is given back.
    ///
    /// # Errors
    /// The Lease was lost; the sentence says how.
    pub async fn run(
        self,
        leads: watch::Sender<bool>,
        over: impl Future<Output = ()>,
    ) -> Result<(), String> {
        let mut over = pin!(over);
        let mut election = Election::new(self.identity.clone());
        let (lease, renewed) = tokio::select! {
            acquired = self.acquire(&mut election) => acquired,
            () = &mut over => return Ok(()),
        };
        self.fence.open_until(renewed + RENEW_DEADLINE);
        tracing::info!(identity = self.identity, "leading");
        self.metrics.set_leader(true);
        let _ = leads.send(true);
        let mut kept = Some(lease);
        let lost = tokio::select! {
            lost = self.keep(&mut election, &mut kept, renewed) => lost,
            () = &mut over => {
                self.give_back(&mut election).await;
                return Ok(());
            }
        };
        self.metrics.set_leader(false);
        Err(lost)
    }

    /// Returns with the Lease, and the moment at which the write that took it began. Nobody is
    /// ready who has not looked at the Lease yet, or whose last answer was that a right is missing;
    /// who could look once stays ready while the API server is away. Whether a standby may write
    /// shows when it has to.
    async fn acquire(&self, election: &mut Election) -> (Lease, Instant) {
        let mut changes = pin!(self.lease.changes());
        let mut said: Option<String> = None;
        let mut has_looked = false;
        self.health
            .set_waiting(TOPIC, Some("the Lease has not been read yet".to_owned()));
        loop {
            match self.try_to_acquire(election).await {
                Ok(Some(acquired)) => {
                    self.health.set_waiting(TOPIC, None);
                    return acquired;
                }
                Ok(None) => {
                    self.health.set_waiting(TOPIC, None);
                    has_looked = true;
                    said = None;
                }
                Err(failure) => {
                    let why = failure.message();
                    if said.as_deref() != Some(why) {
                        tracing::warn!(why, "leader election");
                        said = Some(why.to_owned());
                    }
                    let unready = !has_looked || failure.reason() == Reason::PermissionDenied;
                    self.health
                        .set_waiting(TOPIC, unready.then(|| why.to_owned()));
                }
            }
            self.until_it_may_be_free(election, &mut changes).await;
        }
    }

    async fn try_to_acquire(
        &self,
        election: &mut Election,
    ) -> Result<Option<(Lease, Instant)>, Failure> {
        let read = self.lease.read().await?;
        let spec = match election.judge(read.as_ref(), Instant::now(), self.clock.now()) {
            Standing::Held { by } => {
                tracing::debug!(leader = by, "standing by");
                return Ok(None);
            }
            Standing::Free(spec) | Standing::Ours(spec) => spec,
        };
        let begun = Instant::now();
        Ok(match self.lease.write(read, spec).await? {
            LeaseWrite::Done(lease) => Some((*lease, begun)),
            LeaseWrite::Lost => None,
        })
    }

    /// Returns when the watch tells that the Lease is free, and else when it is time to look.
    async fn until_it_may_be_free(
        &self,
        election: &mut Election,
        changes: &mut (impl futures::Stream<Item = Lease> + Unpin),
    ) {
        // Replicas that started together do not go on together.
        let look = RETRY_PERIOD.mul_f64(1.0 + 0.2 * rand::random::<f64>());
        let mut look = pin!(sleep(look));
        loop {
            tokio::select! {
                () = &mut look => return,
                Some(lease) = changes.next() => {
                    let standing = election.judge(Some(&lease), Instant::now(), self.clock.now());
                    if matches!(standing, Standing::Free(_)) {
                        return;
                    }
                }
            }
        }
    }

    /// Renews until that fails for too long; returns why.
    async fn keep(
        &self,
        election: &mut Election,
        kept: &mut Option<Lease>,
        mut renewed: Instant,
    ) -> String {
        loop {
            let deadline = renewed + RENEW_DEADLINE;
            sleep_until((renewed + RETRY_PERIOD).into()).await;
            let held_up = "this process was held up for longer than a leader may be";
            if Instant::now() >= deadline {
                return held_up.to_owned();
            }
            let mut why = "its renewal did not end in time".to_owned();
            let renewal = async {
                loop {
                    match self.renew(election, kept).await {
                        Ok(Renewal::Done(begun)) => return Ok(begun),
                        Ok(Renewal::Taken(by)) => return Err(format!("{by:?} holds it now")),
                        Ok(Renewal::Again) => sleep(TOUCHED).await,
                        Err(failure) => {
                            tracing::warn!(why = failure.message(), "the Lease was not renewed");
                            why = failure.message().to_owned();
                            sleep(RETRY_PERIOD).await;
                        }
                    }
                }
            };
            match tokio::time::timeout_at(deadline.into(), renewal).await {
                // Whoever slept over the deadline leads no more, even if the write went through.
                Ok(Ok(begun)) if Instant::now() < deadline => {
                    renewed = begun;
                    self.fence.open_until(renewed + RENEW_DEADLINE);
                }
                Ok(Ok(_)) => return held_up.to_owned(),
                Ok(Err(taken)) => return taken,
                Err(_) => return why,
            }
        }
    }

    async fn renew(
        &self,
        election: &mut Election,
        kept: &mut Option<Lease>,
    ) -> Result<Renewal, Failure> {
        let spec = match election.judge(kept.as_ref(), Instant::now(), self.clock.now()) {
            Standing::Held { by } => return Ok(Renewal::Taken(by)),
            Standing::Ours(spec) | Standing::Free(spec) => spec,
        };
        let begun = Instant::now();
        match self.lease.write(kept.clone(), spec).await? {
            LeaseWrite::Done(lease) => {
                *kept = Some(*lease);
                Ok(Renewal::Done(begun))
            }
            LeaseWrite::Lost => {
                *kept = self.lease.read().await?;
                Ok(Renewal::Again)
            }
        }
    }

    /// Gives the Lease back, so that nobody has to wait until it is free.
    async fn give_back(&self, election: &mut Election) {
        self.fence.open_until(Instant::now());
        let given = async {
            loop {
                let read = self.lease.read().await?;
                let wall = self.clock.now();
                let Standing::Ours(spec) = election.judge(read.as_ref(), Instant::now(), wall)
                else {
                    return Ok(());
                };
                if let LeaseWrite::Done(_) = self.lease.write(read, given_back(spec, wall)).await? {
                    return Ok::<_, Failure>(());
                }
                // A renewal that was under way may have come between.
                sleep(TOUCHED).await;
            }
        };
        match tokio::time::timeout(GIVEN_BACK_WITHIN, given).await {
            Ok(Ok(())) => tracing::info!("the Lease is given back"),
            Ok(Err(failure)) => {
                tracing::warn!(why = failure.message(), "the Lease was not given back");
            }
            Err(_) => tracing::warn!("the Lease was not given back in time"),
        }
    }
}

enum Renewal {
    /// Renewed by a write that began then.
    Done(Instant),
    /// Another replica holds it.
    Taken(String),
    /// It was touched; what it says is known now.
    Again,
}

/// A name for one process, unlike any other: the host's (in a cluster the pod's) and a random part.
pub fn identity(host: &str) -> String {
    format!("{host}_{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use kube::{Client, client::Body};
    use serde_json::json;

    use super::*;
    use crate::SystemClock;

    /// A Kubernetes API by which somebody has always written the Lease meanwhile, and how often a
    /// write of it was tried.
    fn touched(identity: &str) -> (Client, Arc<AtomicUsize>) {
        let tried = Arc::new(AtomicUsize::default());
        let (count, holder) = (tried.clone(), identity.to_owned());
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let read = request.method() == http::Method::GET;
            let (code, answer) = if read {
                (
                    200,
                    json!({
                        "metadata": {"name": "the-lease", "resourceVersion": "7"},
                        "spec": {"holderIdentity": holder},
                    }),
                )
            } else {
                count.fetch_add(1, Ordering::Relaxed);
                (
                    409,
                    json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict"}),
                )
            };
            let answer = http::Response::builder()
                .status(code)
                .body(Body::from(answer.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(answer.expect("it is well formed")) }
        });
        (Client::new(service, "default"), tried)
    }

    #[tokio::test]
    async fn a_lease_that_somebody_always_touches_is_not_written_in_a_hot_loop() {
        let (client, tried) = touched("a");
        let candidate = Candidate {
            lease: LeaseObject::new(client, "default", "the-lease"),
            identity: "a".to_owned(),
            fence: Fence::closed(),
            clock: Arc::new(SystemClock),
            metrics: Arc::new(Metrics::new()),
            health: Arc::default(),
        };
        let mut election = Election::new("a".to_owned());
        let mut kept = candidate.lease.read().await.unwrap();
        // Two seconds are left.
        let renewed = Instant::now() + TOUCHED * 40 - RENEW_DEADLINE;
        let why = candidate.keep(&mut election, &mut kept, renewed).await;
        assert_eq!(why, "its renewal did not end in time");
        let tried = tried.load(Ordering::Relaxed);
        assert!((1..=40).contains(&tried), "{tried}");
    }
}
