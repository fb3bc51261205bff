//! The operator's state in one place: what the watches told, who waits for what, and what is
//! remembered. No I/O and no clock, so that a simulation can drive the very same state.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use super::queue::Queue;
use crate::{
    api::Reason,
    decide::{
        Credential, Failure, Memory, Name, Observed, Seen, Settle, Step, Wish, decide, fail,
        observed::{ClientRead, Policy, Version, WriteOutcome},
        ownership::TargetObject,
    },
    kubernetes::Store,
    servicenow::{Ask, Broker, Limits, SharingKey, Urgency},
};

/// Store, queue, broker and memories.
pub struct Core {
    /// Resources, and the Secrets they name.
    pub store: Store,
    /// Who is looked at next.
    pub queue: Queue,
    /// Tokens and refusals in memory.
    pub broker: Broker,
    policy: Policy,
    memories: HashMap<Name, Memory>,
    pending: HashMap<Name, Pending>,
    reconciling: usize,
    working: bool,
}

/// A resource that waits for the answer to its request: the client is not read twice.
struct Pending {
    key: Arc<SharingKey>,
    client: ClientRead,
    asked_at: Timestamp,
}

/// What one reconcile has read and done so far.
#[derive(Default)]
pub struct Round {
    random: f64,
    client: Option<Result<(Arc<SharingKey>, ClientRead), Failure>>,
    asked_at: Option<Timestamp>,
    target: Option<Option<TargetObject>>,
    unreadable: Option<Failure>,
    written: Option<(String, WriteOutcome)>,
    changed: u32,
    removed: Option<Result<(), Failure>>,
}

impl Round {
    /// The target of the old name was removed, or could not be.
    pub fn previous_removed(&mut self, removed: Result<(), Failure>) {
        self.removed = Some(removed);
    }
}

/// Writes that find the Secret changed again and again are given up after this many.
const CHANGED_LIMIT: u32 = 4;

impl Core {
    /// An empty state.
    pub fn new(policy: Policy, per_origin: usize) -> Self {
        let limits = Limits {
            per_origin,
            min_interval: policy.min_renew_interval,
        };
        Self {
            store: Store::default(),
            queue: Queue::default(),
            broker: Broker::new(limits),
            policy,
            memories: HashMap::new(),
            pending: HashMap::new(),
            reconciling: 0,
            working: false,
        }
    }

    /// All lists are complete; returns whether that is news.
    pub fn begin_work(&mut self) -> bool {
        !std::mem::replace(&mut self.working, true)
    }

    /// Whether resources are reconciled yet.
    pub fn is_working(&self) -> bool {
        self.working
    }

    /// Reconciles under way.
    pub fn reconciling(&self) -> usize {
        self.reconciling
    }

    /// The next resource to reconcile, once everything is known. To be followed by
    /// [`Core::finish`].
    pub fn take(&mut self, now: Timestamp) -> Option<Name> {
        let name = self.working.then(|| self.queue.take(now)).flatten()?;
        self.reconciling += 1;
        Some(name)
    }

    /// A reconcile has ended.
    pub fn finish(&mut self, name: &Name) {
        self.reconciling = self.reconciling.saturating_sub(1);
        self.queue.finish(name);
    }

    /// Wakes resources.
    pub fn wake(&mut self, names: impl IntoIterator<Item = Name>) {
        for name in names {
            let urgency = self.urgency(&name);
            self.queue.wake(&name, urgency);
        }
    }

    /// Wakes those who are concerned by what a resource has read or written.
    fn wake_others(&mut self, name: &Name, mut woken: Vec<Name>) {
        woken.retain(|other| other != name);
        self.wake(woken);
    }

    fn named(&self, name: &Name, secret: fn(&Credential) -> Option<Name>) -> Option<Name> {
        self.store
            .get(name)
            .and_then(|credential| secret(credential))
    }

