//! The broker: one token request serves all who ask alike, refusals are shared by the same key,
//! and an origin that is down or rate limits is left alone by everyone.
//!
//! It is a state machine without I/O, clock or randomness: whoever drives it sends what
//! [`Broker::dispatch`] hands out, reports each answer to [`Broker::complete`], and wakes the
//! resources that it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use foldhash::HashMap;
use jiff::{SignedDuration, Timestamp};

use super::{
    exchange::{Ask, Exchange, Known, Limits, SharedFailure, Urgency, back},
    key::SharingKey,
    key_state::{Judged, KeyState, ONE_OFF_REFUSAL, share},
    line::{Line, Queued},
    token::TokenAnswer,
};
use crate::decide::{
    Failure, Name,
    backoff::LONGEST_WAIT,
    failure::Class,
    renewal::{next_allowed, plus},
};

/// A probe has its answer, or its time-out, within about this time.
const PROBE_ENDS_WITHIN: SignedDuration = SignedDuration::from_secs(20);
/// Who leaves the probing to another is woken when the hold is over, and looks again after this
/// long, woken or not.
const OTHERS_LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// The state of all keys and origins. The order of the keys in memory decides nothing.
pub struct Broker {
    limits: Limits,
    keys: HashMap<Arc<SharingKey>, KeyState>,
    origins: BTreeMap<String, OriginState>,
    /// Keys seen so far: each has its number, which settles ties.
    born: u64,
}

#[derive(Default)]
struct OriginState {
    under_way: usize,
    hold: Option<SharedFailure>,
    told: BTreeSet<Name>,
    /// Of those who were told, the one that probes when the wait is over.
    prober: Option<Name>,
    /// When a request was last queued, if none has ended since.
    asked_at: Option<Timestamp>,
    line: Line,
}

