//! The wiring: watches → queue → observe → decide → act → wake. It decides nothing itself.

mod core;
mod election;
mod follow;
mod leadership;
pub mod queue;
mod reconcile;
#[cfg(test)]
mod tests;
mod workers;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use self::workers::Workers;
pub use self::{
    core::{Core, Round},
    leadership::{Candidate, identity},
};
use crate::{
    Clock,
    api::Reason,
    decide::{Failure, Name, observed::Policy, probes::Probe},
    kubernetes::Cluster,
    servicenow::{Endpoint, Prepared, SharingKey, judge, judge_probe},
    telemetry::{Health, Metrics},
};

/// What the controller works on and with.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Namespaces to watch; all where there is none.
    pub namespaces: Vec<String>,
    /// Label selector for resources.
    pub selector: Option<String>,
}

/// How much is done at once.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Reconciles at once.
    pub concurrency: usize,
    /// Token requests at once at one origin.
    pub instance_concurrency: usize,
}

/// What a worker does.
enum Job {
    Reconcile(Name),
    Exchange(Arc<SharingKey>),
    TryOut(Arc<SharingKey>, Box<Probe>),
}

/// The controller.
pub struct Controller {
    core: Mutex<Core>,
    /// Requests whose moment is near.
    prepared: Mutex<HashMap<Arc<SharingKey>, Prepared>>,
    changed: Notify,
    cluster: Cluster,
    client: Client,
    endpoint: Endpoint,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    scope: Scope,
    bounds: Bounds,
}

/// The timers are looked at this often at least: the machine's clock may have been set.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// A clock that is set back by less is within what clocks differ anyway.
const NOTICED: SignedDuration = SignedDuration::from_secs(2);

/// Clients and tokens that nobody uses any more leave the memory within this time.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// An instance is waited for this long at a stop: whoever leads next asks the others meanwhile.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What is being written at a stop may take this long to end.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// What the parts of a controller are made of.
pub struct Parts {
    /// The Kubernetes API, for the watches.
    pub client: Client,
    /// The Kubernetes API, for single objects.
    pub cluster: Cluster,
    /// The instances.
    pub endpoint: Endpoint,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Where to say how it goes.
    pub health: Arc<Health>,
}

impl Controller {
    /// A controller that has seen nothing yet.
    pub fn new(parts: Parts, policy: Policy, scope: Scope, bounds: Bounds) -> Arc<Self> {
        let Parts {
            client,
            cluster,
            endpoint,
            clock,
            metrics,
            health,
        } = parts;
        Arc::new(Self {
            core: Mutex::new(Core::new(policy, bounds)),
            prepared: Mutex::default(),
            changed: Notify::new(),
            cluster,
            client,
            endpoint,
            clock,
            metrics,
            health,
            scope,
            bounds,
        })
    }

