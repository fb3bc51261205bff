//! One reconcile: what it reads and does is kept in its round, and decided from.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{Core, Pending, memory_of, origin_of, recorded};
use crate::{
    api::Reason,
    decide::{
        Credential, Failure, Memory, Name, Observed, Outcome, Seen, Settle, Step, Wish, abandon,
        decide, fail,
        failure::class_of,
        observed::{Basis, ByRole, CheckedSpec, ClientRead, Role, WriteOutcome},
        ownership::TargetObject,
        probes::Wait,
        restarts::Restarted,
    },
    kubernetes::{ReferencesRead, Write},
    servicenow::{Ask, Exchange, SharingKey},
};

/// What one reconcile has read and done so far.
#[derive(Default)]
pub struct Round {
    /// The resource as it was when the round began: one round is about one state of it, and what
    /// changes meanwhile wakes it again.
    credential: Option<Arc<Credential>>,
    random: f64,
    /// The clock by which it began: one round is about one clock, too.
    clock: SignedDuration,
    client: Option<Result<(Arc<SharingKey>, ClientRead), Failure>>,
    asked_at: Option<Timestamp>,
    exchange: Option<Exchange>,
    target: Option<Option<TargetObject>>,
    unreadable: Option<Failure>,
    written: Option<(String, WriteOutcome)>,
    changed: u32,
    removed: BTreeMap<String, Result<(), Failure>>,
    finalized: Option<Result<(), Failure>>,
    restarted: Vec<Restarted>,
}

impl Round {
    /// The target of the old name was removed, or could not be.
    pub fn previous_removed(&mut self, name: String, removed: Result<(), Failure>) {
        self.removed.insert(name, removed);
    }

    /// A workload was restarted, or could not be.
    pub fn workload_restarted(&mut self, restarted: Restarted) {
        self.restarted.push(restarted);
    }

    /// Our finalizer is as it shall be, or could not be set.
    pub fn finalizer_set(&mut self, set: Result<(), Failure>) {
        self.finalized = Some(set);
    }
}

/// Writes that find the Secret changed again and again are given up after this many.
const CHANGED_LIMIT: u32 = 4;

impl Core {
    /// Begins a reconcile: an answer that was waited for is picked up.
    pub fn begin(&mut self, name: &Name, now: Timestamp, random: f64) -> Round {
        let mut round = self.new_round(random);
        if let Some(credential) = self.store.get(name) {
            round.credential = Some(credential.clone());
            let memory = memory_of(&mut self.memories, credential);
            let known = memory.renew_request.as_ref().map(|(value, _)| value);
            if credential.renew_request.as_ref() != known {
                let request = credential.renew_request.clone();
                memory.renew_request = request.map(|value| (value, now));
            }
            let as_read = |pending: &Pending| {
                let mut deciding = credential.references().filter(|(r, ..)| r.decides_token());
                deciding.all(|(role, kind, object)| {
                    let read = pending.client.versions[role as usize].as_ref();
                    matches!(self.store.objects(kind).seen(&object), Seen::Present(seen)
                        if Some(seen) == read)
                })
            };
            let still = |p: &Pending| as_read(p) && p.basis == basis_of(credential);
            if let Some(pending) = self.pending.remove(name) {
                if still(&pending) {
                    round.asked_at = Some(pending.asked_at);
                    round.client = Some(Ok((pending.key, pending.client)));
                } else {
                    self.broker.unask(&pending.key, name);
                }
            }
        }
        round
    }

    /// The resource that a round is about; `None` when it is gone.
    pub fn subject(&self, name: &Name, round: &Round) -> Option<Arc<Credential>> {
        match (&round.credential, self.store.get(name)) {
            // It goes when it is let go, and what came of that is still to be told.
            (Some(begun), None) if begun.deleting => Some(begun.clone()),
            (_, None) => None,
            (Some(begun), Some(known)) if begun.uid != known.uid => None,
            (Some(begun), Some(_)) => Some(begun.clone()),
            (None, Some(known)) => Some(known.clone()),
        }
    }

    /// The next step for a resource; `None` when it is gone. A token is asked for here, and the
    /// step after that returned: an answer, to this or to another's request, is never between the
    /// two.
    pub fn decide(&mut self, name: &Name, round: &mut Round, now: Timestamp) -> Option<Step> {
        if round.clock != self.clock {
            return self.observe(name, round, now, |observed| abandon(observed).into());
        }
        let mut step = self.observe(name, round, now, decide)?;
        if matches!(step, Step::Ask(_)) && self.restore_failure(name, round, now) {
            step = self.observe(name, round, now, decide)?;
        }
        if let Step::Ask(wish) = step {
            self.ask(name, round, *wish, now);
            step = self.observe(name, round, now, decide)?;
        }
        if let (Step::Write { .. }, Some(Ok((key, _)))) = (&step, &round.client) {
            // What is written is what is recorded, whatever the broker learns meanwhile.
            let exchange = round.exchange.take();
            round.exchange = exchange.or_else(|| Some(self.broker.exchange(key, name)));
        }
        match &step {
            Step::Write { .. } => self.store.begin_write(name, Write::Target),
            Step::Settle(settle) => {
                self.tell(name, round, settle);
                if settle.status.is_some() {
                    self.store.begin_write(name, Write::Status);
                }
            }
            _ => {}
        }
        Some(step)
    }

