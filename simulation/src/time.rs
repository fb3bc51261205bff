//! True time, in microseconds since the run began, and the clocks that tell it.

use jiff::{SignedDuration, Timestamp};

/// True time, and spans of it, in microseconds. Instances and promises go by it.
pub type Micros = i64;

/// A second of true time.
pub const SECOND: Micros = 1_000_000;
/// A minute of true time.
pub const MINUTE: Micros = 60 * SECOND;
/// An hour of true time.
pub const HOUR: Micros = 60 * MINUTE;
/// A day of true time.
pub const DAY: Micros = 24 * HOUR;

/// When every run begins, in seconds since 1970.
const BEGINNING: i64 = 1_800_000_000;

/// What a clock tells that is ahead of true time by `offset`.
pub fn wall(at: Micros, offset: Micros) -> Timestamp {
    Timestamp::from_microsecond(BEGINNING * SECOND + at + offset).unwrap_or(Timestamp::MAX)
}

/// The true time at which that clock tells this moment.
pub fn true_time(at: Timestamp, offset: Micros) -> Micros {
    at.as_microsecond() - BEGINNING * SECOND - offset
}

/// A span as durations have it.
pub fn span(micros: Micros) -> SignedDuration {
    SignedDuration::from_micros(micros)
}
