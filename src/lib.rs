//! Keeps a valid ServiceNow OAuth bearer token in a Kubernetes Secret, renewed before it expires.
//!
//! # The map of the house
//!
//! Data moves one way, observe → decide → act:
//!
//! | module | what it is for | what it may not do |
//! |---|---|---|
//! | [`api`] | the `ServiceNowCredential` resource, its schema and admission rules | any I/O |
//! | [`decide`] | from what was observed and the time, the next step | I/O, clock, randomness |
//! | [`servicenow`] | the token endpoint, what its answers mean, the broker that shares them | Kubernetes |
//! | [`kubernetes`] | caches and reads, and act: writes and events | decide anything |
//! | [`controller`] | the wiring: watches → queue → observe → decide → act → wake | decide anything |
//! | [`telemetry`] | logs, metrics, the HTTP endpoints | see a secret |
//! | [`cli`] | the command line | be called by the rest |
//!
//! A wake of a resource (a watch event, a timer, an answer of an instance) leads to one reconcile:
//! [`decide::decide`] is asked for the next step until it settles. Only [`kubernetes`] writes.

pub mod api;
pub mod cli;
pub mod controller;
pub mod decide;
pub mod kubernetes;
mod redact;
pub mod servicenow;
pub mod telemetry;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// The field manager of every write, and the value of `app.kubernetes.io/managed-by`.
pub const FIELD_MANAGER: &str = "servicenow-credential-operator";

/// The annotation that asks for a renewal: any new value asks for one.
pub const RENEW_REQUESTED_AT: &str = "snowcred.dev/renew-requested-at";

/// Tells the time. Everything that depends on it is given a clock, so that tests have their own.
pub trait Clock: Send + Sync {
    /// Now, in the precision that a status keeps: microseconds.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        micro_time(Timestamp::now()).0
    }
}

/// A time as a status keeps it: whole microseconds, rounded down.
pub(crate) fn micro_time(at: Timestamp) -> MicroTime {
    let parts = at.subsec_nanosecond().rem_euclid(1_000);
    MicroTime(at - SignedDuration::from_nanos(parts.into()))
}

/// Bytes in lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half & 0xf)]);
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        digits.push(digit(byte >> 4));
        digits.push(digit(*byte));
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_kept_in_whole_microseconds_rounded_down_before_1970_too() {
        let kept = |nanosecond| {
            let at = Timestamp::from_nanosecond(nanosecond).unwrap();
            micro_time(at).0.as_nanosecond()
        };
        let times = [1_999, 2_000, 1_000_000_001, 0, -1, -1_000, -1_001];
        let down = [1_000, 2_000, 1_000_000_000, 0, -1_000, -1_000, -2_000];
        assert_eq!(times.map(kept), down);
        for end in [Timestamp::MIN, Timestamp::MAX] {
            assert!(micro_time(end).0 <= end);
        }
    }
}
