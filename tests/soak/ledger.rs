//! What was seen in the Secrets, what was asked of the instances, what was down meanwhile, and what
//! follows from these three. No I/O.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// How long after the end of what was down a Secret may still wait to be renewed, at most: an outage
/// that nears an expiry is probed every two seconds, then the whole fleet is due at once.
const RECOVERY: SignedDuration = SignedDuration::from_secs(5);
/// And no longer than it was down, and this.
const NOTICED: SignedDuration = SignedDuration::from_secs(2);

/// A Secret's content from the moment it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) seen: Timestamp,
    /// `None` where the Secret was seen to be gone.
    pub(crate) held: Option<Held>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) token: String,
    /// By the annotation, which is never later than the truth.
    pub(crate) expires_at: Timestamp,
}

/// A time in which somebody could not work.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) what: String,
    /// The instance that it concerns, or everybody.
    pub(crate) instance: Option<usize>,
    /// Each client waits it out alone, and not the whole origin.
    pub(crate) by_client: bool,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

impl Window {
    /// Until when it may still be the cause of an expired token.
    fn recovered(&self) -> Timestamp {
        let was_down = self.to.duration_since(self.from);
        self.to + RECOVERY.min(was_down + NOTICED)
    }

    fn concerns(&self, instance: usize) -> bool {
        self.instance.is_none_or(|one| one == instance)
    }
}

/// A token request, as the instance saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Timestamp,
    /// None while it is not answered.
    pub(crate) status: Option<u16>,
}

/// A time in which a Secret held an expired token.
#[derive(Clone, Debug)]
pub(crate) struct Stale {
    pub(crate) member: String,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    /// For how much of it nothing was down, or recovering from that.
    pub(crate) unexcused: SignedDuration,
    /// How long after the last thing was back the Secret was renewed.
    pub(crate) after_the_end: SignedDuration,
}

impl Stale {
    pub(crate) fn length(&self) -> SignedDuration {
        self.to.duration_since(self.from)
    }
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) versions: BTreeMap<String, Vec<Version>>,
    pub(crate) asked: BTreeMap<String, Vec<Asked>>,
    pub(crate) windows: Vec<Window>,
    /// Moments at which one member was disturbed on purpose: a rotation, a deletion.
    pub(crate) disturbed: BTreeMap<String, Vec<Timestamp>>,
}

impl Ledger {
    /// Writes down what a Secret holds now, unless that is known.
    pub(crate) fn see(&mut self, member: &str, seen: Timestamp, held: Option<Held>) {
        let versions = self.versions.entry(member.to_owned()).or_default();
        if versions.last().is_none_or(|last| last.held != held) {
            versions.push(Version { seen, held });
        }
    }

    /// New tokens and moved expiries, of all members.
    pub(crate) fn renewals(&self) -> usize {
        let of_one = |versions: &Vec<Version>| {
            let mut held: Vec<_> = versions.iter().filter_map(|v| v.held.as_ref()).collect();
            // Put back after a deletion, it is no renewal.
            held.dedup();
            held.len()
        };
        self.versions.values().map(of_one).sum()
    }

    /// Every time that a Secret held an expired token, until `end`.
    pub(crate) fn stale(&self, instance_of: impl Fn(&str) -> usize, end: Timestamp) -> Vec<Stale> {
        let mut all = Vec::new();
        for (member, versions) in &self.versions {
            let ends = versions[1..].iter().map(|next| next.seen).chain([end]);
            for (version, to) in versions.iter().zip(ends) {
                let Some(held) = &version.held else { continue };
                let from = held.expires_at.max(version.seen);
                if from < to {
                    all.push(self.judged(member, instance_of(member), from, to));
                }
            }
        }
        all
    }

    fn judged(&self, member: &str, instance: usize, from: Timestamp, to: Timestamp) -> Stale {
        let down = |window: &&Window| {
            window.concerns(instance) && window.from < to && from < window.recovered()
        };
        let mut windows: Vec<_> = self.windows.iter().filter(down).collect();
        windows.sort_by_key(|window| window.from);
        let mut unexcused = SignedDuration::ZERO;
        let mut reached = from;
        for window in &windows {
            if window.from > reached {
                unexcused += window.from.duration_since(reached);
            }
            reached = reached.max(window.recovered());
        }
        if reached < to {
            unexcused += to.duration_since(reached);
        }
        let back = windows.iter().map(|window| window.to).max();
        Stale {
            member: member.to_owned(),
            from,
            to,
            unexcused,
            after_the_end: back.map_or(SignedDuration::ZERO, |back| {
                to.duration_since(back.max(from)).max(SignedDuration::ZERO)
            }),
        }
    }

    /// Pairs of good answers of which the second was one too many: the first had not come into the
    /// Secret yet, or was younger than the least interval between two renewals.
    pub(crate) fn extra_requests(
        &self,
        member: &str,
        instance: usize,
        least: SignedDuration,
    ) -> Vec<[Timestamp; 2]> {
        let (Some(asked), Some(versions)) = (self.asked.get(member), self.versions.get(member))
        else {
            return Vec::new();
        };
        // An answer that cannot be used may have this status, too.
        let bad = |at: Timestamp| {
            let of_it = |window: &&Window| window.instance == Some(instance);
            let mut windows = self.windows.iter().filter(of_it);
            windows.any(|window| window.from <= at && at <= window.to)
        };
        let good: Vec<_> = asked
            .iter()
            .filter(|asked| asked.status == Some(200) && !bad(asked.at))
            .collect();
        let written = |from: Timestamp, to: Timestamp| {
            let within = |version: &Version| from <= version.seen && version.seen <= to;
            versions
                .iter()
                .any(|version| version.held.is_some() && within(version))
        };
        good.iter()
            .zip(good.iter().skip(1))
            .map(|(one, next)| [one.at, next.at])
            .filter(|&[one, next]| next.duration_since(one) < least || !written(one, next))
            .collect()
    }

    /// What was going on around a member between two moments, and when it began.
    pub(crate) fn disturbances(
        &self,
        member: &str,
        instance: usize,
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<(Timestamp, &str)> {
        let touches =
            |window: &&Window| window.concerns(instance) && window.from <= to && from <= window.to;
        let windows = self.windows.iter().filter(touches);
        let of_itself = self.disturbed.get(member).into_iter().flatten();
        let of_itself = of_itself.filter(|at| from <= **at && **at <= to);
        windows
            .map(|window| (window.from, window.what.as_str()))
            .chain(of_itself.map(|at| (*at, "rotated")))
            .collect()
    }
}
