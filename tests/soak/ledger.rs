//! What was seen in the Secrets, what was asked of the instances, what was down meanwhile, and what
//! follows from these three. No I/O.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::outage::{AskedAgain, Outage, Window};

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

/// A token request, as the instance saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Timestamp,
    /// None while it is not answered.
    pub(crate) status: Option<u16>,
    /// Whether a fault left no right answer.
    pub(crate) spoiled: bool,
}

impl Asked {
    /// Whether it was answered with a token that can be used.
    pub(crate) fn is_good(&self) -> bool {
        self.status == Some(200) && !self.spoiled
    }
}

/// A client's secret was changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

/// A time in which a Secret held an expired token.
#[derive(Clone, Debug)]
pub(crate) struct Stale {
    pub(crate) member: String,
    pub(crate) expired: Timestamp,
    /// Later than the expiry where an expired token was written.
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    /// What kept the operator from renewing it; without one it should have been renewed.
    pub(crate) outage: Option<Outage>,
}

impl Stale {
    pub(crate) fn length(&self) -> SignedDuration {
        self.to.duration_since(self.from)
    }

    /// How long after the last thing was back the Secret was renewed.
    pub(crate) fn after_the_end(&self) -> SignedDuration {
        let back = self.outage.as_ref().map(|outage| outage.to.max(self.from));
        back.map_or(SignedDuration::ZERO, |back| {
            self.to.duration_since(back).max(SignedDuration::ZERO)
        })
    }
}

/// A good answer that need not have been asked for.
#[derive(Clone, Debug)]
pub(crate) struct Extra {
    pub(crate) at: Timestamp,
    pub(crate) why: Why,
    /// The good answers around it, between which its cause must lie.
    pub(crate) after: Timestamp,
    pub(crate) before: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It never came into the Secret, and was asked for again before it was due.
    Unwritten,
    /// It never came into the Secret, and was due when it was asked for again.
    UnwrittenUntilDue,
    /// It came into the Secret sooner after another than renewals may.
    TooSoon,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) versions: BTreeMap<String, Vec<Version>>,
    pub(crate) asked: BTreeMap<String, Vec<Asked>>,
    pub(crate) windows: Vec<Window>,
    pub(crate) rotated: BTreeMap<String, Vec<Rotation>>,
    /// What `Ready` was, each time that it changed.
    pub(crate) ready: BTreeMap<String, Vec<(Timestamp, String)>>,
}

impl Ledger {
    /// Writes down what a Secret holds now, unless that is known.
    pub(crate) fn see(&mut self, member: &str, seen: Timestamp, held: Option<Held>) {
        let versions = self.versions.entry(member.to_owned()).or_default();
        if versions.last().is_none_or(|last| last.held != held) {
            versions.push(Version { seen, held });
        }
    }

    /// Writes down what `Ready` is now, unless that is known.
    pub(crate) fn see_ready(&mut self, member: &str, seen: Timestamp, status: String) {
        let changes = self.ready.entry(member.to_owned()).or_default();
        if changes.last().is_none_or(|(_, last)| *last != status) {
            changes.push((seen, status));
        }
    }

    /// When a member's Secret was seen to hold a new token or a moved expiry. What is put back after
    /// a deletion is neither.
    fn written(&self, member: &str) -> Vec<Timestamp> {
        let versions = self.versions.get(member).into_iter().flatten();
        let mut held: Vec<_> = versions
            .filter_map(|version| Some((version.seen, version.held.as_ref()?)))
            .collect();
        held.dedup_by_key(|(_, held)| *held);
        held.into_iter().map(|(seen, _)| seen).collect()
    }

    /// New tokens and moved expiries, of all members.
    pub(crate) fn renewals(&self) -> usize {
        let members = self.versions.keys();
        members.map(|member| self.written(member).len()).sum()
    }

    fn concerning(&self, member: &str, instance: usize) -> impl Iterator<Item = &Window> {
        let windows = self.windows.iter();
        windows.filter(move |window| window.whom.concerns(member, instance))
    }

    /// Whether something that this member needs was down.
    pub(crate) fn is_down(&self, member: &str, instance: usize, at: Timestamp) -> bool {
        self.concerning(member, instance)
            .any(|window| window.touches(at, at))
    }

