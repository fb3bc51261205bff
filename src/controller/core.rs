//! The operator's state in one place: what the watches told, who waits for what, and what is
//! remembered. No I/O and no clock, so that a simulation can drive the very same state.

use std::{collections::BTreeMap, sync::Arc};

use foldhash::HashMap;
use jiff::{SignedDuration, Timestamp};

use super::{Bounds, queue::Queue};
use crate::{
    api::Reason,
    decide::{
        Credential, Failure, Memory, Name, Observed, Outcome, Seen, Settle, Step, Wish, abandon,
        backoff::LONGEST_WAIT,
        decide, fail,
        failure::class_of,
        observed::{Basis, ByRole, CheckedSpec, ClientRead, Policy, WriteOutcome},
        ownership::TargetObject,
        probes::{Probe, Probes, Wait},
        renewal::plus,
        restarts::Restarted,
        validity_of,
    },
    kubernetes::{ReferencesRead, Store, Write},
    servicenow::{Ask, Broker, Exchange, Limits, Probed, SharedFailure, SharingKey, Urgency},
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
    memories: Memories,
    probes: Probes,
    /// Probes that are to be sent.
    unsent: Vec<(Arc<SharingKey>, Probe)>,
    /// Probes under way.
    probing: usize,
    pending: HashMap<Name, Box<Pending>>,
    listed: bool,
    leading: bool,
    restored: bool,
    /// How often the clock was set back.
    clock: u32,
    /// When work was last handed out: near enough to tell who is in a hurry.
    now: Timestamp,
}

/// What is remembered of each resource, and of which one of that name, by its uid. Boxed: a table has
/// room for up to twice as many as it holds.
type Memories = HashMap<Name, Box<(String, Memory)>>;

/// A resource that waits for the answer to its request: the client is not read twice.
struct Pending {
    key: Arc<SharingKey>,
    client: ClientRead,
    asked_at: Timestamp,
    /// The spec by which the client was read.
    basis: Option<Basis>,
}

