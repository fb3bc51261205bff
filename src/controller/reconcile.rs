//! One reconcile: ask `decide` for a step, carry it out, until it settles.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};

use super::{Controller, Round, panicked};
use crate::{
    api::Reason,
    decide::{
        Name, Outcome, Settle, Step,
        observed::WriteOutcome,
        ownership::{TargetObject, field_manager},
        restarts::Restart,
    },
    kubernetes::read_references,
    micro_time,
};

/// No chain of steps is longer than this, with all the workloads that a spec may name; a longer one
/// is a bug.
const STEP_LIMIT: usize = 64;

impl Controller {
    /// Reconciles one resource; `None` where it is gone.
    pub(super) async fn reconcile(&self, name: &Name) -> Option<Outcome> {
        let (now, random) = (self.clock.now(), rand::random());
        let mut round = self.with_core(|core| core.begin(name, now, random));
        for _ in 0..STEP_LIMIT {
            let now = self.clock.now();
            let Some(step) = self.with_core(|core| core.decide(name, &mut round, now)) else {
                self.forget(name);
                return None;
            };
            match step {
                Step::Settle(settle) => return Some(self.settle(name, round, settle).await),
                step => self.carry_out(name, &mut round, step, now).await,
            }
        }
        self.fail(name, "deciding what to do").await
    }

    async fn carry_out(&self, name: &Name, round: &mut Round, step: Step, now: Timestamp) {
        let Some(credential) = self.with_core(|core| core.subject(name, round)) else {
            return;
        };
        match step {
            Step::ReadClient => {
                let Ok(spec) = &credential.spec else { return };
                let read = read_references(&self.cluster, &credential, spec).await;
                self.with_core(|core| core.references_read(name, round, read));
            }
            Step::ReadTarget => {
                let Ok(spec) = &credential.spec else { return };
                let target = spec.target_name(&name.name);
                let manager = field_manager(&name.name, spec.creation_policy());
                let read = self.cluster.read_secret(&name.namespace, target).await;
                self.with_core(|core| match read {
                    Ok(secret) => {
                        let target = secret.map(|secret| TargetObject::new(secret, &manager));
                        core.target_read(name, round, target);
                    }
                    Err(failure) => core.target_unreadable(round, failure),
                });
            }
            Step::Write { write, put_back } => {
                let outcome = self.cluster.write_target(&credential, &write).await;
                if let WriteOutcome::Done(_) = outcome {
                    self.metrics.secret_written();
                    tracing::info!(resource = %name, secret = write.desired().name, put_back, "Secret written");
                }
                let sha256 = write.desired().data.sha256().to_owned();
                let put_back_at = put_back.then_some(now);
                self.with_core(|core| {
                    core.target_written(name, round, sha256, outcome, put_back_at)
                });
            }
            Step::RemovePrevious {
                name: old,
                uid,
                policy,
            } => {
                let removed = self.cluster.remove_target(&credential, &old, &uid, policy);
                round.previous_removed(old.clone(), removed.await);
            }
            Step::SetFinalizer(there) => {
                let set = self.cluster.set_finalizer(&credential, there).await;
                round.finalizer_set(set);
            }
            Step::Restart { workload, value } => {
                let restart = self.cluster.restart(&credential, &workload, value.at);
                let restart = restart.await;
                if let Restart::Done = restart {
                    self.metrics.workload_restarted();
                    let (kind, of) = (workload.kind.as_str(), &workload.name);
                    tracing::info!(resource = %name, kind, workload = of, "workload restarted");
                }
                round.workload_restarted((workload, value, restart));
            }
            // The core has asked.
            Step::Ask(_) | Step::Settle(_) => {}
        }
    }

    /// Writes the status, publishes the event, and goes to sleep.
    async fn settle(&self, name: &Name, round: Round, mut settle: Box<Settle>) -> Outcome {
        let outcome = settle.outcome;
        if outcome == Outcome::Waiting {
            self.changed.notify_one();
        }
        let Some(credential) = self.with_core(|core| core.subject(name, &round)) else {
            self.forget(name);
            return outcome;
        };
        let transition = settle.transition.clone();
        let mut told = settle.status.is_none();
        if let Some(status) = &settle.status {
            match self.cluster.write_status(&credential, status).await {
                Ok(Some(version)) => {
                    told = true;
                    settle.memory.unwritten = 0;
                    self.metrics.set_status(name, status);
                    self.wake(self.with_core(|core| {
                        let (uid, status) = (&credential.uid, status.clone());
                        core.store.status_written(name, uid, version, status)
                    }));
                }
                Ok(None) => {}
                Err(failure) => {
                    tracing::warn!(resource = %name, error = %failure, "status not written");
                    settle.status_unwritten(self.clock.now());
                }
            }
        }
        if let Some(transition) = transition.as_ref().filter(|_| told) {
            let now = micro_time(self.clock.now());
            self.cluster.publish(&credential, transition, now).await;
        }
        match &transition {
            Some(told) if told.is_failure => {
                let (reason, why) = (told.reason, &told.message);
                tracing::warn!(resource = %name, %reason, why, "failed");
            }
            Some(_) => tracing::info!(resource = %name, "recovered"),
            None => tracing::debug!(resource = %name, outcome = outcome.as_str(), "settled"),
        }
        self.with_core(|core| core.settled(name, round, settle));
        outcome
    }

    fn forget(&self, name: &Name) {
        self.with_core(|core| core.forget(name));
        self.metrics.remove(name);
    }

    /// A reconcile has panicked: its resource says so and is tried again, the others go on.
    pub(super) async fn recover(&self, name: &Name) -> Option<Outcome> {
        tracing::error!(resource = %name, "a reconcile panicked");
        let failing = self.fail(name, "reconciling this resource");
        match AssertUnwindSafe(failing).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(_) => {
                // Even saying so fails: later, then, and without a word in the status.
                let at = self.clock.now() + SignedDuration::from_mins(1);
                self.with_core(|core| core.queue.schedule(name, Some(at)));
                Some(Outcome::Failed(Reason::InternalError))
            }
        }
    }

    async fn fail(&self, name: &Name, doing: &str) -> Option<Outcome> {
        let (now, random) = (self.clock.now(), rand::random());
        let failure = panicked(doing);
        let (round, settle) = self.with_core(|core| core.fail(name, &failure, now, random))?;
        Some(self.settle(name, round, Box::new(settle)).await)
    }
}
