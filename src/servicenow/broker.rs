//! The broker: one token request serves all who ask alike, refusals are shared by the same key,
//! and an origin that is down or rate limits is left alone by everyone.
//!
//! It is a state machine without I/O, clock or randomness: whoever drives it sends what
//! [`Broker::dispatch`] hands out, reports each answer to [`Broker::complete`], and wakes the
//! resources that it names.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    key::SharingKey,
    token::{AccessToken, TokenAnswer},
};
use crate::{
    api::Reason,
    decide::{
        Failure, Name,
        backoff::{Attempt, retry_at},
        failure::Class,
        renewal::{Validity, next_allowed, plus},
    },
};

/// A token in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The token.
    pub token: AccessToken,
    /// Its hex SHA-256.
    pub sha256: String,
    /// The scope that the instance answered.
    pub scope: String,
    /// From the request that brought it, or moved its expiry, to its expiry.
    pub validity: Validity,
    /// When the request was sent that last brought it.
    pub sent_at: Timestamp,
    /// The instance gave the same token without moving its expiry: it keeps tokens until they
    /// expire, and asking earlier gains nothing.
    pub kept: bool,
}

/// What a resource already knows of its token, from its status: a same-token answer is judged
/// against it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Hex SHA-256 of the token.
    pub sha256: String,
    /// The recorded validity.
    pub validity: Validity,
}

/// A failure that everyone with the same key, or on the same origin, waits out together.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedFailure {
    /// What went wrong.
    pub failure: Failure,
    /// Failures in a row.
    pub count: u32,
    /// When the failed request was sent.
    pub sent_at: Timestamp,
    /// When the answer was in.
    pub at: Timestamp,
    /// When the next request may go out.
    pub retry_at: Timestamp,
}

/// What the broker knows for one key, as `decide` sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// The last token, if any.
    pub held: Option<Held>,
    /// The failure that keeps this key waiting: its own, or its origin's.
    pub failure: Option<SharedFailure>,
    /// A request is queued or on its way, since this moment, and its answer wakes this resource.
    pub asked_at: Option<Timestamp>,
    /// No request before this moment: the least interval after a success.
    pub not_before: Option<Timestamp>,
}

/// Who goes first at an origin whose request limit is reached. Smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Less than a tenth of the lifetime is left; nearest expiry first.
    Expiring(Timestamp),
    /// There is no token yet.
    New,
    /// A renewal in good time; nearest expiry first.
    Renewal(Timestamp),
}

impl Urgency {
    /// The urgency of a resource with a token of this validity, or with none yet.
    pub fn of(token: Option<Validity>, now: Timestamp) -> Self {
        match token {
            None => Self::New,
            Some(validity) => {
                let left = validity.expires_at.duration_since(now);
                if left < validity.lifetime() / 10 {
                    Self::Expiring(validity.expires_at)
                } else {
                    Self::Renewal(validity.expires_at)
                }
            }
        }
    }
}

/// A resource's wish for a token.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who is woken by the answer.
    pub name: Name,
    /// Its place in the queue.
    pub urgency: Urgency,
    /// What it knows already.
    pub known: Option<Known>,
    /// Failures in a row that its status remembers, and of which class, so that a restart does not
    /// begin anew.
    pub failures: Option<(Class, u32)>,
    /// Asked for by a person: goes out even while the origin is held.
    pub forced: bool,
}

/// How requests are bounded.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests under way at one origin.
    pub per_origin: usize,
    /// The least interval between two successes of one key.
    pub min_interval: SignedDuration,
}

/// A same-token answer at the expiry is asked again at this pace …
const AT_EXPIRY_SOON: SignedDuration = SignedDuration::from_millis(200);
/// … for this long, …
const AT_EXPIRY_SOON_FOR: SignedDuration = SignedDuration::from_millis(1500);
/// … then at this pace, …
const AT_EXPIRY_LATER: SignedDuration = SignedDuration::from_secs(1);
/// … and after this long it is no valid answer any more.
const AT_EXPIRY_GIVEN_UP: SignedDuration = SignedDuration::from_secs(5);

/// Instances refuse now and then one of several concurrent requests; the next one passes.
const ONE_OFF_REFUSAL: SignedDuration = SignedDuration::from_secs(1);

/// An expiry has moved if it is later, or earlier, by more than this (and the round trip).
const MOVED: SignedDuration = SignedDuration::from_secs(2);

/// A failure that says nothing of when to try again is waited out this long.
const NO_TIME_SAID: SignedDuration = SignedDuration::from_hours(1);

