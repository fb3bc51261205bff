//! How a reconcile ends: the status to write, the event to publish, the moment to wake again, and
//! what to remember, all from one outcome.

use jiff::{SignedDuration, Timestamp};

use super::{
    FIGHT_PERIOD, Failure, Step,
    backoff::{Attempt, retry_at},
    failure::class_of,
    observed::{ClientRead, Memory, Observed, Remembered, Seen, Version, WriteOutcome},
    ownership::timestamp,
    renewal::{self, plus},
    status::{self, Expiry, FALSE, TRUE, UNKNOWN, Verdict, ready, set},
    view::{View, is_kept, validity_of},
};
use crate::{
    api::{
        CreationPolicy, FailureStatus, ObservedObject, Reason, ServiceNowCredentialSpec,
        ServiceNowCredentialStatus, TargetStatus, TokenStatus, condition,
    },
    micro_time,
    servicenow::{Held, SharedFailure},
};

/// The end of a reconcile.
#[derive(Clone, Debug)]
pub struct Settle {
    /// What became of it: the metric's label and the log's field.
    pub outcome: Outcome,
    /// The status to write; `None` where nothing has changed.
    pub status: Option<ServiceNowCredentialStatus>,
    /// The event to publish, with the status.
    pub transition: Option<Transition>,
    /// When to look again without a change; `None` to wait for one.
    pub wake: Option<Timestamp>,
    /// What to remember.
    pub memory: Memory,
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
/// How long after a success the next renewal is at the soonest.
const SOONEST: SignedDuration = SignedDuration::from_millis(200);
/// Whoever waits for an answer looks again after so long, woken or not.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(1);
/// How long a new resource waits before its status says that it does.
const PENDING_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// Kubelets bring a Secret's change to files within about a minute.
const KUBELET_SYNC: SignedDuration = SignedDuration::from_mins(2);

/// The resource is on its way out: its Secret goes by its owner reference.
pub(super) fn leave_alone(o: &Observed<'_>) -> Settle {
    Settle {
        outcome: Outcome::Idle,
        status: None,
        transition: None,
        wake: None,
        memory: o.memory.clone(),
    }
}

/// The spec could not be read, so nothing else is known.
pub(super) fn unreadable(o: &Observed<'_>, failure: &Failure) -> Settle {
    let spec = ServiceNowCredentialSpec::default();
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
            // The attempt counts from the expiry, or from its own beginning where that is later.
            let late = plus(token.expires_at.0.max(asked_at), EXPIRY_GRACE);
            // What is said to have expired is not taken back by an attempt.
            if late <= v.o.now || !ready {
                end.ready_only(Expiry::Strict);
                end.wake = Some(plus(v.o.now, LOOK_AGAIN));
                end.wake_at_expiry();
            } else {
                end.ready_only(Expiry::UnderRenewal);
                end.wake = Some(late);
            }
        }
    }
    end.into_settle()
}

/// A renewal was asked for sooner than the instance may be asked again.
pub(super) fn too_soon(v: &View<'_>, not_before: Timestamp) -> Settle {
    let mut end = End::new(v, Outcome::Waiting);
    end.wake = Some(not_before);
    end.into_settle()
}

/// A wait of this resource's own goes on.
pub(super) fn still_waiting(v: &View<'_>, failure: &FailureStatus) -> Settle {
    let reason = failure.reason.parse().unwrap_or(Reason::InternalError);
    let mut end = End::new(v, Outcome::Failed(reason));
    let said = status::get(&end.status, condition::SYNCED)
        .is_some_and(|c| c.status == FALSE && c.reason == failure.reason);
    if said {
        end.ready_only(Expiry::Strict);
    } else {
        // The status that said so could not be written.
        end.status.failure = Some(failure.clone());
        let synced = Verdict::new(FALSE, reason, failure.message.clone());
        end.conclude(synced, Expiry::Strict);
    }
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
    failed(v, failure, record)
}