    fn urgency(&self, name: &Name) -> Urgency {
        let token = self.store.get(name).and_then(|c| c.status.token.as_ref());
        token.map_or(Urgency::New, |token| Urgency::Renewal(token.expires_at.0))
    }

    /// Begins a reconcile: an answer that was waited for is picked up.
    pub fn begin(&mut self, name: &Name, now: Timestamp, random: f64) -> Round {
        let mut round = Round {
            random,
            ..Round::default()
        };
        if let Some(credential) = self.store.get(name) {
            let memory = self.memories.entry(name.clone()).or_default();
            let known = memory.renew_request.as_ref().map(|(value, _)| value);
            if credential.renew_request.as_ref() != known {
                let request = credential.renew_request.clone();
                memory.renew_request = request.map(|value| (value, now));
            }
            let seen = client_secret_of(credential).map(|secret| self.store.seen(&secret));
            let still = |p: &Pending| seen == Some(Seen::Present(p.client.version.clone()));
            if let Some(pending) = self.pending.remove(name).filter(still) {
                round.asked_at = Some(pending.asked_at);
                round.client = Some(Ok((pending.key, pending.client)));
            }
        }
        round
    }

    /// The next step for a resource; `None` when it is gone.
    pub fn decide(&self, name: &Name, round: &Round, now: Timestamp) -> Option<Step> {
        self.observe(name, round, now, decide)
    }

    /// The end of a reconcile that met a bug.
    pub fn fail(
        &self,
        name: &Name,
        failure: &Failure,
        now: Timestamp,
        random: f64,
    ) -> Option<Settle> {
        let round = Round {
            random,
            ..Round::default()
        };
        self.observe(name, &round, now, |observed| fail(observed, failure))
    }