/// The state of all keys and origins.
pub struct Broker {
    limits: Limits,
    keys: HashMap<Arc<SharingKey>, KeyState>,
    origins: HashMap<String, OriginState>,
}

#[derive(Default)]
struct KeyState {
    held: Option<Held>,
    failure: Option<SharedFailure>,
    known: Option<Known>,
    failures_before: Option<(Class, u32)>,
    queued: Option<Queued>,
    under_way: Option<Timestamp>,
    /// A person asked for the request that is under way.
    forced: bool,
    waiters: BTreeSet<Name>,
    /// Those who were told of a failure: they wait it out, and are woken when it is over sooner.
    told: BTreeSet<Name>,
    one_off_spent: bool,
    at_expiry_since: Option<Timestamp>,
}

#[derive(Clone, Copy)]
struct Queued {
    urgency: Urgency,
    since: Timestamp,
    not_before: Timestamp,
    forced: bool,
}

#[derive(Default)]
struct OriginState {
    under_way: usize,
    hold: Option<SharedFailure>,
    told: BTreeSet<Name>,
}

impl Broker {
    /// A broker that knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            keys: HashMap::new(),
            origins: HashMap::new(),
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

    /// Queues a request, or joins the one that is queued or on its way.
    pub fn ask(&mut self, key: &Arc<SharingKey>, ask: Ask, now: Timestamp) {
        let state = self.keys.entry(key.clone()).or_default();
        state.waiters.insert(ask.name);
        if state.held.is_none() {
            state.known = newer(state.known.take(), ask.known);
        }
        state.failures_before = [state.failures_before, ask.failures]
            .into_iter()
            .flatten()
            .max_by_key(|(_, count)| *count);
        if state.under_way.is_some() {
            return;
        }
        let queued = state.queued.get_or_insert(Queued {
            urgency: ask.urgency,
            since: now,
            not_before: now,
            forced: ask.forced,
        });
        queued.urgency = queued.urgency.min(ask.urgency);
        queued.forced |= ask.forced;
    }

    /// Takes a resource out of all waiting; a request that nobody waits for any more stays home.
    pub fn leave(&mut self, name: &Name) {
        for state in self.keys.values_mut() {
            state.told.remove(name);
            state.leave(name);
        }
        for origin in self.origins.values_mut() {
            origin.told.remove(name);
        }
    }

    /// A resource goes to sleep over a failure that it shares, and is woken where that is over
    /// before its time.
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
            state.leave(name);
        }
    }

    /// The requests that go out now. Each is to be followed by one [`Broker::complete`].
    pub fn dispatch(&mut self, now: Timestamp) -> Vec<Arc<SharingKey>> {
        let mut ready: Vec<_> = self
            .keys
            .iter()
            .filter_map(|(key, state)| state.queued.map(|queued| (queued, key.clone())))
            .filter(|(queued, _)| queued.not_before <= now)
            .collect();
        ready.sort_by_key(|(queued, _)| (queued.urgency, queued.since));
        let mut out = Vec::new();
        for (queued, key) in ready {
            let origin = self.origins.entry(key.origin().to_owned()).or_default();
            let limit = match &origin.hold {
                Some(hold) if hold.retry_at > now && !queued.forced => 0,
                // One probe at a time for an origin that is down.
                Some(_) => 1,
                None => self.limits.per_origin,
            };
            if origin.under_way >= limit {
                continue;
            }
            origin.under_way += 1;
            if let Some(state) = self.keys.get_mut(&key) {
                state.queued = None;
                state.under_way = Some(now);
                state.forced = queued.forced;
            }
            out.push(key);
        }
        out
    }

    /// When [`Broker::dispatch`] may have something that it has not now.
    pub fn next_dispatch(&self, now: Timestamp) -> Option<Timestamp> {
        self.keys
            .iter()
            .filter_map(|(key, state)| {
                let queued = state.queued?;
                let hold = self.hold(key.origin()).map(|hold| hold.retry_at);
                Some(queued.not_before.max(hold.unwrap_or(queued.not_before)))
            })
            .filter(|at| *at > now)
            .min()
    }

    /// Takes an answer in, and names the resources to wake.
    pub fn complete(
        &mut self,
        key: &Arc<SharingKey>,
        sent_at: Timestamp,
        now: Timestamp,
        answer: Result<TokenAnswer, Failure>,
        random: f64,
    ) -> Vec<Name> {
        let origin = self.origins.entry(key.origin().to_owned()).or_default();
        origin.under_way = origin.under_way.saturating_sub(1);
        let state = self.keys.entry(key.clone()).or_default();
        state.under_way = None;
        let woken = match answer.and_then(|answer| state.judge(answer, key.origin(), sent_at, now))
        {
            Ok(Judged::Again(at)) => {
                state.requeue(now, at);
                origin.lift(sent_at, true)
            }
            Ok(Judged::Held(held)) => {
                let mut woken = origin.lift(sent_at, true);
                woken.append(&mut state.succeed(held));
                woken
            }
            Err(failure) if state.is_one_off(&failure) => {
                state.one_off_spent = true;
                state.requeue(now, now + ONE_OFF_REFUSAL);
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
        let state = self.keys.entry(key.clone()).or_default();
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
        let mut woken = Vec::new();
        for (other, state) in &mut self.keys {
            let idle = state.under_way.is_none();
            if other == key || (idle && other.origin() == key.origin()) {
                state.queued = None;
                woken.extend(std::mem::take(&mut state.waiters));
            }
        }
        if let Some(origin) = self.origins.get_mut(key.origin()) {
            origin.told.extend(woken.iter().cloned());
        }
        woken
    }

    /// Forgets keys that nobody waits for and whose token and failure are over.
    pub fn sweep(&mut self, now: Timestamp) {
        self.keys.retain(|_, state| {
            let token = state
                .held
                .as_ref()
                .is_some_and(|h| h.validity.expires_at > now);
            let failure = state.failure.as_ref().is_some_and(|f| f.retry_at > now);
            token || failure || state.queued.is_some() || state.under_way.is_some()
        });
        let keys = &self.keys;
        self.origins.retain(|origin, state| {
            state.under_way > 0
                || state.hold.is_some() && keys.keys().any(|k| k.origin() == origin)
                || state.hold.as_ref().is_some_and(|hold| hold.retry_at > now)
        });
    }
}

impl OriginState {
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
        std::mem::take(&mut self.told)
    }
}

