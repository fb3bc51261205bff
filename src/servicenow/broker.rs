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
    exchange::{Ask, Exchange, Known, Limits, SharedFailure},
    key::SharingKey,
    key_state::{Judged, KeyState, ONE_OFF_REFUSAL, share},
    line::{Line, Queued},
    origin_state::OriginState,
    token::{AccessToken, TokenAnswer},
};
use crate::{
    api::Reason,
    decide::{
        Failure, Name,
        backoff::LONGEST_WAIT,
        failure::{Class, class_of},
        renewal::{next_allowed, plus},
    },
};

/// No token that is hard to guess is shorter: 128 bits in base64 (RFC 6749, section 10.10).
const LEAST_TOKEN: usize = 22;

/// The state of all keys and origins. The order of the keys in memory decides nothing.
pub struct Broker {
    limits: Limits,
    /// Boxed: a table has room for up to twice as many as it holds.
    keys: HashMap<Arc<SharingKey>, Box<KeyState>>,
    origins: BTreeMap<String, OriginState>,
    /// Keys seen so far: each has its number, which settles ties.
    born: u64,
}

/// What an answer came to.
#[derive(Debug)]
pub struct Answered {
    /// The resources to wake.
    pub woken: Vec<Name>,
    /// Why it is no success: an answer may be well formed and yet not acceptable for its key.
    pub failed: Option<Reason>,
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
            queued: state.queued.map(|queued| queued.urgency),
            under_way: state.under_way.is_some(),
            not_before,
        }
    }

    /// The tokens in memory that a word of so many bytes may repeat, which the instance sent in answer
    /// to a request with this key: that of the key, and in longer ones any of the instance's.
    pub fn tokens<'a>(&'a self, key: &SharingKey, length: usize) -> Vec<AccessToken> {
        let token = |state: &'a KeyState| Some(&state.held.as_ref()?.token);
        if length < LEAST_TOKEN {
            let own = self.keys.get(key).and_then(|state| token(state));
            return own.into_iter().cloned().collect();
        }
        let keys = self.keys.iter();
        let keys = keys.filter(|(of, _)| of.origin() == key.origin());
        let tokens = keys.filter_map(|(_, state)| token(state));
        let tokens = tokens.filter(|token| token.expose().len() <= length);
        tokens.cloned().collect()
    }

    /// The failure that holds a whole origin, if any: known before any Secret is read.
    pub fn hold(&self, origin: &str) -> Option<&SharedFailure> {
        self.origins.get(origin)?.hold.as_ref()
    }

    /// The hold that keeps this resource waiting, which has not asked. While another probes, or was
    /// called to, nobody else need try, even when the wait is over.
    pub fn hold_for(&self, name: &Name, origin: &str, now: Timestamp) -> Option<&SharedFailure> {
        self.origins.get(origin)?.hold_for(name, now)
    }

    /// Queues a request, or joins the one that is queued or on its way; none is needed where whoever
    /// asks knows that the token in memory is kept until it expires.
    pub fn ask(&mut self, key: &Arc<SharingKey>, ask: Ask, now: Timestamp) {
        let state = known_or_new(&mut self.keys, &mut self.born, key);
        if !ask.forced
            && ask
                .known
                .as_ref()
                .is_some_and(|known| state.learns_that_it_is_kept(known))
        {
            return;
        }
        let origin = self.origins.entry(key.origin().to_owned()).or_default();
        origin.asked_at = Some(now);
        state.waiters.insert(ask.name);
        if state.held.is_none() {
            state.known = newer(state.known.take(), ask.known);
            state.refusals = state.refusals.max(ask.refusals);
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
    pub fn leave(&mut self, name: &Name) {
        for (key, state) in &mut self.keys {
            state.told.remove(name);
            leave(&mut self.origins, key, state, name);
        }
        for origin in self.origins.values_mut() {
            origin.leave(name);
        }
    }

    /// A resource goes to sleep over a failure that its whole origin shares, and is woken when that
    /// is over, or to probe. Its token, if it has one, ends at `expires_at`: where that is near, an
    /// outage is probed again sooner than whoever met it had to.
    pub fn tell_of_hold(
        &mut self,
        origin: &str,
        name: &Name,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        if let Some(origin) = self.origins.get_mut(origin) {
            origin.tell(name, expires_at, now);
        }
    }

    /// A resource goes to sleep over a failure of its key, and is woken where that is over before
    /// its time.
    pub fn tell_of_failure(&mut self, key: &SharingKey, name: &Name) {
        if let Some(state) = self.keys.get_mut(key)
            && state.failure.is_some()
        {
            state.told.insert(name.clone());
        }
    }

    /// A resource has looked and asks for nothing: if it was called to probe, another is. It sleeps
    /// over the hold of one origin, or of none, whatever it did before.
    pub fn has_looked(&mut self, sleeps_over: Option<&str>, name: &Name, now: Timestamp) {
        let held = self.origins.iter_mut().filter(|(_, o)| o.hold.is_some());
        for (origin, state) in held {
            let sleeps = Some(origin.as_str()) == sleeps_over;
            state.has_looked(name, sleeps, now);
        }
    }

    /// Wakes one of those who sleep over each hold whose wait is over, to probe: the one whose token
    /// ends nearest to now.
    pub fn call(&mut self, now: Timestamp) -> Vec<Name> {
        let due = |origin: &&mut OriginState| origin.calls_at().is_some_and(|at| at <= now);
        let due = self.origins.values_mut().filter(due);
        due.filter_map(|origin| origin.call(now)).collect()
    }

    /// A failure that an earlier process met with this key, and that the status of somebody who has it
    /// remembers.
    pub fn restore_failure(&mut self, key: &Arc<SharingKey>, failure: SharedFailure) {
        let state = known_or_new(&mut self.keys, &mut self.born, key);
        state.failure = later(state.failure.take(), Some(failure));
    }

    /// Whether this process has asked with this key, of late.
    pub fn is_known(&self, key: &SharingKey) -> bool {
        self.keys.contains_key(key)
    }

    /// An earlier process failed at this origin for a reason that holds all of it.
    pub fn suspect(&mut self, origin: &str) {
        let state = self.origins.entry(origin.to_owned()).or_default();
        state.suspected = true;
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
            while let Some(key) = origin.next(self.limits.per_origin, now) {
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
        let limit = self.limits.per_origin;
        let open = self.origins.values_mut().filter(|o| o.hold.is_none());
        let near = open.flat_map(|origin| {
            let room = limit.saturating_sub(origin.under_way);
            origin.line.prepare(now, room)
        });
        near.collect()
    }

    /// When [`Broker::dispatch`], [`Broker::prepare`] or [`Broker::call`] may have something that it
    /// has not now.
    pub fn next_dispatch(&self, now: Timestamp) -> Option<Timestamp> {
        let opens = self.origins.values().flat_map(|origin| {
            let hold = origin.hold.as_ref().map(|hold| hold.retry_at);
            [
                origin.line.opens(now),
                hold.filter(|_| origin.line.is_ready()),
                origin.calls_at(),
            ]
        });
        opens.flatten().filter(|at| *at > now).min()
    }

    /// Takes an answer in, and tells what it came to. The request was sent when it was dispatched.
    pub fn complete(
        &mut self,
        key: &Arc<SharingKey>,
        now: Timestamp,
        answer: Result<TokenAnswer, Failure>,
        random: f64,
    ) -> Answered {
        let origin = self.origins.entry(key.origin().to_owned()).or_default();
        origin.is_answered();
        let Some(state) = self.keys.get_mut(key) else {
            let failed = answer.err().map(|failure| failure.reason());
            return Answered {
                woken: Vec::new(),
                failed,
            };
        };
        let sent_at = state.under_way.take().unwrap_or(now);
        let judged = answer.and_then(|answer| state.judge(answer, key.origin(), sent_at, now));
        let failed = judged.as_ref().err().map(Failure::reason);
        // Who is not let in by TLS, or was not let out, has not met the instance, and says nothing of
        // it.
        let met = failed
            .is_none_or(|reason| reason != Reason::TlsFailed && class_of(reason) != Class::Cluster);
        origin.suspected &= !met;
        let woken = match judged {
            Ok(Judged::Again(at)) => {
                origin.requeue(key, state, now, at);
                origin.lift(sent_at, true)
            }
            Ok(Judged::Held(held)) => {
                let mut woken = origin.lift(sent_at, true);
                woken.append(&mut state.succeed(held));
                woken
            }
            Err(failure) if state.tries_once_more(&failure) => {
                state.one_off_spent = true;
                origin.requeue(key, state, now, now + ONE_OFF_REFUSAL);
                origin.lift(sent_at, false)
            }
            Err(failure) if matches!(failure.class(), Class::Outage | Class::Held) => {
                let woken = self.hold_origin(key, failure, sent_at, now, random);
                return Answered { woken, failed };
            }
            Err(failure) => {
                let mut woken = if met {
                    origin.lift(sent_at, false)
                } else {
                    BTreeSet::new()
                };
                woken.append(&mut state.fail(failure, sent_at, now, random));
                woken
            }
        };
        Answered {
            woken: woken.into_iter().collect(),
            failed,
        }
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
        // Whoever asked has ended the wait for what the key itself failed with before.
        if let Some(before) = &mut state.failure {
            before.retry_at = before.retry_at.min(now);
        }
        let hold = share(failure, count, sent_at, now, expires_at, random);
        origin.hold(hold);
        self.release_origin(key)
    }

    /// Of the tokens of an origin, the expiry that is nearest to now: an outage is probed as often
    /// as the one that is most at stake wants it.
    fn nearest_expiry(&self, origin: &str, now: Timestamp) -> Option<Timestamp> {
        let keys = self.keys.iter().filter(|(key, _)| key.origin() == origin);
        let asked = keys.filter_map(|(_, state)| state.expiry());
        let told = self.origins.get(origin).into_iter();
        let asleep = told.flat_map(|state| state.told.values().copied().flatten());
        asked
            .chain(asleep)
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
            for name in &woken {
                origin.told.entry(name.clone()).or_default();
            }
        }
        woken.into_iter().collect()
    }

    /// The machine's clock was set back by this much: what is known was told by the old one.
    pub fn clock_set_back(&mut self, by: SignedDuration) {
        for state in self.keys.values_mut() {
            state.clock_set_back(by);
        }
        for origin in self.origins.values_mut() {
            origin.clock_set_back(by);
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
            let held = state.hold.is_some() && keys.keys().any(|key| key.origin() == origin);
            held || state.is_in_use(now)
        });
    }
}

fn known_or_new<'a>(
    keys: &'a mut HashMap<Arc<SharingKey>, Box<KeyState>>,
    born: &mut u64,
    key: &Arc<SharingKey>,
) -> &'a mut KeyState {
    keys.entry(key.clone()).or_insert_with(|| {
        *born += 1;
        Box::new(KeyState::new(*born))
    })
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
        if origin.line.is_empty() && origin.under_way == 0 {
            origin.asked_at = None;
        }
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