    /// What an earlier process met with a key outlives a restart for all who have it, whoever's status
    /// remembers it. Returns whether there is such a failure.
    fn restore_failure(&mut self, name: &Name, round: &Round, now: Timestamp) -> bool {
        let (Some(Ok((key, client))), Some(subject)) = (&round.client, self.subject(name, round))
        else {
            return false;
        };
        if self.broker.is_known(key) {
            return false;
        }
        let mut references = subject.references();
        let Some((_, kind, secret)) = references.find(|(role, ..)| *role == Role::Client) else {
            return false;
        };
        let others = self.store.objects(kind).users(&secret);
        let others = others.filter(|other| *other != name);
        let others = others.filter_map(|other| self.store.get(other));
        let failures = others.filter_map(|other| {
            let memory = self.memories.get(&other.name);
            let distrusted = memory.and_then(|kept| kept.1.distrusted_wait);
            let failure = other.failure_shared_with(&subject, client, now)?;
            (distrusted != Some(failure.last_time.0)).then_some(failure)
        });
        let failures: Vec<_> = failures.filter_map(recorded).collect();
        let any = !failures.is_empty();
        for failure in failures {
            self.broker.restore_failure(key, failure);
        }
        any
    }

    /// A resource is about to sleep over a failure that it shares. What ends that wakes it from this
    /// moment on, while its status is being written too.
    fn tell(&mut self, name: &Name, round: &Round, settle: &Settle) {
        let (Outcome::Failed(reason), Some(subject)) = (settle.outcome, self.subject(name, round))
        else {
            return;
        };
        let class = class_of(reason);
        if let (true, Some(Ok((key, _)))) = (class.is_shared(), &round.client) {
            self.broker.tell_of_failure(key, name);
        }
        if class.is_of_origin()
            && let Some(origin) = origin_of(&subject)
        {
            let expires_at = self.validity(&subject).map(|token| token.expires_at);
            self.broker.tell_of_hold(origin, name, expires_at, self.now);
        }
    }

    /// Wakes those who are concerned by what a resource has read or written.
    fn wake_others(&mut self, name: &Name, mut woken: Vec<Name>) {
        woken.retain(|other| other != name);
        self.wake(woken);
    }

    fn named(
        &self,
        name: &Name,
        round: &Round,
        secret: fn(&Credential) -> Option<Name>,
    ) -> Option<Name> {
        secret(&*self.subject(name, round)?)
    }

    fn new_round(&self, random: f64) -> Round {
        Round {
            random,
            clock: self.clock,
            ..Round::default()
        }
    }

    /// The end of a reconcile that met a bug.
    pub fn fail(
        &self,
        name: &Name,
        failure: &Failure,
        now: Timestamp,
        random: f64,
    ) -> Option<(Round, Settle)> {
        let round = self.new_round(random);
        let settle = self.observe(name, &round, now, |observed| fail(observed, failure))?;
        Some((round, settle))
    }

