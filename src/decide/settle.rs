//! How a reconcile ends: the status to write, the event to publish, the moment to wake again, and
//! what to remember, all from one outcome. This file holds the ends that are not a success.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    Failure, Step,
    backoff::{Attempt, retry_at},
    end::End,
    failure::{Class, class_of},
    memory::{Judged, Memory, Remembered, Waited},
    observed::{Observed, Seen, WriteOutcome},
    probes::Probe,
    renewal::plus,
    status::{self, Expiry, FALSE, TRUE, UNKNOWN, Verdict},
    view::View,
};
use crate::{
    api::{FailureStatus, Reason, ServiceNowCredentialSpec, ServiceNowCredentialStatus, condition},
    micro_time,
    servicenow::{SharedFailure, Urgency},
};

/// The end of a reconcile.
#[derive(Clone, Debug)]
pub struct Settle {
    /// What became of it: the metric's label and the log's field.
    pub outcome: Outcome,
    /// The status to write; `None` where nothing has changed.
    pub status: Option<Arc<ServiceNowCredentialStatus>>,
    /// The event to publish, with the status.
    pub transition: Option<Transition>,
    /// When to look again without a change; `None` to wait for one.
    pub wake: Option<Timestamp>,
    /// A token to try out.
    pub probe: Option<Probe>,
    /// What to remember.
    pub memory: Memory,
}

impl Settle {
    /// The status could not be written: it is tried again soon, and later each time.
    pub fn status_unwritten(&mut self, now: Timestamp) {
        self.memory.untold = self.transition.take();
        let unwritten = &mut self.memory.unwritten;
        *unwritten = unwritten.saturating_add(1);
        let retry = plus(now, try_again_after(*unwritten));
        self.wake = Some(self.wake.map_or(retry, |wake| wake.min(retry)));
    }
}

impl From<Settle> for Step {
    fn from(settle: Settle) -> Self {
        Self::Settle(Box::new(settle))
    }
}

/// What became of a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The Secret is as the spec says.
    Synced,
    /// A token has been asked for.
    Waiting,
    /// Suspended, or on its way out.
    Idle,
    /// It failed for this reason.
    Failed(Reason),
}

impl Outcome {
    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "Synced",
            Self::Waiting => "Waiting",
            Self::Idle => "Idle",
            Self::Failed(reason) => reason.as_str(),
        }
    }
}

/// A change worth an event: into failure, from one failure to another, or out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The new reason.
    pub reason: Reason,
    /// The condition's message.
    pub message: String,
    /// It is a failure.
    pub is_failure: bool,
}

/// How long an attempt after the expiry may take before `Ready` says that the token expired.
const EXPIRY_GRACE: SignedDuration = SignedDuration::from_secs(5);
/// What cannot wait is looked at again after so long.
const AT_ONCE: SignedDuration = SignedDuration::from_millis(1);
/// Whoever waits for an answer looks again after so long, woken or not.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(1);
/// A failure of the Kubernetes API that is met more often in a row does not pass by itself.
const PASSES: u32 = 2;
/// How long a new resource waits before its status says that it does.
const PENDING_AFTER: SignedDuration = SignedDuration::from_secs(5);

/// Nothing is done and nothing said.
pub(super) fn leave_alone(o: &Observed<'_>) -> Settle {
    Settle {
        outcome: Outcome::Idle,
        status: None,
        transition: None,
        wake: None,
        probe: None,
        memory: o.memory.clone(),
    }
}

/// The resource goes, or could not be let go yet. What could not be taken out of a Secret is told.
pub(super) fn finalized(o: &Observed<'_>, done: &Result<(), Failure>) -> Settle {
    if let Err(failure) = done {
        return held_back(o, failure);
    }
    let left = o
        .removed
        .values()
        .find_map(|removed| removed.as_ref().err());
    Settle {
        transition: left.map(|failure| Transition {
            reason: failure.reason(),
            message: format!("The merged keys were not taken out: {}", failure.message()),
            is_failure: true,
        }),
        ..leave_alone(o)
    }
}

/// The resource is not let go yet: its end is tried again, later each time. It is told once.
pub(super) fn held_back(o: &Observed<'_>, failure: &Failure) -> Settle {
    let mut settle = leave_alone(o);
    settle.outcome = Outcome::Failed(failure.reason());
    settle.transition = (o.memory.let_go == 0).then(|| Transition {
        reason: failure.reason(),
        message: format!("The resource cannot go yet: {}", failure.message()),
        is_failure: true,
    });
    settle.memory.let_go = o.memory.let_go.saturating_add(1);
    settle.wake = Some(plus(o.now, try_again_after(settle.memory.let_go)));
    settle
}

/// What could not be written is tried again soon, and later each time.
fn try_again_after(failures: u32) -> SignedDuration {
    SignedDuration::from_secs(1 << failures.min(6))
}

/// The spec could not be read, so nothing else is known.
pub(super) fn unreadable(o: &Observed<'_>, failure: &Failure) -> Settle {
    let spec = ServiceNowCredentialSpec::default().into();
    failed_locally(&View::new(o, &spec), failure)
}