    /// Gathers what a decision is made from.
    fn observe<T>(
        &self,
        name: &Name,
        round: &Round,
        now: Timestamp,
        decide: impl FnOnce(&Observed<'_>) -> T,
    ) -> Option<T> {
        let credential = self.store.get(name)?;
        let fallback = Memory::default();
        let memory = self.memories.get(name).unwrap_or(&fallback);
        let seen = |secret: Option<Name>| secret.map_or(Seen::Unknown, |s| self.store.seen(&s));
        let (client, exchange) = match &round.client {
            None => (None, None),
            Some(Err(failure)) => (Some(Err(failure.clone())), None),
            Some(Ok((key, client))) => (
                Some(Ok(client.clone())),
                Some(self.broker.exchange(key, name)),
            ),
        };
        let origin = credential
            .spec
            .as_ref()
            .ok()
            .and_then(|s| s.parsed_instance().ok());
        let hold = origin.and_then(|instance| self.broker.hold(instance.origin()).cloned());
        Some(decide(&Observed {
            now,
            random: round.random,
            policy: &self.policy,
            credential,
            memory,
            client_seen: seen(client_secret_of(credential)),
            target_seen: seen(target_of(credential)),
            previous_seen: seen(previous_of(credential)),
            rival: self.store.rival(credential),
            hold,
            client,
            asked_at: round.asked_at,
            exchange,
            target: &round.target,
            unreadable: round.unreadable.as_ref(),
            written: round.written.as_ref(),
            removed: round.removed.as_ref(),
        }))
    }

    /// The client Secret was read, or could not be.
    pub fn client_read(
        &mut self,
        name: &Name,
        round: &mut Round,
        read: Result<(Arc<SharingKey>, ClientRead), Failure>,
    ) {
        if let (Some(secret), Ok((_, client))) = (self.named(name, client_secret_of), &read) {
            let woken = self
                .store
                .secret_read(&secret, Some(client.version.clone()));
            self.wake_others(name, woken);
        }
        round.client = Some(read);
    }

    /// The target was read, or does not exist.
    pub fn target_read(&mut self, name: &Name, round: &mut Round, target: Option<TargetObject>) {
        if let Some(secret) = self.named(name, target_of) {
            let version = target.as_ref().map(|t| t.version.clone());
            let woken = self.store.secret_read(&secret, version);
            self.wake_others(name, woken);
        }
        round.target = Some(target);
    }

    /// The target could not be read.
    pub fn target_unreadable(&self, round: &mut Round, failure: Failure) {
        round.unreadable = Some(failure);
    }

    /// A token is asked for.
    pub fn ask(&mut self, name: &Name, round: &mut Round, wish: Wish, now: Timestamp) {
        let Some(Ok((key, _))) = &round.client else {
            return;
        };
        let ask = Ask {
            name: name.clone(),
            urgency: wish.urgency,
            known: wish.known,
            failures: wish.failures,
            forced: wish.forced,
        };
        round.asked_at = Some(now);
        self.broker.ask(key, ask, now);
    }

    /// A write of the target has ended. `put_back_at` where it restored what somebody took away.
    pub fn target_written(
        &mut self,
        name: &Name,
        round: &mut Round,
        sha256: String,
        outcome: WriteOutcome,
        put_back_at: Option<Timestamp>,
    ) {
        let outcome = match outcome {
            WriteOutcome::Changed if round.changed >= CHANGED_LIMIT => {
                WriteOutcome::Failed(Failure::new(
                    Reason::InternalError,
                    "The target Secret changed again and again while it was written. It is tried \
                     again shortly; if this lasts, find out who else writes it.",
                ))
            }
            other => other,
        };
        match &outcome {
            WriteOutcome::Done(version) => {
                if let Some(secret) = self.named(name, target_of) {
                    let woken = self.store.secret_applied(&secret, version.clone());
                    self.wake_others(name, woken);
                }
                if let Some(at) = put_back_at {
                    let memory = self.memories.entry(name.clone()).or_default();
                    memory.put_backs.push(at);
                }
            }
            WriteOutcome::Changed => {
                round.changed += 1;
                round.target = None;
            }
            WriteOutcome::Failed(_) => {}
        }
        round.written = Some((sha256, outcome));
    }

    /// A reconcile has settled: memory and timer are set, and an unanswered request is kept.
    pub fn settled(&mut self, name: &Name, round: Round, settle: &Settle) {
        if self.store.get(name).is_none() {
            self.forget(name);
            return;
        }
        self.memories.insert(name.clone(), settle.memory.clone());
        let urgency = self.urgency(name);
        self.queue.schedule(name, settle.wake, urgency);
        let waiting = settle.outcome == crate::decide::Outcome::Waiting;
        if let (Some(asked_at), Some(Ok((key, client))), true) =
            (round.asked_at, round.client, waiting)
        {
            let pending = Pending {
                key,
                client,
                asked_at,
            };
            self.pending.insert(name.clone(), pending);
        }
    }

    /// A resource is gone: nothing of it stays.
    pub fn forget(&mut self, name: &Name) {
        self.memories.remove(name);
        self.pending.remove(name);
        self.broker.leave(name);
        self.queue.schedule(name, None, Urgency::New);
    }
}

fn named(credential: &Credential, name: &str) -> Name {
    Name::new(&credential.name.namespace, name)
}

/// The client Secret that a resource names.
pub(crate) fn client_secret_of(credential: &Credential) -> Option<Name> {
    let spec = credential.spec.as_ref().ok()?;
    Some(named(credential, &spec.client.secret_ref.name))
}

fn target_of(credential: &Credential) -> Option<Name> {
    let spec = credential.spec.as_ref().ok()?;
    Some(named(credential, spec.target_name(&credential.name.name)))
}

fn previous_of(credential: &Credential) -> Option<Name> {
    let target = credential.status.target.as_ref()?;
    Some(named(credential, &target.name))
}

/// The state of an object that was written or read.
impl From<&k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta> for Version {
    fn from(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Self {
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }
}
