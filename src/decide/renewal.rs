//! When a token is renewed, computed from its real lifetime.

use jiff::{SignedDuration, Timestamp};

/// How much of a token's lifetime shall be left when it is renewed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Margin {
    /// A third of the lifetime.
    Default,
    /// A fixed time.
    Before(SignedDuration),
    /// A share of the lifetime in percent.
    Percentage(i32),
}

/// A token's validity: from the moment its request was sent to its expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The moment the request was sent: the earliest moment the instance may have counted from.
    pub issued_at: Timestamp,
    /// `issued_at` plus `expires_in` (RFC 6749, section 5.1).
    pub expires_at: Timestamp,
}

impl Validity {
    /// The whole lifetime.
    pub fn lifetime(&self) -> SignedDuration {
        self.expires_at
            .duration_since(self.issued_at)
            .max(SignedDuration::ZERO)
    }

    /// It was told by a clock that was ahead of this one.
    pub fn is_from_the_future(&self, now: Timestamp) -> bool {
        self.issued_at > plus(now, CLOCKS_DIFFER)
    }

    /// The same validity, told by a clock that has been set back by this much.
    pub fn set_back(self, by: SignedDuration) -> Self {
        Self {
            issued_at: self.issued_at - by,
            expires_at: self.expires_at - by,
        }
    }
}

/// The clocks of two nodes may differ by this much.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(2);

/// A token that is kept until it expires is looked after so long before: the client Secret is read
/// and the connection opened by then.
const PREPARED_BEFORE: SignedDuration = SignedDuration::from_secs(2);

/// When a token of this validity is looked after that is kept until it expires.
pub fn prepared_from(validity: Validity) -> Timestamp {
    validity.expires_at - PREPARED_BEFORE.min(validity.lifetime() / 4)
}

/// A moment later by this much; the end of time where there is none, for times that somebody else
/// wrote.
pub fn plus(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// A margin as it applies to one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effective {
    /// How much of the lifetime is left at the latest renewal.
    pub margin: SignedDuration,
    /// The wanted margin was outside 10–80 % of the lifetime.
    pub clamped: bool,
}

/// The margin wanted, brought into 10–80 % of the real lifetime.
pub fn effective(margin: Margin, lifetime: SignedDuration) -> Effective {
    let wanted = match margin {
        Margin::Default => lifetime / 3,
        Margin::Before(before) => before,
        Margin::Percentage(percent) => lifetime / 100 * percent,
    };
    let (least, most) = (lifetime / 10, lifetime / 5 * 4);
    let margin = wanted.clamp(least, most.max(least));
    Effective {
        margin,
        clamped: margin != wanted,
    }
}

/// The latest moment of renewal: when the margin is left.
pub fn latest(validity: Validity, margin: Margin) -> Timestamp {
    validity.expires_at - effective(margin, validity.lifetime()).margin
}

/// The moment of renewal: the latest one, moved earlier by up to a tenth of the lifetime
/// (`random` from `[0, 1)`), but not before the least interval between two renewals.
pub fn renewal_time(
    validity: Validity,
    margin: Margin,
    min_interval: SignedDuration,
    random: f64,
) -> Timestamp {
    let earlier = validity.lifetime().mul_f64(0.1 * random.clamp(0.0, 1.0));
    (latest(validity, margin) - earlier).max(next_allowed(validity, min_interval))
}

/// Whether a renewal time could have been drawn for this margin: it is kept as long as it could.
pub fn still_fits(
    renewal_time: Timestamp,
    validity: Validity,
    margin: Margin,
    min_interval: SignedDuration,
) -> bool {
    let latest = latest(validity, margin);
    let earliest = latest - validity.lifetime() / 10;
    let latest = latest.max(next_allowed(validity, min_interval));
    // Times are stored in microseconds.
    let rounding = SignedDuration::from_micros(2);
    (earliest - rounding..=latest + rounding).contains(&renewal_time)
}