pub(super) fn suspended(v: &View<'_>) -> Settle {
    let message =
        "spec.suspend is true: no token is fetched and nothing is written until it is not.";
    let synced = Verdict::new(UNKNOWN, Reason::Suspended, message);
    let mut end = End::new(v, Outcome::Idle);
    end.conclude(synced, Expiry::Strict);
    end.wake_at_expiry();
    end.into_settle()
}

/// A request is queued or on its way; the broker wakes us.
pub(super) fn asked(v: &View<'_>, since: Timestamp) -> Settle {
    let mut end = End::new(v, Outcome::Waiting);
    let asked_at = v.o.asked_at.unwrap_or(since);
    let ready = status::get(&end.status, condition::READY).is_some_and(|c| c.status == TRUE);
    match &end.status.token {
        None if end.status.conditions.is_empty() => {
            if asked_at + PENDING_AFTER <= v.o.now {
                let message = "A token has been asked for; there is no answer yet.";
                end.conclude(
                    Verdict::new(UNKNOWN, Reason::Pending, message),
                    Expiry::Strict,
                );
            } else {
                end.wake = Some(asked_at + PENDING_AFTER);
            }
        }
        // The broker wakes whoever waits; this is for the day it does not.
        None => end.wake = Some(plus(v.o.now, LOOK_AGAIN)),
        Some(token) => {
            let validity = v.o.memory.validity(token);
            // The attempt counts from the expiry, or from its own beginning where that is later.
            let late = plus(validity.expires_at.max(asked_at), EXPIRY_GRACE);
            // What is said to have expired is not taken back by an attempt.
            if late <= v.o.now || !ready {
                end.ready_only(Expiry::Strict);
                end.wake = Some(plus(v.o.now, LOOK_AGAIN));
                end.wake_at_expiry();
            } else {
                end.ready_only(Expiry::UnderRenewal);
                // Its place in the queue is better then.
                let presses = Urgency::presses_from(validity);
                end.wake = Some(if presses > v.o.now {
                    presses.min(late)
                } else {
                    late
                });
            }
        }
    }
    end.into_settle()
}

/// The token that is to be renewed is where it was taken away: now it is renewed.
pub(super) fn put_back(v: &View<'_>) -> Settle {
    let mut settle = asked(v, v.o.now);
    settle.wake = Some(plus(v.o.now, AT_ONCE));
    settle
}

/// A renewal was asked for sooner than the instance may be asked again.
pub(super) fn too_soon(v: &View<'_>, not_before: Timestamp) -> Settle {
    let mut end = End::new(v, Outcome::Waiting);
    end.ready_only(Expiry::Strict);
    end.wake = Some(not_before);
    end.into_settle()
}

/// A wait of this resource's own goes on.
pub(super) fn still_waiting(v: &View<'_>, failure: &FailureStatus) -> Settle {
    let reason = failure.reason.parse().unwrap_or(Reason::InternalError);
    let mut end = End::new(v, Outcome::Failed(reason));
    let generation = Some(v.o.credential.generation);
    let said = end.status.observed_generation == generation
        && status::get(&end.status, condition::SYNCED)
            .is_some_and(|c| c.status == FALSE && c.reason == failure.reason);
    if said {
        end.ready_only(Expiry::Strict);
    } else {
        // The status that said so could not be written.
        end.status_mut().failure = Some(failure.clone());
        let synced = Verdict::new(FALSE, reason, failure.message.clone());
        end.conclude(synced, Expiry::Strict);
    }
    end.memory.waited = Some(Arc::new(Waited {
        failed_at: failure.last_time.0,
        spec: v.spec.clone(),
        references: v.o.references.map(|seen| seen.cloned()),
    }));
    end.wake = failure.retry_time.as_ref().map(|at| at.0);
    end.wake_at_expiry();
    end.into_settle()
}

/// Something in the cluster has to change.
pub(super) fn failed_locally(v: &View<'_>, failure: &Failure) -> Settle {
    let status = &v.o.credential.status;
    let same = status
        .failure
        .as_ref()
        .filter(|f| f.reason == failure.reason().as_str() && f.message == failure.message());
    let record = match same {
        Some(record) => FailureStatus {
            retry_time: None,
            ..record.clone()
        },
        None => record(failure, 1, v.o.now, None),
    };
    let mut settle = failed(v, failure, record);
    // A change of what no watch tells of has to be looked for.
    if v.references().any(|(_, seen)| *seen == Seen::Unknown) {
        let again = plus(v.o.now, LOOK_AGAIN);
        settle.wake = Some(settle.wake.map_or(again, |wake| wake.min(again)));
    }
    settle
}

/// The target is somebody else's, in this state.
pub(super) fn in_conflict(v: View<'_>, judged: Judged) -> Settle {
    let mut settle = failed_locally(&v.having_lost(judged.lost), &judged.failure);
    settle.memory.judged_target = Some(judged);
    settle
}