/// A failure as it is shared.
fn share(
    failure: Failure,
    count: u32,
    sent_at: Timestamp,
    now: Timestamp,
    expires_at: Option<Timestamp>,
    random: f64,
) -> SharedFailure {
    let attempt = Attempt {
        class: failure.class(),
        count,
        retry_after: failure.retry_after(),
        expires_at,
        random,
    };
    SharedFailure {
        retry_at: retry_at(&attempt, now).unwrap_or(plus(now, NO_TIME_SAID)),
        failure,
        count,
        sent_at,
        at: now,
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

enum Judged {
    Held(Held),
    Again(Timestamp),
}

impl KeyState {
    fn leave(&mut self, name: &Name) {
        if self.waiters.remove(name) && self.waiters.is_empty() {
            self.queued = None;
        }
    }

    /// Failures in a row with this one: by cause, and those that were under way together count as
    /// one.
    fn count(&self, before: Option<&SharedFailure>, failure: &Failure, sent_at: Timestamp) -> u32 {
        let class = failure.class();
        match before.filter(|before| before.failure.class() == class) {
            Some(before) if sent_at < before.at => before.count,
            Some(before) => before.count.saturating_add(1),
            None => {
                let remembered = self.failures_before.filter(|(of, _)| *of == class);
                remembered.map_or(0, |(_, count)| count).saturating_add(1)
            }
        }
    }

    /// Everyone with this key waits; returns who is to wake.
    fn fail(
        &mut self,
        failure: Failure,
        sent_at: Timestamp,
        now: Timestamp,
        random: f64,
    ) -> BTreeSet<Name> {
        let count = self.count(self.failure.as_ref(), &failure, sent_at);
        self.failure = Some(share(failure, count, sent_at, now, self.expiry(), random));
        self.failures_before = None;
        let woken = std::mem::take(&mut self.waiters);
        self.told.extend(woken.iter().cloned());
        woken
    }

    fn requeue(&mut self, now: Timestamp, not_before: Timestamp) {
        if self.waiters.is_empty() {
            return;
        }
        let urgency = self.expiry().map_or(Urgency::New, Urgency::Expiring);
        self.queued = Some(Queued {
            urgency,
            since: now,
            not_before,
            forced: self.forced,
        });
    }

    /// Everyone with this key is served; returns who is to wake.
    fn succeed(&mut self, held: Held) -> BTreeSet<Name> {
        self.known = Some(Known {
            sha256: held.sha256.clone(),
            validity: held.validity,
        });
        self.held = Some(held);
        self.failure = None;
        self.failures_before = None;
        self.one_off_spent = false;
        self.at_expiry_since = None;
        let mut woken = std::mem::take(&mut self.told);
        woken.append(&mut self.waiters);
        woken
    }

    fn expiry(&self) -> Option<Timestamp> {
        self.known.as_ref().map(|known| known.validity.expires_at)
    }

    /// The first refusal of a client that was good before is tried once more.
    fn is_one_off(&self, failure: &Failure) -> bool {
        let refused_before =
            matches!(self.failures_before, Some((Class::Refused, count)) if count > 0);
        let good_before = self.known.is_some() && self.failure.is_none() && !refused_before;
        failure.class() == Class::Refused && good_before && !self.one_off_spent
    }

    fn judge(
        &mut self,
        answer: TokenAnswer,
        origin: &str,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Result<Judged, Failure> {
        let sha256 = answer.token.sha256();
        let known = self.known.as_ref().filter(|known| known.sha256 == sha256);
        let (validity, kept) = match known {
            None => (new_validity(answer.expires_in, origin, sent_at)?, false),
            Some(known) => {
                let recorded = known.validity;
                // A missing lifetime of a known token says nothing new about it.
                let seconds = answer.expires_in.unwrap_or(0).max(0);
                let stated = Validity {
                    issued_at: sent_at,
                    expires_at: plus(sent_at, SignedDuration::from_secs(seconds)),
                };
                let round_trip = now.duration_since(sent_at).max(SignedDuration::ZERO);
                let silent = answer.expires_in.is_none();
                let moved_after = plus(recorded.expires_at, MOVED + round_trip);
                // An expiry that is over has not moved, however late it is told.
                let ahead = stated.expires_at > now;
                if !silent && ahead && stated.expires_at > moved_after {
                    (stated, false)
                } else if sent_at >= recorded.expires_at {
                    return self.ask_again(origin, now).map(Judged::Again);
                } else if !silent && plus(stated.expires_at, MOVED) < recorded.expires_at {
                    let expires_at = stated.expires_at;
                    (
                        Validity {
                            expires_at,
                            ..recorded
                        },
                        true,
                    )
                } else {
                    (recorded, true)
                }
            }
        };
        if !kept && validity.expires_at <= now {
            return Err(over_on_arrival(origin));
        }
        Ok(Judged::Held(Held {
            token: answer.token,
            sha256,
            scope: answer.scope,
            validity,
            sent_at,
            kept,
        }))
    }

    /// The instance still hands out a token whose time is over by our count.
    fn ask_again(&mut self, origin: &str, now: Timestamp) -> Result<Timestamp, Failure> {
        let since = *self.at_expiry_since.get_or_insert(now);
        let waited = now.duration_since(since);
        if waited < AT_EXPIRY_SOON_FOR {
            return Ok(now + AT_EXPIRY_SOON);
        }
        if waited < AT_EXPIRY_GIVEN_UP {
            return Ok(now + AT_EXPIRY_LATER);
        }
        // Until there is another token, each further attempt is one request, and backed off.
        Err(Failure::new(
            Reason::InvalidResponse,
            format!(
                "{origin} still answers with the token whose lifetime is over, and says nothing of a \
                 longer one. Compare the clocks of the instance and of this cluster; if they agree, \
                 look at the client's Access Token Lifespan in the Application Registry."
            ),
        ))
    }
}

fn over_on_arrival(origin: &str) -> Failure {
    Failure::new(
        Reason::InvalidResponse,
        format!(
            "{origin} answered with a token whose lifetime was over before the answer was in. Give \
             the client a longer Access Token Lifespan in the Application Registry, or find out why \
             the instance answers so slowly."
        ),
    )
}

fn new_validity(
    expires_in: Option<i64>,
    origin: &str,
    sent_at: Timestamp,
) -> Result<Validity, Failure> {
    let seconds = expires_in.filter(|seconds| *seconds > 0).ok_or_else(|| {
        Failure::new(
            Reason::InvalidResponse,
            format!(
                "{origin} answered with a new token but without a positive expires_in, so nobody can \
                 say when it expires. Set the client's Access Token Lifespan in the Application \
                 Registry."
            ),
        )
    })?;
    Ok(Validity {
        issued_at: sent_at,
        expires_at: plus(sent_at, SignedDuration::from_secs(seconds)),
    })
}
