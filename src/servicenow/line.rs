//! The line at one origin: the keys whose request is still to be sent, those that may go now in the
//! order in which they go, and those that may go later by the moment.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{exchange::Urgency, key::SharingKey};
use crate::decide::renewal::plus;

/// A request that is known so long before its moment is prepared: its connection is opened.
pub(super) const LEAD: SignedDuration = SignedDuration::from_secs(2);

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    pub(super) urgency: Urgency,
    pub(super) since: Timestamp,
    pub(super) not_before: Timestamp,
    pub(super) forced: bool,
    /// The broker itself sends it again: whoever asks meanwhile does not hasten it.
    pub(super) again: bool,
}

struct Entry {
    key: Arc<SharingKey>,
    queued: Queued,
    prepared: bool,
}

/// The line. A key stands in it once, by the number that it was given.
#[derive(Default)]
pub(super) struct Line {
    ready: BTreeMap<(Urgency, Timestamp, u64), Entry>,
    later: BTreeMap<(Timestamp, u64), Entry>,
}

impl Line {
    /// Takes a key into the line.
    pub(super) fn join(&mut self, key: Arc<SharingKey>, number: u64, queued: Queued) {
        let entry = Entry {
            key,
            queued,
            prepared: false,
        };
        self.later.insert((queued.not_before, number), entry);
    }

    /// Takes a key out of the line.
    pub(super) fn leave(&mut self, number: u64, queued: Queued) {
        self.later.remove(&(queued.not_before, number));
        self.ready.remove(&(queued.urgency, queued.since, number));
    }

    /// The next key to send; under a hold only one that a person asked for.
    pub(super) fn next(&mut self, now: Timestamp, held: bool) -> Option<Arc<SharingKey>> {
        while let Some(entry) = self.later.first_entry() {
            let (not_before, number) = *entry.key();
            if not_before > now {
                break;
            }
            let entry = entry.remove();
            let queued = entry.queued;
            self.ready
                .insert((queued.urgency, queued.since, number), entry);
        }
        let mut going = self.ready.iter();
        let (place, _) = going.find(|(_, entry)| !held || entry.queued.forced)?;
        let place = *place;
        self.ready.remove(&place).map(|entry| entry.key)
    }

    /// The keys whose moment is near, each once, and of them no more than there is `room` for. Who
    /// could go by now waits for nothing but room.
    pub(super) fn prepare(&mut self, now: Timestamp, room: usize) -> Vec<Arc<SharingKey>> {
        if self.later.is_empty() {
            return Vec::new();
        }
        let last = |at| (at, u64::MAX);
        let near = (Excluded(last(now)), Included(last(plus(now, LEAD))));
        let near = self.later.range_mut(near).take(room);
        let unprepared = near.filter(|(_, entry)| !entry.prepared);
        let prepared = unprepared.map(|(_, entry)| {
            entry.prepared = true;
            entry.key.clone()
        });
        prepared.collect()
    }

    /// When somebody may go, or is to be prepared, after now.
    pub(super) fn opens(&self, now: Timestamp) -> Option<Timestamp> {
        let go = self.later.keys().map(|(at, _)| *at).find(|at| *at > now);
        let unprepared = self.later.iter().filter(|(_, entry)| !entry.prepared);
        let mut prepare = unprepared.map(|((at, _), _)| *at - LEAD);
        [go, prepare.find(|at| *at > now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Nobody stands in it.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.later.is_empty()
    }

    /// Somebody could go now.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}