/// The failure is shared; the broker keeps the count and the time.
pub(super) fn failed_together(v: &View<'_>, shared: &SharedFailure) -> Settle {
    let record = record(
        &shared.failure,
        shared.count,
        shared.at,
        Some(v.retry_at(shared)),
    );
    failed(v, &shared.failure, record)
}

/// The failure is this resource's own; its count goes on from the last one.
pub(super) fn failed_alone(v: &View<'_>, failure: &Failure) -> Settle {
    let last = v
        .last_failure()
        .filter(|last| last.reason == failure.reason().as_str());
    let count = last.map_or(0, |last| last.count).saturating_add(1);
    let attempt = Attempt {
        class: failure.class(),
        count,
        retry_after: failure.retry_after(),
        expires_at: v.expires_at(),
        random: v.o.random,
    };
    let at = retry_at(&attempt, v.o.now);
    failed(v, failure, record(failure, count, v.o.now, at))
}

/// What a request is made of, or the target, could not be read. What the Secret was written for is
/// still known then: that the status tells of a failure does not make the token on record another.
pub(super) fn unread(v: &View<'_>, failure: &Failure) -> Settle {
    let mut settle = failed_alone(v, failure);
    if v.basis_is_recorded() {
        settle.memory.basis = Some(v.basis);
    }
    settle
}

fn record(failure: &Failure, count: u32, at: Timestamp, retry: Option<Timestamp>) -> FailureStatus {
    FailureStatus {
        reason: failure.reason().as_str().to_owned(),
        message: failure.message().to_owned(),
        count,
        last_time: micro_time(at),
        retry_time: retry.map(micro_time),
    }
}

fn remembered(v: &View<'_>, failure: FailureStatus) -> Arc<Remembered> {
    Arc::new(Remembered {
        failure,
        attempt: v.spec.attempt(),
        references: v.o.references.map(|seen| seen.cloned()),
        unwritten: matches!(v.o.written, Some((_, WriteOutcome::Failed(_))))
            || v.o
                .memory
                .failure
                .as_ref()
                .is_some_and(|last| last.unwritten),
    })
}

fn failed(v: &View<'_>, failure: &Failure, record: FailureStatus) -> Settle {
    let mut end = End::new(v, Outcome::Failed(failure.reason()));
    let class = failure.class();
    // What a renewal was asked for is not given up because the Kubernetes API was away for a moment.
    let passes = failure.class() == Class::Cluster && record.count <= PASSES;
    let retry = record.retry_time.as_ref().map(|at| at.0);
    end.wake = if class.is_of_origin() {
        // The broker wakes one to probe, and all when it is over: this is for the day it does not.
        retry.map(|at| plus(at.max(v.o.now), LOOK_AGAIN))
    } else {
        retry
    };
    end.wake_at_expiry();
    end.memory.failure = Some(remembered(v, record.clone()));
    end.memory.shared = if class.is_shared() {
        Some((class, record.count))
    } else {
        v.last_shared()
    };
    end.memory.refusals = if class == Class::Refused {
        record.count
    } else {
        v.refusals()
    };
    let quiet =
        v.o.credential
            .status
            .failure
            .as_ref()
            // Whoever asked for an attempt is told what came of it.
            .is_some_and(|old| !v.forced && is_quiet(old, &record, v.o.now));
    // What waiting changes in the record is kept in memory until it is worth a write.
    if !quiet {
        end.status_mut().failure = Some(record);
    }
    if !passes {
        end.handled();
    }
    // Only what the instance has judged was used.
    if let Some(Ok(client)) = v.o.client
        && failure.class().is_shared()
    {
        end.observe(client);
    }
    let said = end
        .status
        .failure
        .as_ref()
        .map(|record| record.message.clone());
    let message = said.unwrap_or_else(|| failure.message().to_owned());
    let synced = Verdict::new(FALSE, failure.reason(), message);
    end.conclude(synced, Expiry::Strict);
    end.into_settle()
}

fn is_shared(reason: &str) -> bool {
    reason
        .parse()
        .is_ok_and(|reason| class_of(reason).is_shared())
}

/// While waiting, a record is written when the reason changes, the count doubles, or the new wait
/// exceeds a minute.
fn is_quiet(old: &FailureStatus, new: &FailureStatus, now: Timestamp) -> bool {
    let long = new
        .retry_time
        .as_ref()
        .is_some_and(|at| at.0.duration_since(now) > SignedDuration::from_mins(1));
    let doubled = new.count >= old.count.saturating_mul(2);
    let restarted = new.count < old.count;
    // A clock that was set back since has told when it was to be tried again.
    let ahead = old.last_time > new.last_time;
    // A shared failure says the same in other words at each probe; a local one names what to do.
    let reworded = old.message != new.message && !is_shared(&new.reason);
    old.reason == new.reason
        && !reworded
        && old.retry_time.is_some() == new.retry_time.is_some()
        && !restarted
        && !ahead
        && (!doubled || new.count == old.count)
        && !(long && old.retry_time != new.retry_time)
}