impl Broker {
    /// A broker that knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            keys: HashMap::default(),
            origins: BTreeMap::new(),
            born: 0,
        }
    }

    /// What is known for a key, as one resource sees it.
    pub fn exchange(&self, key: &SharingKey, name: &Name) -> Exchange {
        let hold = self.origins.get(key.origin()).and_then(|o| o.hold.clone());
        let Some(state) = self.keys.get(key) else {
            return Exchange {
                failure: hold,
                ..Exchange::default()
            };
        };
        let asked_at = state.under_way.or(state.queued.map(|queued| queued.since));
        let not_before = state
            .held
            .as_ref()
            .map(|held| next_allowed(held.validity, self.limits.min_interval));
        Exchange {
            held: state.held.clone(),
            failure: later(state.failure.clone(), hold),
            asked_at: state.waiters.contains(name).then_some(asked_at).flatten(),
            not_before,
        }
    }

    /// The failure that holds a whole origin, if any: known before any Secret is read.
    pub fn hold(&self, origin: &str) -> Option<&SharedFailure> {
        self.origins.get(origin)?.hold.as_ref()
    }

    /// The hold as it keeps this resource waiting, which has not asked: while another probes, or
    /// is about to, the others need not try. They are woken when the hold is over.
    pub fn hold_for(&self, name: &Name, origin: &str, now: Timestamp) -> Option<SharedFailure> {
        let state = self.origins.get(origin)?;
        let hold = state.hold.clone()?;
        let young = |at: Timestamp| now < plus(at, PROBE_ENDS_WITHIN);
        let probing = state.under_way > 0 || state.asked_at.is_some_and(young);
        let another = state.prober.as_ref().is_some_and(|prober| prober != name);
        if probing || (another && young(hold.retry_at)) {
            let retry_at = hold.retry_at.max(plus(now, OTHERS_LOOK_AGAIN));
            return Some(SharedFailure { retry_at, ..hold });
        }
        Some(hold)
    }

    /// Queues a request, or joins the one that is queued or on its way.
    pub fn ask(&mut self, key: &Arc<SharingKey>, ask: Ask, now: Timestamp) {
        let origin = self.origins.entry(key.origin().to_owned()).or_default();
        origin.asked_at = Some(now);
        let state = self.keys.entry(key.clone()).or_insert_with(|| {
            self.born += 1;
            KeyState::new(self.born)
        });
        state.waiters.insert(ask.name);
        if state.held.is_none() {
            state.known = newer(state.known.take(), ask.known);
        }
        state.good_before |= ask.good_before;
        state.failures_before = [state.failures_before, ask.failures]
            .into_iter()
            .flatten()
            .max_by_key(|(_, count)| *count);
        if state.under_way.is_some() {
            return;
        }
        let not_before = ask.not_before.filter(|at| *at > now);
        let not_before = not_before.map_or(now, |at| plus(at, state.round_trip));
        let mut queued = state.queued.unwrap_or(Queued {
            urgency: ask.urgency,
            since: now,
            not_before,
            forced: ask.forced,
            again: false,
        });
        if let Some(old) = state.queued {
            origin.line.leave(state.number, old);
        }
        queued.urgency = queued.urgency.min(ask.urgency);
        queued.forced |= ask.forced;
        if !queued.again {
            queued.not_before = queued.not_before.min(not_before);
        }
        state.queued = Some(queued);
        origin.line.join(key.clone(), state.number, queued);
    }

    /// Takes a resource out of all waiting; a request that nobody waits for any more stays home.
    /// Returns who is to probe in its place.
    pub fn leave(&mut self, name: &Name) -> Vec<Name> {
        for (key, state) in &mut self.keys {
            state.told.remove(name);
            leave(&mut self.origins, key, state, name);
        }
        let origins = self.origins.values_mut();
        origins
            .filter_map(|origin| origin.stand_down(name))
            .collect()
    }

    /// A resource needs nothing of its origin any more. Returns who is to probe in its place.
    pub fn stand_down(&mut self, origin: &str, name: &Name) -> Option<Name> {
        self.origins.get_mut(origin)?.stand_down(name)
    }

    /// A resource goes to sleep over a failure that it shares, and is woken where that is over
    /// before its time. The first one of an origin probes.
    pub fn tell(&mut self, origin: &str, key: Option<&SharingKey>, name: &Name) {
        if let Some(state) = key.and_then(|key| self.keys.get_mut(key))
            && state.failure.is_some()
        {
            state.told.insert(name.clone());
        }
        if let Some(origin) = self.origins.get_mut(origin)
            && origin.hold.is_some()
        {
            origin.told.insert(name.clone());
            origin.prober.get_or_insert_with(|| name.clone());
        }
    }

    /// A rate limit that an earlier process met, and that a status remembers.
    pub fn restore_hold(&mut self, origin: &str, hold: SharedFailure) {
        let state = self.origins.entry(origin.to_owned()).or_default();
        state.hold = later(state.hold.take(), Some(hold));
    }

    /// Takes a resource out of the waiting for one key.
    pub fn unask(&mut self, key: &SharingKey, name: &Name) {
        if let Some(state) = self.keys.get_mut(key) {
            leave(&mut self.origins, key, state, name);
        }
    }

    /// The requests that go out now. Each is to be followed by one [`Broker::complete`].
    pub fn dispatch(&mut self, now: Timestamp) -> Vec<Arc<SharingKey>> {
        let mut out = Vec::new();
        for origin in self.origins.values_mut() {
            let held = origin.hold.as_ref().is_some_and(|h| h.retry_at > now);
            // One probe at a time for an origin that is down.
            let limit = match &origin.hold {
                Some(_) => 1,
                None => self.limits.per_origin,
            };
            while origin.under_way < limit
                && let Some(key) = origin.line.next(now, held)
            {
                origin.under_way += 1;
                if let Some(state) = self.keys.get_mut(&key) {
                    let queued = state.queued.take();
                    state.under_way = Some(now);
                    state.forced = queued.is_some_and(|queued| queued.forced);
                }
                out.push(key);
            }
        }
        out
    }

    /// The requests whose moment is near: a connection may be opened for each, and is used when
    /// [`Broker::dispatch`] names the key.
    pub fn prepare(&mut self, now: Timestamp) -> Vec<Arc<SharingKey>> {
        let open = self.origins.values_mut().filter(|o| o.hold.is_none());
        let waiting = open.filter(|origin| origin.line.is_waited_in());
        waiting
            .flat_map(|origin| origin.line.prepare(now))
            .collect()
    }

    /// When [`Broker::dispatch`] or [`Broker::prepare`] may have something that it has not now.
    pub fn next_dispatch(&self, now: Timestamp) -> Option<Timestamp> {
        let opens = self.origins.values().flat_map(|origin| {
            let hold = origin.hold.as_ref().map(|hold| hold.retry_at);
            [
                origin.line.opens(now),
                hold.filter(|_| origin.line.is_ready()),
            ]
        });
        opens.flatten().filter(|at| *at > now).min()
    }

    /// Takes an answer in, and names the resources to wake. The request was sent when it was
    /// dispatched.
    pub fn complete(
        &mut self,
        key: &Arc<SharingKey>,
        now: Timestamp,
        answer: Result<TokenAnswer, Failure>,
        random: f64,
    ) -> Vec<Name> {
        let origin = self.origins.entry(key.origin().to_owned()).or_default();
        origin.under_way = origin.under_way.saturating_sub(1);
        origin.asked_at = None;
        let Some(state) = self.keys.get_mut(key) else {
            return Vec::new();
        };
        let sent_at = state.under_way.take().unwrap_or(now);
        let woken = match answer.and_then(|answer| state.judge(answer, key.origin(), sent_at, now))
        {
            Ok(Judged::Again(at)) => {
                origin.requeue(key, state, now, at);
                origin.lift(sent_at, true)
            }
            Ok(Judged::Held(held)) => {
                let mut woken = origin.lift(sent_at, true);
                woken.append(&mut state.succeed(held));
                woken
            }
            Err(failure) if state.is_one_off(&failure) => {
                state.one_off_spent = true;
                origin.requeue(key, state, now, now + ONE_OFF_REFUSAL);
                origin.lift(sent_at, false)
            }
            Err(failure) if matches!(failure.class(), Class::Outage | Class::Held) => {
                return self.hold_origin(key, failure, sent_at, now, random);
            }
            Err(failure) => {
                let mut woken = origin.lift(sent_at, false);
                woken.append(&mut state.fail(failure, sent_at, now, random));
                woken
            }
        };
        woken.into_iter().collect()
    }

    /// The whole origin is down, or asked for fewer requests.
    fn hold_origin(
        &mut self,
        key: &Arc<SharingKey>,
        failure: Failure,
        sent_at: Timestamp,
        now: Timestamp,
        random: f64,
    ) -> Vec<Name> {
        let expires_at = self.nearest_expiry(key.origin(), now);
        let origin = self.origins.entry(key.origin().to_owned()).or_default();
        let Some(state) = self.keys.get_mut(key) else {
            return Vec::new();
        };
        let count = state.count(origin.hold.as_ref(), &failure, sent_at);
        state.failures_before = None;
        let hold = share(failure, count, sent_at, now, expires_at, random);
        // What the instance asked for stands, whatever else fails meanwhile.
        let asked_for = origin
            .hold
            .take()
            .filter(|old| old.failure.class() == Class::Held && old.retry_at > hold.retry_at);
        // Its wait stays, and this was the last request that met it.
        origin.hold = Some(match asked_for {
            Some(old) => SharedFailure {
                sent_at,
                at: now,
                ..old
            },
            None => hold,
        });
        self.release_origin(key)
    }

    /// Of the tokens of an origin, the expiry that is nearest to now: an outage is probed as often
    /// as the one that is most at stake wants it.
    fn nearest_expiry(&self, origin: &str, now: Timestamp) -> Option<Timestamp> {
        self.keys
            .iter()
            .filter(|(key, _)| key.origin() == origin)
            .filter_map(|(_, state)| state.expiry())
            .min_by_key(|expiry| expiry.duration_since(now).abs())
    }

    /// Everyone who waits at the origin of this key is told of its hold, and asks again after it.
    fn release_origin(&mut self, key: &Arc<SharingKey>) -> Vec<Name> {
        let mut woken = BTreeSet::new();
        for (other, state) in &mut self.keys {
            let idle = state.under_way.is_none();
            if other == key || (idle && other.origin() == key.origin()) {
                state.queued = None;
                woken.append(&mut state.waiters);
            }
        }
        if let Some(origin) = self.origins.get_mut(key.origin()) {
            // Whoever is under way stands in no line.
            origin.line = Line::default();
            origin.told.extend(woken.iter().cloned());
        }
        woken.into_iter().collect()
    }

    /// The machine's clock was set back by this much: what is known was told by the old one.
    pub fn clock_set_back(&mut self, by: SignedDuration) {
        for state in self.keys.values_mut() {
            state.clock_set_back(by);
        }
        for origin in self.origins.values_mut() {
            origin.line = Line::default();
            back(&mut origin.asked_at, by);
            if let Some(hold) = &mut origin.hold {
                hold.clock_set_back(by);
            }
        }
        for (key, state) in &self.keys {
            if let (Some(queued), Some(origin)) = (state.queued, self.origins.get_mut(key.origin()))
            {
                origin.line.join(key.clone(), state.number, queued);
            }
        }
    }

    /// Forgets keys that nobody waits for and whose token and failure have long been over.
    pub fn sweep(&mut self, now: Timestamp) {
        self.keys.retain(|_, state| {
            let token = state
                .held
                .as_ref()
                .is_some_and(|h| h.validity.expires_at > now);
            // How often it failed is remembered for as long as the longest wait.
            let failure = state.failure.as_ref();
            let failure = failure.is_some_and(|f| plus(f.retry_at, LONGEST_WAIT) > now);
            token || failure || state.queued.is_some() || state.under_way.is_some()
        });
        let keys = &self.keys;
        self.origins.retain(|origin, state| {
            state.under_way > 0
                || !state.line.is_empty()
                || state.hold.is_some() && keys.keys().any(|k| k.origin() == origin)
                || state.hold.as_ref().is_some_and(|hold| hold.retry_at > now)
        });
    }
}