/// The target is somebody else's, in this state.
pub(super) fn in_conflict(v: &View<'_>, version: &Version, failure: &Failure) -> Settle {
    let mut settle = failed_locally(v, failure);
    settle.memory.judged_target = Some((version.clone(), failure.clone()));
    settle
}

/// The failure is shared; the broker keeps the count and the time.
pub(super) fn failed_together(v: &View<'_>, shared: &SharedFailure) -> Settle {
    let record = record(
        &shared.failure,
        shared.count,
        shared.at,
        Some(shared.retry_at),
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
        expires_at: v.token.as_ref().map(|token| token.expires_at.0),
        random: v.o.random,
    };
    let at = retry_at(&attempt, v.o.now);
    failed(v, failure, record(failure, count, v.o.now, at))
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

fn remembered(v: &View<'_>, failure: FailureStatus) -> Remembered {
    Remembered {
        failure,
        basis: v.basis,
        client: v.o.client_seen.clone(),
    }
}

fn failed(v: &View<'_>, failure: &Failure, record: FailureStatus) -> Settle {
    let mut end = End::new(v, Outcome::Failed(failure.reason()));
    end.wake = record.retry_time.as_ref().map(|at| at.0);
    end.wake_at_expiry();
    end.memory.failure = Some(remembered(v, record.clone()));
    let quiet =
        v.o.credential
            .status
            .failure
            .as_ref()
            // Whoever asked for an attempt is told what came of it.
            .is_some_and(|old| !v.forced && is_quiet(old, &record, v.o.now));
    // What waiting changes in the record is kept in memory until it is worth a write.
    end.status.failure = match &v.o.credential.status.failure {
        Some(old) if quiet => Some(old.clone()),
        _ => Some(record),
    };
    end.handled();
    // Only what the instance has judged was used.
    if let Some(Ok(client)) = &v.o.client
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
    // A shared failure says the same in other words at each probe; a local one names what to do.
    let reworded = old.message != new.message && !is_shared(&new.reason);
    old.reason == new.reason
        && !reworded
        && old.retry_time.is_some() == new.retry_time.is_some()
        && !restarted
        && (!doubled || new.count == old.count)
        && !(long && old.retry_time != new.retry_time)
}

/// The Secret is as the spec says, with the token on record or with a fresh one.
pub(super) fn succeeded(v: &View<'_>, fresh: Option<(&ClientRead, &Held)>) -> Settle {
    let mut end = End::new(v, Outcome::Synced);
    if let Some((client, held)) = fresh {
        end.status.token = Some(token_status(v, held));
        end.observe(client);
        end.handled();
    }
    end.status.target = target_status(v, fresh);
    if end.status.observed.is_empty()
        && let Seen::Present(version) = &v.o.client_seen
    {
        end.observe_version(version);
    }
    end.status.failure = None;
    end.memory.failure = None;
    end.memory.judged_target = None;
    end.memory.basis = Some(v.basis);
    let trimmed = match fresh {
        Some((client, _)) => client.trimmed,
        None => status::get(&v.o.credential.status, condition::SYNCED)
            .is_some_and(|c| c.message.contains(TRIMMED)),
    };
    let message = synced_message(v, end.status.token.as_ref(), trimmed);
    end.conclude(
        Verdict::new(TRUE, Reason::TokenSynced, message),
        Expiry::Strict,
    );
    // A token that is due when it comes is not asked for in the same breath.
    let soonest = plus(v.o.now, SOONEST);
    end.wake = end
        .status
        .token
        .as_ref()
        .map(|t| t.renewal_time.0.max(soonest));
    end.into_settle()
}

/// A renewal time is drawn once for each token, and again only when the margin wants it elsewhere.
fn token_status(v: &View<'_>, held: &Held) -> TokenStatus {
    let mut token = TokenStatus {
        issued_at: micro_time(held.validity.issued_at),
        expires_at: micro_time(held.validity.expires_at),
        renewal_time: micro_time(held.validity.expires_at),
        scope: Some(held.scope.clone()).filter(|scope| !scope.is_empty()),
        sha256: Some(held.sha256.clone()),
    };
    let drawn = v.token.as_ref().filter(|old| {
        old.sha256 == token.sha256 && validity_of(old) == validity_of(&token) && !is_kept(old)
    });
    if !held.kept {
        token.renewal_time = match drawn {
            Some(old) => old.renewal_time.clone(),
            None => micro_time(v.draw(held.validity)),
        };
        v.refit(&mut token);
    }
    token
}

fn target_status(v: &View<'_>, fresh: Option<(&ClientRead, &Held)>) -> Option<TargetStatus> {
    let record = |version: &Version, sha256: String| TargetStatus {
        name: v.target_name().to_owned(),
        uid: version.uid.clone(),
        resource_version: version.resource_version.clone(),
        creation_policy: CreationPolicy::Owner,
        sha256,
    };
    if let Some((sha256, WriteOutcome::Done(version))) = v.o.written {
        return Some(record(version, sha256.clone()));
    }
    let Some(Some(read)) = v.o.target else {
        return v.last_target().cloned();
    };
    // It was found as it shall be: what was read is what is recorded.
    let rendered = fresh.and_then(|(client, held)| v.render(client, held).ok());
    let sha256 = rendered
        .map(|data| data.sha256())
        .or_else(|| v.recorded_target().map(|target| target.sha256.clone()))?;
    Some(record(&read.version, sha256))
}

/// The note on a client id or secret that had whitespace around it.
const TRIMMED: &str = "had whitespace around it";

fn synced_message(v: &View<'_>, token: Option<&TokenStatus>, trimmed: bool) -> String {
    let Some(token) = token else {
        return String::new();
    };
    let validity = validity_of(token);
    let kept = is_kept(token);
    let mut message = if kept {
        format!(
            "The Secret is as the spec says. This instance hands out the same token until it \
             expires, so the next one is fetched at that moment, {}, and workloads see it shortly \
             after.",
            timestamp(token.expires_at.0)
        )
    } else {
        let at = timestamp(token.renewal_time.0);
        format!("The Secret is as the spec says; the token is renewed at {at}.")
    };
    let effective = renewal::effective(v.margin(), validity.lifetime());
    if effective.clamped {
        message += &format!(
            " The wanted renewal margin does not fit the token's lifetime of {} s; it is kept \
             within 10 to 80 % of it.",
            validity.lifetime().as_secs()
        );
    }
    if !kept && effective.margin < KUBELET_SYNC {
        message += &format!(
            " The margin is {} s, and kubelets take about a minute to bring a Secret's change to \
             files: give the client a longer token lifetime, or renew earlier with spec.renewal.",
            effective.margin.as_secs()
        );
    }
    if trimmed {
        message += &format!(
            " The client id or secret in the Secret {:?} {TRIMMED}, which was taken off.",
            v.spec.client.secret_ref.name
        );
    }
    message
}

/// A settle in the making.
struct End<'a> {
    v: &'a View<'a>,
    outcome: Outcome,
    status: ServiceNowCredentialStatus,
    wake: Option<Timestamp>,
    memory: Memory,
}