    /// Gathers what a decision is made from.
    fn observe<T>(
        &self,
        name: &Name,
        round: &Round,
        now: Timestamp,
        decide: impl FnOnce(&Observed<'_>) -> T,
    ) -> Option<T> {
        let credential = &*self.subject(name, round)?;
        let fallback = Memory::default();
        let memory = self.memories.get(name).map_or(&fallback, |kept| &kept.1);
        let mut references = ByRole::default();
        for (role, kind, object) in credential.references() {
            references[role as usize] = Some(self.store.objects(kind).seen(&object));
        }
        let (client, exchange) = match &round.client {
            None => (None, None),
            Some(Err(failure)) => (Some(Err(failure)), None),
            Some(Ok((key, client))) => {
                let exchange = round.exchange.clone();
                let exchange = exchange.unwrap_or_else(|| self.broker.exchange(key, name));
                (Some(Ok(client)), Some(exchange))
            }
        };
        let origin = origin_of(credential);
        let origin_is_held = origin.is_some_and(|origin| self.broker.hold(origin).is_some());
        let hold = origin.and_then(|origin| self.broker.hold_for(name, origin, now).cloned());
        let (target, written) = (credential.target_secret(), credential.written_secret());
        let target_seen = self.seen(target.clone());
        let previous_seen = if target == written {
            target_seen
        } else {
            self.seen(written)
        };
        Some(decide(&Observed {
            now,
            random: round.random,
            policy: &self.policy,
            credential,
            memory,
            references,
            target_seen,
            previous_seen,
            rival: self.store.rival(credential),
            origin_is_held,
            hold,
            client,
            asked_at: round.asked_at,
            exchange,
            target: &round.target,
            unreadable: round.unreadable.as_ref(),
            written: round.written.as_ref(),
            removed: &round.removed,
            finalized: round.finalized.as_ref(),
            restarted: &round.restarted,
            probes: &self.probes,
        }))
    }

    /// The objects that the spec refers to were read, or could not be.
    pub fn references_read(&mut self, name: &Name, round: &mut Round, read: ReferencesRead) {
        if let Some(subject) = self.subject(name, round) {
            for (role, kind, object) in subject.references() {
                if let Some(found) = &read.found[role as usize] {
                    let woken = self.store.objects_mut(kind).read(&object, found.clone());
                    self.wake_others(name, woken);
                }
            }
        }
        round.client = Some(read.client);
    }

    /// The target was read, or does not exist.
    pub fn target_read(&mut self, name: &Name, round: &mut Round, target: Option<TargetObject>) {
        if let Some(secret) = self.named(name, round, Credential::target_secret) {
            let version = target.as_ref().map(|t| t.version.clone());
            let woken = self.store.secrets.read(&secret, version);
            self.wake_others(name, woken);
        }
        round.target = Some(target);
    }

    /// The target could not be read.
    pub fn target_unreadable(&self, round: &mut Round, failure: Failure) {
        round.unreadable = Some(failure);
    }

    fn ask(&mut self, name: &Name, round: &mut Round, wish: Wish, now: Timestamp) {
        let Some(Ok((key, _))) = &round.client else {
            return;
        };
        let ask = Ask {
            name: name.clone(),
            urgency: wish.urgency,
            known: wish.known,
            not_before: wish.not_before,
            good_before: wish.good_before,
            failures: wish.failures,
            refusals: wish.refusals,
            forced: wish.forced,
        };
        round.asked_at = Some(now);
        round.exchange = None;
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
        if let Some(secret) = self.named(name, round, Credential::target_secret) {
            let version = match &outcome {
                WriteOutcome::Done(version) => Some(version),
                _ => None,
            };
            let woken = self.store.target_written(name, &secret, version);
            self.wake(woken);
        }
        match &outcome {
            WriteOutcome::Done(_) => {
                if let Some(at) = put_back_at {
                    let (_, memory) = &mut **self.memories.entry(name.clone()).or_default();
                    memory.put_backs.push(at);
                }
            }
            WriteOutcome::Changed => {
                round.changed += 1;
                round.target = None;
                round.exchange = None;
            }
            WriteOutcome::Conflict(_) | WriteOutcome::Failed(_) => {}
        }
        round.written = Some((sha256, outcome));
    }

    /// A reconcile has settled: memory and timer are set, and an unanswered request is kept.
    pub fn settled(&mut self, name: &Name, round: Round, settle: Box<Settle>) {
        if self.store.end_write(name) {
            self.wake([name.clone()]);
        }
        let subject = self.subject(name, &round);
        let (Some(subject), Some(_)) = (subject, self.store.get(name)) else {
            self.forget(name);
            return;
        };
        let (uid, memory) = &mut **self.memories.entry(name.clone()).or_default();
        uid.clone_from(&subject.uid);
        if round.clock != self.clock {
            // It was woken when the clock was set back, and is looked at again.
            let told = settle.status.as_ref().and_then(|s| s.token.as_ref());
            if let Some(token) = told {
                memory.distrust(token.issued_at.0, self.clock - round.clock);
            }
            if let Some(Ok((key, _))) = &round.client {
                self.broker.unask(key, name);
            }
            return;
        }
        let Settle {
            outcome,
            wake,
            probe,
            memory: remembered,
            ..
        } = *settle;
        *memory = remembered;
        self.queue.schedule(name, wake);
        let client = round.client.and_then(Result::ok);
        if let (Some(probe), Some((key, _))) = (probe, &client) {
            match self.probes.wait(&probe, name, self.now) {
                Wait::First => self.try_out(key, probe),
                Wait::WithOthers => {}
                Wait::Over => self.wake([name.clone()]),
            }
        }
        if outcome != Outcome::Waiting {
            let sleeps = matches!(outcome, Outcome::Failed(reason)
                if class_of(reason).is_of_origin());
            let origin = origin_of(&subject).filter(|_| sleeps);
            self.broker.has_looked(origin, name, self.now);
        }
        let Some((asked_at, (key, client))) = round.asked_at.zip(client) else {
            return;
        };
        if outcome == Outcome::Waiting {
            let pending = Pending {
                key,
                client,
                asked_at,
                basis: basis_of(&subject),
            };
            self.pending.insert(name.clone(), pending.into());
        } else {
            // Whoever wants nothing any more, sends nothing either.
            self.broker.unask(&key, name);
        }
    }
}

fn basis_of(credential: &Credential) -> Option<Basis> {
    credential.spec.as_ref().ok().map(CheckedSpec::basis)
}
