//! How long to wait after a failure. Exponential, with jitter that only shortens the wait.

use jiff::{SignedDuration, Timestamp};

use super::{failure::Class, renewal::plus};
use crate::micro_time;

const SECOND: SignedDuration = SignedDuration::from_secs(1);
const REFUSED_FIRST: SignedDuration = SignedDuration::from_secs(30);
const OUTAGE_LONGEST: SignedDuration = SignedDuration::from_secs(60);
/// No wait is longer, whatever its cause.
pub(crate) const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(3600);

/// What a wait is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// How the failure is waited out.
    pub class: Class,
    /// Failures in a row, this one included; at least 1.
    pub count: u32,
    /// The wait that the instance asked for.
    pub retry_after: Option<SignedDuration>,
    /// When the token at stake expires; `None` while there is none.
    pub expires_at: Option<Timestamp>,
    /// One draw from `[0, 1)`.
    pub random: f64,
}

/// When to try again; `None` where only a change in the cluster helps. A local cause waits only
/// where the failure itself says so.
pub fn retry_at(attempt: &Attempt, now: Timestamp) -> Option<Timestamp> {
    let wait = match attempt.class {
        Class::Local => attempt.retry_after?,
        Class::Refused => jittered(
            doubled(REFUSED_FIRST, attempt.count, LONGEST_WAIT),
            attempt.random,
        ),
        Class::Outage | Class::Unacceptable | Class::Cluster => {
            let longest = near_expiry(attempt.expires_at, now);
            jittered(doubled(SECOND, attempt.count, longest), attempt.random)
        }
        // What the instance asked for is a minimum, so nothing is taken off.
        Class::Held => attempt
            .retry_after
            .unwrap_or_else(|| doubled(REFUSED_FIRST, attempt.count, LONGEST_WAIT))
            .clamp(SECOND, LONGEST_WAIT),
    };
    // As a status keeps it: a timer set by the one is not early by the other.
    Some(micro_time(plus(now, wait)).0)
}

/// The longest wait during an outage: a tenth of the time to (or since) the expiry, so that a
/// recovery is noticed within seconds where seconds count, and within a minute elsewhere.
fn near_expiry(expires_at: Option<Timestamp>, now: Timestamp) -> SignedDuration {
    match expires_at {
        None => OUTAGE_LONGEST,
        Some(expiry) => (expiry.duration_since(now).abs() / 10).clamp(SECOND * 2, OUTAGE_LONGEST),
    }
}

fn doubled(first: SignedDuration, count: u32, longest: SignedDuration) -> SignedDuration {
    let doublings = count.saturating_sub(1).min(20);
    first
        .checked_mul(1 << doublings)
        .unwrap_or(longest)
        .min(longest)
}

/// Takes up to a fifth off, so that a fleet that failed together does not come back together.
fn jittered(wait: SignedDuration, random: f64) -> SignedDuration {
    wait.mul_f64(1.0 - 0.2 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(class: Class, count: u32, expires_in: Option<i64>) -> Option<SignedDuration> {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let attempt = Attempt {
            class,
            count,
            retry_after: None,
            expires_at: expires_in.map(|s| now + SignedDuration::from_secs(s)),
            random: 0.0,
        };
        retry_at(&attempt, now).map(|at| at.duration_since(now))
    }

    #[test]
    fn refused_credentials_wait_from_half_a_minute_to_an_hour() {
        let waits: Vec<_> = (1..=9)
            .map(|n| wait(Class::Refused, n, None).unwrap().as_secs())
            .collect();
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn refused_credentials_are_asked_about_at_most_ten_times_in_the_first_hour() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let (mut at, mut count) = (now, 0);
        while at.duration_since(now) < SignedDuration::from_hours(1) {
            count += 1;
            let attempt = Attempt {
                class: Class::Refused,
                count,
                retry_after: None,
                expires_at: None,
                random: 0.999,
            };
            at = retry_at(&attempt, at).unwrap();
        }
        assert!(count <= 10, "{count} requests in the first hour");
    }

    #[test]
    fn an_outage_is_probed_from_every_second_to_every_minute() {
        let waits: Vec<_> = (1..=8)
            .map(|n| wait(Class::Outage, n, Some(3600)).unwrap().as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn an_outage_is_probed_within_seconds_where_the_expiry_is_near() {
        assert_eq!(wait(Class::Outage, 10, Some(30)).unwrap().as_secs(), 3);
        assert_eq!(wait(Class::Outage, 10, Some(-30)).unwrap().as_secs(), 3);
    }

    #[test]
    fn a_local_cause_is_not_retried_by_time() {
        assert_eq!(wait(Class::Local, 1, None), None);
    }

    #[test]
    fn a_held_origin_waits_as_long_as_the_instance_asked_and_an_hour_at_most() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (asked, waited) in [(0, 1), (7, 7), (999_999, 3600)] {
            let attempt = Attempt {
                class: Class::Held,
                count: 1,
                retry_after: Some(SignedDuration::from_secs(asked)),
                expires_at: None,
                random: 0.9,
            };
            let at = retry_at(&attempt, now).unwrap();
            assert_eq!(at.duration_since(now).as_secs(), waited);
        }
        assert_eq!(wait(Class::Held, 1, None).unwrap().as_secs(), 30);
        assert_eq!(wait(Class::Held, 3, None).unwrap().as_secs(), 120);
    }
}
