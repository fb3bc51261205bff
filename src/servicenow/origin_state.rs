//! What is known of one origin: what holds it, who sleeps over that, and whose turn it is to probe.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    exchange::{SharedFailure, Urgency, back},
    key::SharingKey,
    key_state::KeyState,
    line::{Line, Queued},
};
use crate::decide::{Name, backoff::LONGEST_WAIT, failure::Class, renewal::plus};

/// A probe has its answer, or its time-out, within about this time.
const PROBE_ENDS_WITHIN: SignedDuration = SignedDuration::from_secs(20);
/// Who is called to probe has asked within about this time, or another is called.
const CALL_LASTS: SignedDuration = SignedDuration::from_secs(2);
/// The least time between two calls: no cause whatever makes one follow the other without end.
const BETWEEN_CALLS: SignedDuration = SignedDuration::from_millis(50);

#[derive(Default)]
pub(super) struct OriginState {
    pub(super) under_way: usize,
    pub(super) hold: Option<SharedFailure>,
    /// Those who sleep until the hold is over, with the expiry of their tokens.
    pub(super) told: BTreeMap<Name, Option<Timestamp>>,
    /// Of those, who was woken to probe, and when, if no request has ended since.
    pub(super) called: Option<(Name, Timestamp)>,
    /// When a request was last queued, if none has ended since.
    pub(super) asked_at: Option<Timestamp>,
    /// An earlier process found it down, or was limited by it: one request goes out, and its answer
    /// says whether it still is.
    pub(super) suspected: bool,
    pub(super) line: Line,
}

impl OriginState {
    /// The hold that keeps this resource waiting, which has not asked.
    pub(super) fn hold_for(&self, name: &Name, now: Timestamp) -> Option<&SharedFailure> {
        let left_to_another =
            self.under_way > 0 || self.free_for(Some(name)).is_some_and(|from| from > now);
        let hold = self.hold.as_ref();
        hold.filter(|hold| hold.retry_at > now || left_to_another)
    }

    /// Everyone waits. What the instance itself asked for stands, whatever else fails meanwhile; this
    /// was the last request that met it.
    pub(super) fn hold(&mut self, met: SharedFailure) {
        let asked_for = self
            .hold
            .take()
            .filter(|old| old.failure.class() == Class::Held && old.retry_at > met.retry_at);
        self.hold = Some(match asked_for {
            Some(old) => SharedFailure {
                sent_at: met.sent_at,
                at: met.at,
                ..old
            },
            None => met,
        });
    }

    /// A resource sleeps over the hold. Its token, if it has one, ends at `expires_at`.
    pub(super) fn tell(&mut self, name: &Name, expires_at: Option<Timestamp>, now: Timestamp) {
        let Some(hold) = &mut self.hold else {
            return;
        };
        self.told.insert(name.clone(), expires_at);
        if hold.failure.class() == Class::Outage {
            hold.retry_at = hold.retry_for(expires_at, now);
        }
    }

    /// A resource has looked, and asks for nothing: if it was called to probe, another is.
    pub(super) fn has_looked(&mut self, name: &Name, sleeps: bool, now: Timestamp) {
        if !sleeps {
            self.told.remove(name);
        }
        if let Some((called, at)) = &mut self.called
            && called == name
        {
            *at = plus(now, BETWEEN_CALLS - CALL_LASTS);
        }
    }

    /// A resource is gone.
    pub(super) fn leave(&mut self, name: &Name) {
        self.told.remove(name);
        self.called.take_if(|(called, _)| called == name);
    }

    /// The key whose request goes out now: so many at most are under way at once, and one probe at a
    /// time where the origin is down, or may be.
    pub(super) fn next(&mut self, limit: usize, now: Timestamp) -> Option<Arc<SharingKey>> {
        let held = self.hold.as_ref().is_some_and(|hold| hold.retry_at > now);
        let probes = self.hold.is_some() || self.suspected;
        let limit = if probes { 1 } else { limit };
        let has_room = self.under_way < limit;
        let key = has_room.then(|| self.line.next(now, held))??;
        self.under_way += 1;
        Some(key)
    }

    /// A request has ended.
    pub(super) fn is_answered(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.asked_at = None;
        self.called = None;
    }

    /// What is known was told by a clock that has been set back. The line is empty afterwards, and
    /// joined anew.
    pub(super) fn clock_set_back(&mut self, by: SignedDuration) {
        self.line = Line::default();
        back(&mut self.asked_at, by);
        if let Some((_, at)) = &mut self.called {
            *at -= by;
        }
        if let Some(hold) = &mut self.hold {
            hold.clock_set_back(by);
        }
    }

    /// Somebody waits here, or how often it failed is worth remembering.
    pub(super) fn is_in_use(&self, now: Timestamp) -> bool {
        let hold = self.hold.as_ref();
        let remembered = hold.is_some_and(|hold| plus(hold.retry_at, LONGEST_WAIT) > now);
        let waits = self.under_way > 0 || !self.line.is_empty() || !self.told.is_empty();
        waits || self.suspected || remembered
    }

    /// The broker itself asks again, if anybody still waits.
    pub(super) fn requeue(
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
    pub(super) fn lift(&mut self, sent_at: Timestamp, success: bool) -> BTreeSet<Name> {
        let over = self.hold.as_ref().is_some_and(|hold| {
            hold.failure.class() != Class::Held
                || sent_at >= hold.retry_at
                || (success && sent_at >= hold.at)
        });
        if !over {
            return BTreeSet::new();
        }
        self.hold = None;
        self.called = None;
        std::mem::take(&mut self.told).into_keys().collect()
    }

    /// From when on a resource, or anybody, may probe, as far as others have begun to; `None` where
    /// nobody has.
    fn free_for(&self, name: Option<&Name>) -> Option<Timestamp> {
        let asked = self.asked_at.map(|at| plus(at, PROBE_ENDS_WITHIN));
        let called = self.called.as_ref().filter(|(who, _)| Some(who) != name);
        asked.max(called.map(|(_, at)| plus(*at, CALL_LASTS)))
    }

    /// When one of those who sleep is to be called; `None` while somebody probes, or nobody sleeps.
    pub(super) fn calls_at(&self) -> Option<Timestamp> {
        let hold = self.hold.as_ref()?;
        let calls = self.under_way == 0 && !self.told.is_empty();
        calls.then(|| self.free_for(None).max(Some(hold.retry_at)))?
    }

    /// Wakes the one whose token ends nearest to now. It asks, sleeps again, or needs nothing.
    pub(super) fn call(&mut self, now: Timestamp) -> Option<Name> {
        let distance = |expiry: &Option<Timestamp>| {
            expiry.map_or(SignedDuration::MAX, |at| at.duration_since(now).abs())
        };
        let nearest = self.told.iter().min_by_key(|(_, expiry)| distance(expiry));
        let name = nearest?.0.clone();
        self.told.remove(&name);
        self.called = Some((name.clone(), now));
        Some(name)
    }
}