/// What one reconcile has read and done so far.
#[derive(Default)]
pub struct Round {
    /// The resource as it was when the round began: one round is about one state of it, and what
    /// changes meanwhile wakes it again.
    credential: Option<Arc<Credential>>,
    random: f64,
    /// The clock by which it began: one round is about one clock, too.
    clock: u32,
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

/// A fleet that begins to try its tokens out does not do it all at once.
const PROBES_AT_ONCE: usize = 4;

/// Writes that find the Secret changed again and again are given up after this many.
const CHANGED_LIMIT: u32 = 4;

impl Core {
    /// An empty state.
    pub fn new(policy: Policy, bounds: Bounds) -> Self {
        let limits = Limits {
            per_origin: bounds.instance_concurrency,
            min_interval: policy.min_renew_interval,
        };
        Self {
            store: Store::default(),
            queue: Queue::new(bounds.concurrency),
            broker: Broker::new(limits),
            policy,
            memories: HashMap::default(),
            probes: Probes::default(),
            unsent: Vec::new(),
            probing: 0,
            pending: HashMap::default(),
            listed: false,
            leading: false,
            restored: false,
            clock: 0,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    /// All lists are complete; returns whether that is news.
    pub fn all_listed(&mut self) -> bool {
        !std::mem::replace(&mut self.listed, true)
    }

    /// Whether all lists are complete.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// This replica leads: work begins once all lists are complete, with all that is known.
    pub fn lead(&mut self) {
        self.leading = true;
        let all = self.store.all();
        self.wake(all.iter().map(|credential| credential.name.clone()));
    }

    fn is_working(&self) -> bool {
        self.listed && self.leading
    }

    /// The next resource to reconcile, once everything is known and while there is a place for it. To
    /// be followed by [`Core::finish`].
    pub fn take(&mut self, now: Timestamp) -> Option<Name> {
        self.now = now;
        if !self.is_working() {
            return None;
        }
        if !std::mem::replace(&mut self.restored, true) {
            self.restore_holds(now);
        }
        let due = self.queue.due(now);
        self.wake(due);
        self.queue.take()
    }

    /// A rate limit outlives a restart: it holds those too whose status does not know of it.
    fn restore_holds(&mut self, now: Timestamp) {
        for credential in &self.store.all() {
            let failure = credential.status.failure.as_ref();
            let limited = failure.filter(|f| f.reason == Reason::RateLimited.as_str());
            let (Some(origin), Some(failure)) = (origin_of(credential), limited) else {
                continue;
            };
            // It was met by the spec of that generation, and none lasts longer than an hour.
            let same = credential.status.observed_generation == Some(credential.generation);
            let longest = plus(now, LONGEST_WAIT);
            let stands = |at: Timestamp| same && at > now && at <= longest;
            let retry = failure.retry_time.as_ref().filter(|at| stands(at.0));
            if let Some(retry) = retry {
                let hold = SharedFailure {
                    failure: Failure::new(Reason::RateLimited, failure.message.clone()),
                    count: failure.count,
                    sent_at: failure.last_time.0,
                    at: failure.last_time.0,
                    retry_at: retry.0,
                };
                self.broker.restore_hold(origin, hold);
            }
        }
    }

    /// The machine's clock was set back by this much, as a clock that cannot be set tells. What is
    /// in memory is told by the new clock from now on, and what statuses tell is looked at again.
    pub fn clock_set_back(&mut self, by: SignedDuration) {
        self.clock += 1;
        self.broker.clock_set_back(by);
        for pending in self.pending.values_mut() {
            pending.asked_at -= by;
        }
        let all = self.store.all();
        // What a standby has read was recorded by another clock.
        for credential in all.iter().filter(|_| self.leading) {
            let memory = memory_of(&mut self.memories, credential);
            let token = credential.status.token.as_ref();
            memory.clock_set_back(by, token.map(|token| token.issued_at.0));
        }
        self.wake(all.iter().map(|credential| credential.name.clone()));
    }

    /// A reconcile has ended.
    pub fn finish(&mut self, name: &Name) {
        if self.queue.finish(name) {
            self.wake([name.clone()]);
        }
    }

    /// Wakes resources. A standby keeps no list of them: it may stand by for months.
    pub fn wake(&mut self, names: impl IntoIterator<Item = Name>) {
        for name in names.into_iter().filter(|_| self.leading) {
            let credential = self.store.get(&name);
            let token = credential.and_then(|c| c.status.token.as_ref().map(validity_of));
            let mut urgency = Urgency::of(token, self.now);
            if let (Urgency::Renewal(_), Some(validity)) = (urgency, token) {
                // Its place is better then, if it still waits.
                let presses = Urgency::presses_from(validity);
                self.queue.schedule(&name, Some(presses));
            }
            if credential.is_some_and(|c| c.is_awaited(self.seen(c.target_secret()))) {
                urgency = urgency.min(Urgency::New);
            }
            if self.pending.contains_key(&name) {
                urgency = urgency.begun();
            }
            self.queue.wake(&name, urgency);
        }
    }

    fn seen(&self, secret: Option<Name>) -> &Seen {
        secret.map_or(&Seen::Unknown, |secret| self.store.secrets.seen(&secret))
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
            let token = subject.status.token.as_ref();
            let expires_at = token.map(|token| token.expires_at.0);
            self.broker.tell_of_hold(origin, name, expires_at);
        }
    }

    /// Wakes who is to probe the origins that were left alone for long enough.
    pub fn call_probers(&mut self, now: Timestamp) {
        let called = self.broker.call(now);
        self.wake(called);
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
            memory.distrusted = told.map(|token| token.issued_at.0).or(memory.distrusted);
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
                Wait::First => self.unsent.push((key.clone(), probe)),
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

    /// The probes that go out now. Each is to be followed by one [`Core::probed`].
    pub fn take_probes(&mut self) -> Vec<(Arc<SharingKey>, Probe)> {
        let free = PROBES_AT_ONCE.saturating_sub(self.probing);
        let rest = self.unsent.split_off(free.min(self.unsent.len()));
        let now = std::mem::replace(&mut self.unsent, rest);
        self.probing += now.len();
        now
    }

    /// What came of a probe.
    pub fn probed(&mut self, probe: &Probe, probed: Probed, now: Timestamp) {
        self.probing = self.probing.saturating_sub(1);
        let woken = self.probes.done(probe, probed, now);
        self.wake(woken);
    }

    /// Forgets what nobody uses any more.
    pub fn sweep(&mut self, now: Timestamp) {
        self.broker.sweep(now);
        self.probes.sweep(now);
    }

    /// A resource is gone: nothing of it stays. One that has taken its name is still to be looked
    /// at.
    pub fn forget(&mut self, name: &Name) {
        self.store.end_write(name);
        self.memories.remove(name);
        self.pending.remove(name);
        self.broker.leave(name);
        self.queue.schedule(name, None);
        if self.store.get(name).is_some() {
            self.wake([name.clone()]);
        }
    }
}

fn memory_of<'a>(memories: &'a mut Memories, credential: &Credential) -> &'a mut Memory {
    let (uid, memory) = &mut **memories.entry(credential.name.clone()).or_default();
    if *uid != credential.uid {
        // An earlier resource of the same name is nobody to this one.
        uid.clone_from(&credential.uid);
        *memory = Memory::default();
    }
    memory
}

fn basis_of(credential: &Credential) -> Option<Basis> {
    credential.spec.as_ref().ok().map(CheckedSpec::basis)
}

fn origin_of(credential: &Credential) -> Option<&str> {
    let spec = credential.spec.as_ref().ok()?;
    Some(spec.instance().ok()?.origin())
}