    /// Looks at or changes the state. Never held across a wait.
    fn with_core<T>(&self, f: impl FnOnce(&mut Core) -> T) -> T {
        f(&mut self.core.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_prepared<T>(&self, f: impl FnOnce(&mut HashMap<Arc<SharingKey>, Prepared>) -> T) -> T {
        f(&mut self.prepared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self, names: Vec<Name>) {
        if !names.is_empty() {
            self.with_core(|core| core.wake(names));
            self.changed.notify_one();
        }
    }

    /// Follows the cluster, works once this replica `leads`, until `stop` is done; then ends what is
    /// under way. An error is the end of a part that should not have ended.
    pub async fn run(
        self: &Arc<Self>,
        mut leads: watch::Receiver<bool>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), String> {
        let mut watches = JoinSet::new();
        let follow = self.clone();
        watches.spawn(async move { follow.follow().await });
        let mut work = Workers::new(self.bounds.concurrency);
        let mut stop = std::pin::pin!(stop.fuse());
        let mut stopping: Option<Instant> = None;
        let mut swept = Instant::now();
        let mut clocks = (self.clock.now(), Instant::now());
        loop {
            self.health.beat();
            self.look_at_the_clock(&mut clocks);
            if swept.elapsed() > SWEEP_EVERY {
                swept = Instant::now();
                self.with_core(|core| core.sweep(self.clock.now()));
                self.endpoint.sweep();
                self.with_prepared(|prepared| prepared.retain(|_, request| !request.is_over()));
            }
            let next = self.spawn_ready(&mut work, stopping.is_some());
            let mut pause = self.until(next);
            if let Some(since) = stopping {
                let busy = self.with_core(|core| core.queue.is_busy());
                let left = |within: Duration| within.saturating_sub(since.elapsed());
                let (answers, all) = (left(ANSWERS_WITHIN), left(STOP_WITHIN));
                let ended = !busy && (work.is_empty() || answers.is_zero());
                if ended || all.is_zero() {
                    return Ok(());
                }
                pause = pause.min(if answers.is_zero() { all } else { answers });
            }
            tokio::select! {
                () = &mut stop, if stopping.is_none() => {
                    stopping = Some(Instant::now());
                    watches.abort_all();
                    work.wind_up();
                    self.with_core(|core| core.queue.wind_up());
                }
                ended = watches.join_next(), if stopping.is_none() => {
                    return Err(format!("the watches ended: {ended:?}"));
                }
                Some(done) = work.ended() => {
                    done.map_err(|error| format!("a task ended in the middle: {error}"))?;
                }
                Ok(()) = leads.changed() => self.with_core(Core::lead),
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A clock that was set back would keep what is due from being done for as long.
    fn look_at_the_clock(&self, last: &mut (Timestamp, Instant)) {
        let now = (self.clock.now(), Instant::now());
        let passed = SignedDuration::try_from(now.1.duration_since(last.1)).unwrap_or_default();
        let set_back = passed - now.0.duration_since(last.0);
        *last = now;
        if set_back > NOTICED {
            tracing::warn!(
                seconds = set_back.as_secs(),
                "the clock of this machine was set back"
            );
            self.with_core(|core| core.clock_set_back(set_back));
        }
    }

    fn until(&self, next: Option<Timestamp>) -> Duration {
        let Some(next) = next else {
            return LONGEST_SLEEP;
        };
        let wait = next.duration_since(self.clock.now());
        // What is due by now has become so since it was asked for.
        Duration::try_from(wait)
            .unwrap_or_default()
            .min(LONGEST_SLEEP)
    }

    /// Starts what may start now; returns when there may be more.
    fn spawn_ready(self: &Arc<Self>, work: &mut Workers<Job>, stopping: bool) -> Option<Timestamp> {
        let now = self.clock.now();
        let (names, keys, near, probes, next) = self.with_core(|core| {
            let (keys, near, probes) = if stopping {
                (Vec::new(), Vec::new(), Vec::new())
            } else {
                core.call_probers(now);
                let keys = core.broker.dispatch(now);
                (keys, core.broker.prepare(now), core.take_probes())
            };
            let names: Vec<_> = std::iter::from_fn(|| core.take(now)).collect();
            let timers = [core.queue.next_timer(), core.broker.next_dispatch(now)];
            (
                names,
                keys,
                near,
                probes,
                timers.into_iter().flatten().filter(|at| *at > now).min(),
            )
        });
        for key in near {
            let request = self.endpoint.prepare(key.clone());
            self.with_prepared(|prepared| prepared.insert(key, request));
        }
        let probes = probes.into_iter();
        let jobs = names.into_iter().map(Job::Reconcile);
        let jobs = jobs.chain(keys.into_iter().map(Job::Exchange));
        let jobs = jobs.chain(probes.map(|(key, probe)| Job::TryOut(key, Box::new(probe))));
        for job in jobs {
            let controller = self.clone();
            work.give(job, move |job| controller.clone().perform(job));
        }
        next
    }

    async fn perform(self: Arc<Self>, job: Job) {
        match job {
            Job::Reconcile(name) => self.reconcile_guarded(&name).await,
            Job::Exchange(key) => self.exchange(&key).await,
            Job::TryOut(key, probe) => self.try_out(&key, &probe).await,
        }
    }

    /// Uses a token once, and tells those who want to know what came back.
    async fn try_out(&self, key: &SharingKey, probe: &Probe) {
        let request = async {
            self.cluster.may_begin()?;
            let (origin, tls) = (key.origin(), key.tls());
            self.endpoint
                .get(origin, tls, &probe.path, &probe.token)
                .await
        };
        let answer = AssertUnwindSafe(request).catch_unwind().await;
        let answer = answer.unwrap_or_else(|_| Err(panicked("trying a token out")));
        let probed = judge_probe(&probe.path, answer.as_ref());
        let now = self.clock.now();
        self.with_core(|core| core.probed(key.origin(), probe, probed, now));
        self.changed.notify_one();
    }

    /// One token request, and the wakes that its answer brings.
    async fn exchange(&self, key: &Arc<SharingKey>) {
        let begun = Instant::now();
        let prepared = self.with_prepared(|prepared| prepared.remove(key));
        let request = async {
            let answer = match prepared {
                Some(prepared) => prepared.send().await,
                None => None,
            };
            let answer = match answer {
                Some(answer) => answer?,
                None => self.endpoint.answer(key).await?,
            };
            let in_hand = |length| self.with_core(|core| core.broker.tokens(key, length));
            judge(&answer, key, &in_hand, self.clock.now())
        };
        let may_begin = self.cluster.may_begin();
        let sent = may_begin.is_ok();
        let answer = match may_begin {
            Ok(()) => AssertUnwindSafe(request).catch_unwind().await,
            Err(failure) => Ok(Err(failure)),
        };
        let answer = answer.unwrap_or_else(|_| Err(panicked("asking for a token")));
        let took = begun.elapsed().as_secs_f64();
        let (now, random) = (self.clock.now(), rand::random());
        let answered = self.with_core(|core| core.broker.complete(key, now, answer, random));
        if sent {
            let result = answered.failed.map_or("Success", Reason::as_str);
            let origin = key.origin();
            let host = origin.split_once("://").map_or(origin, |(_, host)| host);
            self.metrics.token_request(host, result, took);
            tracing::debug!(host, result, "token request");
        }
        self.wake(answered.woken);
        self.changed.notify_one();
    }

    async fn reconcile_guarded(&self, name: &Name) {
        let begun = Instant::now();
        let outcome = match AssertUnwindSafe(self.reconcile(name)).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(_) => self.recover(name).await,
        };
        if let Some(outcome) = outcome {
            self.metrics
                .reconciled(outcome, begun.elapsed().as_secs_f64());
        }
        self.with_core(|core| core.finish(name));
        self.changed.notify_one();
    }
}

fn panicked(doing: &str) -> Failure {
    Failure::new(
        Reason::InternalError,
        format!(
            "The operator met a bug of its own while {doing}; its log says where. Other resources \
             are not affected, and this one is tried again. Please report it."
        ),
    )
}