/// The first moment at which the same client may be asked again after a success: the smaller of
/// the least interval and half the lifetime.
pub fn next_allowed(validity: Validity, min_interval: SignedDuration) -> Timestamp {
    validity.issued_at + min_interval.min(validity.lifetime() / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn validity(lifetime_ms: i64) -> Validity {
        let issued_at = Timestamp::from_second(1_700_000_000).unwrap();
        Validity {
            issued_at,
            expires_at: issued_at + SignedDuration::from_millis(lifetime_ms),
        }
    }

    fn margins() -> impl Strategy<Value = Margin> {
        prop_oneof![
            Just(Margin::Default),
            (10..=80).prop_map(Margin::Percentage),
            (1i64..1_000_000_000_000)
                .prop_map(|ms| Margin::Before(SignedDuration::from_millis(ms))),
        ]
    }

    const TEN_YEARS_MS: i64 = 10 * 365 * 86_400 * 1000;

    proptest! {
        #[test]
        fn renewal_is_never_after_the_expiry_nor_before_the_request(
            lifetime in 1000i64..TEN_YEARS_MS, margin in margins(), random in 0.0f64..1.0,
            min_interval in 0i64..3_600_000,
        ) {
            let v = validity(lifetime);
            let at = renewal_time(v, margin, SignedDuration::from_millis(min_interval), random);
            prop_assert!(at < v.expires_at, "{at} is not before {}", v.expires_at);
            prop_assert!(at > v.issued_at);
        }

        #[test]
        fn successful_renewals_are_never_closer_than_the_least_interval_or_half_the_lifetime(
            lifetime in 1000i64..TEN_YEARS_MS, margin in margins(), random in 0.0f64..1.0,
            min_interval in 0i64..3_600_000,
        ) {
            let v = validity(lifetime);
            let interval = SignedDuration::from_millis(min_interval);
            let at = renewal_time(v, margin, interval, random);
            prop_assert!(at.duration_since(v.issued_at) >= interval.min(v.lifetime() / 2));
        }

        #[test]
        fn jitter_moves_a_renewal_earlier_only_and_by_a_tenth_at_most(
            lifetime in 1000i64..TEN_YEARS_MS, margin in margins(), random in 0.0f64..1.0,
        ) {
            let v = validity(lifetime);
            let without = renewal_time(v, margin, SignedDuration::ZERO, 0.0);
            let with = renewal_time(v, margin, SignedDuration::ZERO, random);
            prop_assert!(with <= without);
            prop_assert!(without.duration_since(with) <= v.lifetime().mul_f64(0.1));
        }

        #[test]
        fn the_margin_stays_between_a_tenth_and_eight_tenths_of_the_lifetime(
            lifetime in 1000i64..TEN_YEARS_MS, margin in margins(),
        ) {
            let whole = validity(lifetime).lifetime();
            let share = effective(margin, whole).margin.as_secs_f64() / whole.as_secs_f64();
            prop_assert!((0.0999..=0.8001).contains(&share), "{share}");
        }

        #[test]
        fn a_drawn_time_is_kept_while_the_margin_stays(
            lifetime in 1000i64..TEN_YEARS_MS, margin in margins(), random in 0.0f64..1.0,
            min_interval in 0i64..3_600_000,
        ) {
            let (v, interval) = (validity(lifetime), SignedDuration::from_millis(min_interval));
            prop_assert!(still_fits(renewal_time(v, margin, interval, random), v, margin, interval));
        }
    }

    #[test]
    fn a_third_of_the_lifetime_is_left_by_default() {
        let v = validity(1_800_000);
        let at = renewal_time(v, Margin::Default, SignedDuration::from_secs(5), 0.0);
        assert_eq!(v.expires_at.duration_since(at).as_secs(), 600);
    }

    #[test]
    fn a_margin_longer_than_the_lifetime_is_clamped_and_said_to_be() {
        let e = effective(
            Margin::Before(SignedDuration::from_hours(1)),
            SignedDuration::from_secs(100),
        );
        assert_eq!(
            e,
            Effective {
                margin: SignedDuration::from_secs(80),
                clamped: true
            }
        );
    }
}