impl<'a> End<'a> {
    fn new(v: &'a View<'a>, outcome: Outcome) -> Self {
        let mut memory = v.o.memory.clone();
        let since = v.o.now - FIGHT_PERIOD;
        memory.put_backs.retain(|at| *at > since);
        let mut status = v.o.credential.status.clone();
        status.token.clone_from(&v.token);
        // A put-back is on record whatever else the round comes to.
        if let (Some((sha256, WriteOutcome::Done(version))), Some(target)) = (
            v.o.written,
            status.target.as_mut().filter(|t| t.name == v.target_name()),
        ) {
            target.uid.clone_from(&version.uid);
            target
                .resource_version
                .clone_from(&version.resource_version);
            target.sha256.clone_from(sha256);
        }
        Self {
            v,
            outcome,
            status,
            wake: None,
            memory,
        }
    }

    fn now(&self) -> Timestamp {
        self.v.o.now
    }

    /// Whether the Secret that the status names still stands, as far as is known.
    fn target_is_there(&self) -> bool {
        let Some(target) = &self.status.target else {
            return false;
        };
        let wanted = target.name == self.v.target_name();
        if wanted && matches!(self.v.o.written, Some((_, WriteOutcome::Done(_)))) {
            return true;
        }
        let seen = if wanted {
            &self.v.o.target_seen
        } else {
            &self.v.o.previous_seen
        };
        match seen {
            Seen::Unknown => true,
            Seen::Absent => false,
            Seen::Present(version) => version.uid == target.uid,
        }
    }

