//! Which replica leads, decided from the Lease as it was read and a clock that cannot be set: the
//! algorithm of Kubernetes' own components (client-go, package leaderelection). No I/O.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

/// A Lease that was not renewed for so long is free.
pub(super) const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long leads no more: it stops well before the Lease is free.
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often a leader renews, and a standby looks.
pub(super) const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// One replica's view of the election.
pub(super) struct Election {
    identity: String,
    /// The Lease as it was last seen to change, and when. How old it is by its own times says
    /// nothing: they are another machine's.
    seen: Option<(Option<LeaseSpec>, Instant)>,
}

/// What a Lease that was read means for this replica.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing {
    /// The Lease is free: this is how it is taken.
    Free(LeaseSpec),
    /// It is this replica's: this is how it is renewed.
    Ours(LeaseSpec),
    /// Another replica holds it.
    Held {
        /// Its identity.
        by: String,
    },
}

impl Election {
    pub(super) fn new(identity: String) -> Self {
        Self {
            identity,
            seen: None,
        }
    }

    /// Judges a Lease that was read or seen by a watch; `None` where there is none.
    pub(super) fn judge(
        &mut self,
        lease: Option<&Lease>,
        now: Instant,
        wall: Timestamp,
    ) -> Standing {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let changed_at = match &self.seen {
            Some((seen, at)) if seen.as_ref() == spec => *at,
            _ => {
                self.seen = Some((spec.cloned(), now));
                now
            }
        };
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        let holder = holder.filter(|holder| !holder.is_empty());
        if holder == Some(&*self.identity) {
            return Standing::Ours(LeaseSpec {
                // Whatever somebody may have made of it: it is what the fence goes by.
                lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
                renew_time: Some(MicroTime(wall)),
                ..spec.cloned().unwrap_or_default()
            });
        }
        let duration = spec.and_then(|spec| spec.lease_duration_seconds);
        let duration = duration.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = duration.map_or(LEASE_DURATION, Duration::from_secs);
        match holder {
            Some(by) if now < changed_at + duration => Standing::Held { by: by.to_owned() },
            _ => Standing::Free(self.taken(spec, wall)),
        }
    }

    fn taken(&self, spec: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let before = spec.and_then(|spec| spec.lease_transitions);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: Some(MicroTime(wall)),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(before.map_or(0, |before| before.saturating_add(1))),
            ..LeaseSpec::default()
        }
    }
}

/// A Lease that its holder gives back: whoever waits may take it at once.
pub(super) fn given_back(spec: LeaseSpec, wall: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(MicroTime(wall)),
        renew_time: Some(MicroTime(wall)),
        ..spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn lease(spec: LeaseSpec) -> Lease {
        Lease {
            spec: Some(spec),
            ..Lease::default()
        }
    }

    fn taken(standing: Standing) -> LeaseSpec {
        match standing {
            Standing::Free(spec) => spec,
            other => panic!("it is not free: {other:?}"),
        }
    }

    fn held_by(by: &str) -> Standing {
        Standing::Held { by: by.to_owned() }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_that_does_not_exist_is_free() {
        let mut a = Election::new("a".to_owned());
        let spec = taken(a.judge(None, Instant::now(), wall(0)));
        assert_eq!(
            spec,
            LeaseSpec {
                holder_identity: Some("a".to_owned()),
                lease_duration_seconds: Some(15),
                acquire_time: Some(MicroTime(wall(0))),
                renew_time: Some(MicroTime(wall(0))),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }
        );
    }

    #[test]
    fn a_lease_is_free_when_it_has_not_changed_for_its_duration_whatever_its_own_times_say() {
        let now = Instant::now();
        let (mut a, mut b) = (Election::new("a".to_owned()), Election::new("b".to_owned()));
        // The clock of the other machine is a year behind.
        let theirs = lease(taken(a.judge(None, now, wall(-31_536_000))));
        assert_eq!(b.judge(Some(&theirs), now, wall(0)), held_by("a"));
        let just_before = now + seconds(15) - Duration::from_millis(1);
        assert_eq!(b.judge(Some(&theirs), just_before, wall(0)), held_by("a"));
        let spec = taken(b.judge(Some(&theirs), now + seconds(15), wall(15)));
        assert_eq!(spec.holder_identity.as_deref(), Some("b"));
        assert_eq!(spec.lease_transitions, Some(1));
        assert_eq!(spec.acquire_time, Some(MicroTime(wall(15))));
    }

    #[test]
    fn each_renewal_that_is_seen_holds_the_lease_for_its_whole_duration() {
        let now = Instant::now();
        let (mut a, mut b) = (Election::new("a".to_owned()), Election::new("b".to_owned()));
        let first = lease(taken(a.judge(None, now, wall(0))));
        b.judge(Some(&first), now, wall(0));
        let Standing::Ours(renewed) = a.judge(Some(&first), now + seconds(14), wall(14)) else {
            panic!("it is a's own");
        };
        assert_eq!(renewed.acquire_time, Some(MicroTime(wall(0))));
        assert_eq!(renewed.renew_time, Some(MicroTime(wall(14))));
        let renewed = lease(renewed);
        let later = now + seconds(14);
        assert_eq!(b.judge(Some(&renewed), later, wall(14)), held_by("a"));
        let later = now + seconds(28);
        assert_eq!(b.judge(Some(&renewed), later, wall(28)), held_by("a"));
    }

    #[test]
    fn a_duration_that_somebody_shortened_is_set_right_by_the_next_renewal() {
        let now = Instant::now();
        let mut a = Election::new("a".to_owned());
        let taken = taken(a.judge(None, now, wall(0)));
        let shortened = lease(LeaseSpec {
            lease_duration_seconds: Some(1),
            ..taken.clone()
        });
        let renewed = LeaseSpec {
            renew_time: Some(MicroTime(wall(2))),
            ..taken
        };
        assert_eq!(
            a.judge(Some(&shortened), now, wall(2)),
            Standing::Ours(renewed)
        );
    }

    #[test]
    fn a_lease_that_was_given_back_is_free_at_once() {
        let now = Instant::now();
        let mut b = Election::new("b".to_owned());
        let mut a = Election::new("a".to_owned());
        let spec = taken(a.judge(None, now, wall(0)));
        let back = lease(given_back(spec, wall(5)));
        let spec = taken(b.judge(Some(&back), now, wall(5)));
        assert_eq!(spec.lease_transitions, Some(1));
    }
}