    /// Every time that a Secret held an expired token, until `end`.
    pub(crate) fn stale(&self, instance_of: impl Fn(&str) -> usize, end: Timestamp) -> Vec<Stale> {
        let mut all = Vec::new();
        for (member, versions) in &self.versions {
            let outages = Outage::of(self.concerning(member, instance_of(member)));
            let ends = versions[1..].iter().map(|next| next.seen).chain([end]);
            for (version, to) in versions.iter().zip(ends) {
                let Some(held) = &version.held else { continue };
                let expired = held.expires_at;
                let from = expired.max(version.seen);
                if from < to {
                    all.push(Stale {
                        member: member.clone(),
                        expired,
                        from,
                        to,
                        outage: excuse(&outages, expired, to),
                    });
                }
            }
        }
        all
    }

    /// Good answers that need not have been asked for: they never came into the Secret, or did so
    /// sooner after another than `least`.
    pub(crate) fn extra_requests(&self, member: &str, least: SignedDuration) -> Vec<Extra> {
        let asked = self.asked.get(member).into_iter().flatten();
        let good: Vec<_> = asked.filter(|asked| asked.is_good()).collect();
        let written = self.written(member);
        let mut extra = Vec::new();
        let (mut last, mut last_written) = (None, None);
        for pair in good.windows(2) {
            let [at, next] = [pair[0].at, pair[1].at];
            let came = written.iter().any(|seen| at <= *seen && *seen <= next);
            let too_soon = last_written.filter(|last| at.duration_since(*last) < least);
            let found = |why, after, before| Extra {
                at,
                why,
                after,
                before,
            };
            if came {
                extra.extend(too_soon.map(|last| found(Why::TooSoon, last, at)));
                last_written = Some(at);
            } else if next.duration_since(at) < least {
                extra.push(found(Why::Unwritten, last.unwrap_or(at), next));
            } else {
                extra.push(found(Why::UnwrittenUntilDue, last.unwrap_or(at), next));
            }
            last = Some(at);
        }
        extra
    }

    /// What may have caused it, and when that began.
    pub(crate) fn causes(
        &self,
        member: &str,
        instance: usize,
        extra: &Extra,
    ) -> Vec<(Timestamp, &str)> {
        let explains = |window: &&Window| {
            let after_it = window.touches(extra.at, extra.before);
            match (window.asked_again, extra.why) {
                (AskedAgain::AtOnce, Why::Unwritten | Why::UnwrittenUntilDue)
                | (AskedAgain::WhenDue, Why::UnwrittenUntilDue) => after_it,
                _ => false,
            }
        };
        let windows = self.concerning(member, instance).filter(explains);
        let rotations = self.rotated.get(member).into_iter().flatten();
        let rotations = rotations
            .filter(|rotation| rotation.from <= extra.before && extra.after <= rotation.to);
        windows
            .map(|window| (window.from, window.what.as_str()))
            .chain(rotations.map(|rotation| (rotation.from, "client rotated")))
            .collect()
    }

    /// What was going on around a member, for whoever looks for the reason of something.
    pub(crate) fn account(
        &self,
        member: &str,
        instance: usize,
        from: Timestamp,
        to: Timestamp,
    ) -> String {
        let windows: Vec<_> = self
            .concerning(member, instance)
            .filter(|window| window.touches(from, to))
            .collect();
        let asked = self.asked.get(member).into_iter().flatten();
        let asked: Vec<_> = asked
            .filter(|asked| from <= asked.at && asked.at <= to)
            .collect();
        let written = self.written(member);
        let written: Vec<_> = written
            .iter()
            .filter(|seen| from <= **seen && **seen <= to)
            .collect();
        let rotated = self.rotated.get(member);
        format!(
            "down: {windows:#?}\nasked: {asked:#?}\nwritten: {written:#?}\nrotated: {rotated:?}"
        )
    }
}

/// The outage that kept a token from being renewed until `to`, where there was one.
fn excuse(outages: &[Outage], expired: Timestamp, to: Timestamp) -> Option<Outage> {
    let mut outages = outages.iter();
    outages.find(|outage| outage.excuses(expired, to)).cloned()
}