    fn conclude(&mut self, synced: Verdict, expiry: Expiry) {
        let generation = self.v.o.credential.generation;
        let there = self.target_is_there();
        let ready = ready(&self.status, &synced, there, expiry, self.now());
        self.status.observed_generation = Some(generation);
        let now = self.now();
        set(&mut self.status, condition::READY, ready, generation, now);
        set(&mut self.status, condition::SYNCED, synced, generation, now);
    }

    /// Looks at `Ready` alone: the last attempt says what it said.
    fn ready_only(&mut self, expiry: Expiry) {
        let Some(old) = status::get(&self.status, condition::SYNCED).cloned() else {
            return;
        };
        let status = match old.status.as_str() {
            TRUE => TRUE,
            FALSE => FALSE,
            _ => UNKNOWN,
        };
        let reason = old.reason.parse().unwrap_or(Reason::Pending);
        let synced = Verdict::new(status, reason, old.message);
        let ready = ready(
            &self.status,
            &synced,
            self.target_is_there(),
            expiry,
            self.now(),
        );
        let generation = status::get(&self.status, condition::READY)
            .and_then(|c| c.observed_generation)
            .unwrap_or(self.v.o.credential.generation);
        let now = self.now();
        set(&mut self.status, condition::READY, ready, generation, now);
    }

    /// Looks again when the token expires, if that comes first.
    fn wake_at_expiry(&mut self) {
        let expiry = self.status.token.as_ref().map(|t| t.expires_at.0);
        if let Some(expiry) = expiry.filter(|at| *at > self.now()) {
            self.wake = Some(self.wake.map_or(expiry, |wake| wake.min(expiry)));
        }
    }

    /// The renewal request has been acted on, for better or worse.
    fn handled(&mut self) {
        let request = self.v.o.credential.renew_request.as_ref();
        let known = self.v.o.memory.renew_request.as_ref();
        if request == known.map(|(value, _)| value) {
            self.status.handled_renew_request = request.cloned();
        }
    }

    fn observe(&mut self, client: &ClientRead) {
        self.observe_version(&client.version);
    }

    fn observe_version(&mut self, version: &Version) {
        self.status.observed = vec![ObservedObject {
            kind: "Secret".to_owned(),
            name: self.v.spec.client.secret_ref.name.clone(),
            uid: version.uid.clone(),
            resource_version: version.resource_version.clone(),
        }];
    }

    fn into_settle(self) -> Settle {
        let old = &self.v.o.credential.status;
        let changed = *old != self.status;
        Settle {
            outcome: self.outcome,
            transition: transition(old, &self.status),
            status: changed.then_some(self.status),
            wake: self.wake,
            memory: self.memory,
        }
    }
}

/// Compares `Synced` before and after: into failure, between failures, out of it.
fn transition(
    old: &ServiceNowCredentialStatus,
    new: &ServiceNowCredentialStatus,
) -> Option<Transition> {
    let new = status::get(new, condition::SYNCED)?;
    let old = status::get(old, condition::SYNCED);
    let failing = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| c.status == FALSE;
    let was_failing = old.is_some_and(failing);
    let same_reason = old.is_some_and(|old| old.reason == new.reason);
    let worth_it = if failing(new) {
        !(was_failing && same_reason)
    } else {
        was_failing && new.status == TRUE
    };
    worth_it.then(|| Transition {
        reason: new.reason.parse().unwrap_or(Reason::InternalError),
        message: new.message.clone(),
        is_failure: failing(new),
    })
}