/// Takes a resource out of the waiting for a key, and the key out of the line if nobody is left.
fn leave(
    origins: &mut BTreeMap<String, OriginState>,
    key: &SharingKey,
    state: &mut KeyState,
    name: &Name,
) {
    if state.waiters.remove(name)
        && state.waiters.is_empty()
        && let Some(queued) = state.queued.take()
        && let Some(origin) = origins.get_mut(key.origin())
    {
        origin.line.leave(state.number, queued);
    }
}

impl OriginState {
    /// The broker itself asks again, if anybody still waits.
    fn requeue(
        &mut self,
        key: &Arc<SharingKey>,
        state: &mut KeyState,
        now: Timestamp,
        not_before: Timestamp,
    ) {
        if state.waiters.is_empty() {
            return;
        }
        let queued = Queued {
            urgency: state.expiry().map_or(Urgency::New, Urgency::Expiring),
            since: now,
            not_before,
            forced: state.forced,
            again: true,
        };
        state.queued = Some(queued);
        self.line.join(key.clone(), state.number, queued);
    }

    /// An answer ends an outage. A rate limit is ended by a success that was asked for after it, or
    /// by any answer after its time. Returns who was told of it.
    fn lift(&mut self, sent_at: Timestamp, success: bool) -> BTreeSet<Name> {
        let over = self.hold.as_ref().is_some_and(|hold| {
            hold.failure.class() != Class::Held
                || sent_at >= hold.retry_at
                || (success && sent_at >= hold.at)
        });
        if !over {
            return BTreeSet::new();
        }
        self.hold = None;
        self.prober = None;
        std::mem::take(&mut self.told)
    }

    /// A resource waits no more; if it was to probe, another is named.
    fn stand_down(&mut self, name: &Name) -> Option<Name> {
        self.told.remove(name);
        self.prober.take_if(|prober| prober == name)?;
        self.told.first().cloned()
    }
}

/// Of two failures that keep a key waiting, the one that keeps it longer; the last request that
/// met either of them has met both.
fn later(a: Option<SharedFailure>, b: Option<SharedFailure>) -> Option<SharedFailure> {
    match (a, b) {
        (Some(a), Some(b)) => {
            let sent_at = a.sent_at.max(b.sent_at);
            let longer = if a.retry_at >= b.retry_at { a } else { b };
            Some(SharedFailure { sent_at, ..longer })
        }
        (a, b) => a.or(b),
    }
}

/// Of what two resources know of one key's token, the later.
fn newer(a: Option<Known>, b: Option<Known>) -> Option<Known> {
    [a, b]
        .into_iter()
        .flatten()
        .max_by_key(|known| known.validity.issued_at)
}
