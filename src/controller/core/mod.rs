//! The operator's state in one place: what the watches told, who waits for what, and what is
//! remembered. No I/O and no clock, so that a simulation can drive the very same state.

mod round;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use foldhash::HashMap;
use jiff::{SignedDuration, Timestamp};

pub use round::Round;

use super::{Bounds, queue::Queue};
use crate::{
    api::FailureStatus,
    decide::{
        Credential, Failure, Memory, Name, Seen,
        observed::{Basis, ClientRead, Policy},
        probes::{Probe, Probes},
        renewal::Validity,
        validity_of,
    },
    kubernetes::Store,
    servicenow::{Broker, Limits, Probed, SharedFailure, SharingKey, Urgency},
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
    /// By origin: one that hangs holds up nobody else's.
    trials: BTreeMap<String, Trials>,
    pending: HashMap<Name, Box<Pending>>,
    listed: bool,
    leading: bool,
    restored: bool,
    /// How much the clock was set back, in all: which clock it is.
    clock: SignedDuration,
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

/// The probes of one origin.
#[derive(Default)]
struct Trials {
    unsent: VecDeque<(Arc<SharingKey>, Probe)>,
    under_way: usize,
}

/// A fleet that begins to try its tokens out does not do it all at once.
const PROBES_AT_ONCE: usize = 4;

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
            trials: BTreeMap::new(),
            pending: HashMap::default(),
            listed: false,
            leading: false,
            restored: false,
            clock: SignedDuration::ZERO,
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

    /// A rate limit or an outage outlives a restart: it holds those too whose status does not know of
    /// it. Where its wait is over it may still last: one asks at a time until there is an answer.
    fn restore_holds(&mut self, now: Timestamp) {
        for credential in &self.store.all() {
            let Some(origin) = origin_of(credential) else {
                continue;
            };
            let told = credential.status.failure.as_ref().and_then(recorded);
            let Some(told) = told.filter(|told| told.failure.class().is_of_origin()) else {
                continue;
            };
            // Waiting is not told each time, so what is told may be old.
            self.broker.suspect(origin);
            if credential.recorded_failure(now, now).is_some() {
                self.broker.restore_hold(origin, told);
            }
        }
    }

    /// The machine's clock was set back by this much, as a clock that cannot be set tells. What is
    /// in memory is told by the new clock from now on, and what statuses tell is looked at again.
    pub fn clock_set_back(&mut self, by: SignedDuration) {
        self.clock += by;
        self.broker.clock_set_back(by);
        for pending in self.pending.values_mut() {
            pending.asked_at -= by;
        }
        let all = self.store.all();
        // What a standby has read was recorded by another clock.
        for credential in all.iter().filter(|_| self.leading) {
            let memory = memory_of(&mut self.memories, credential);
            memory.clock_set_back(by, &credential.status);
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
            let token = credential.and_then(|credential| self.validity(credential));
            let mut urgency = credential.map_or(Urgency::New, |credential| {
                let target = self.seen(credential.target_secret());
                credential.urgency(token, target, self.now)
            });
            // Its place is better then, if it still waits.
            let presses = token.map(Urgency::presses_from);
            if let Some(presses) = presses.filter(|at| *at > self.now) {
                self.queue.schedule(&name, Some(presses));
            }
            if self.pending.contains_key(&name) {
                urgency = urgency.begun();
            }
            self.queue.wake(&name, urgency);
        }
    }

    /// The validity of the token that a status tells of, by the clock as it is now.
    fn validity(&self, credential: &Credential) -> Option<Validity> {
        let token = credential.status.token.as_ref()?;
        Some(match self.memories.get(&credential.name) {
            Some(kept) => kept.1.validity(token),
            None => validity_of(token),
        })
    }

    fn seen(&self, secret: Option<Name>) -> &Seen {
        secret.map_or(&Seen::Unknown, |secret| self.store.secrets.seen(&secret))
    }

    /// Wakes who is to probe the origins that were left alone for long enough.
    pub fn call_probers(&mut self, now: Timestamp) {
        let called = self.broker.call(now);
        self.wake(called);
    }

    /// A token is to be tried out.
    pub(super) fn try_out(&mut self, key: &Arc<SharingKey>, probe: Probe) {
        let trials = self.trials.entry(key.origin().to_owned()).or_default();
        trials.unsent.push_back((key.clone(), probe));
    }

    /// The probes that go out now. Each is to be followed by one [`Core::probed`].
    pub fn take_probes(&mut self) -> Vec<(Arc<SharingKey>, Probe)> {
        let mut now = Vec::new();
        for trials in self.trials.values_mut() {
            let free = PROBES_AT_ONCE.saturating_sub(trials.under_way);
            let go = free.min(trials.unsent.len());
            trials.under_way += go;
            now.extend(trials.unsent.drain(..go));
        }
        now
    }

    /// What came of a probe at this origin.
    pub fn probed(&mut self, origin: &str, probe: &Probe, probed: Probed, now: Timestamp) {
        if let Some(trials) = self.trials.get_mut(origin) {
            trials.under_way = trials.under_way.saturating_sub(1);
            if trials.under_way == 0 && trials.unsent.is_empty() {
                self.trials.remove(origin);
            }
        }
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

/// A failure of an instance as a status remembers it.
fn recorded(failure: &FailureStatus) -> Option<SharedFailure> {
    let at = failure.last_time.0;
    Some(SharedFailure {
        failure: Failure::new(failure.reason.parse().ok()?, failure.message.clone()),
        count: failure.count,
        sent_at: at,
        at,
        retry_at: failure.retry_time.as_ref()?.0,
    })
}

fn origin_of(credential: &Credential) -> Option<&str> {
    let spec = credential.spec.as_ref().ok()?;
    Some(spec.instance().ok()?.origin())
}
