//! For how long an instance, or what a client gets from it, is to be left alone after a failure.

use servicenow_credential_operator::decide::{Failure, failure::Class};

use crate::time::{HOUR, MINUTE, Micros, SECOND};

/// An instance that is to be left alone, or a client that is to be left as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alone {
    /// Failures of one kind in a row.
    count: u32,
    /// When the last of them was told.
    since: Micros,
    /// How far away the nearest expiry was then.
    nearest: Micros,
    /// Until when the instance has asked for fewer requests; `None` where it is down.
    limited: Option<Micros>,
}

/// Nobody has asked for so long: how often it failed need not be known any more.
const FORGOTTEN: Micros = HOUR;

impl Alone {
    /// After this failure of a request that was sent then.
    pub(crate) fn after(
        before: Option<Self>,
        failure: &Failure,
        sent: Micros,
        now: Micros,
        nearest: Micros,
    ) -> Self {
        let is_limit = failure.class() == Class::Held;
        let alike = before.filter(|before| before.limited.is_some() == is_limit);
        let count = match alike {
            // Those that were under way together count as one.
            Some(before) if sent < before.since => before.count,
            Some(before) if !before.is_forgotten(now) => before.count + 1,
            // Where the operator waits out the limit before still, it does not count this.
            None if before.is_some() => 0,
            _ => 1,
        };
        let asked = failure.retry_after().map(|after| {
            let asked = Micros::try_from(after.as_micros()).unwrap_or(Micros::MAX);
            asked.clamp(SECOND, HOUR)
        });
        let wait = asked.unwrap_or_else(|| doubled(30 * SECOND, count, HOUR));
        let next = Self {
            count,
            since: now,
            nearest,
            limited: is_limit.then(|| now + wait),
        };
        // What the instance asked for stands, whatever else fails meanwhile.
        let outage_ends = now + (next.until(nearest) - now) * 5 / 4;
        match before {
            Some(before) if before.limited.is_some_and(|until| until > outage_ends) => Self {
                since: now,
                ..before
            },
            _ => next,
        }
    }

    /// When the next request may go out, where the nearest expiry is so far away by now. A fifth is
    /// taken off by jitter, and an outage is probed the more often the nearer an expiry is.
    pub(crate) fn until(&self, nearest: Micros) -> Micros {
        self.limited.unwrap_or_else(|| {
            let longest = (nearest.min(self.nearest) / 10).clamp(2 * SECOND, MINUTE);
            self.since + doubled(SECOND, self.count, longest) * 4 / 5
        })
    }

    /// When it was told last.
    pub(crate) fn since(&self) -> Micros {
        self.since
    }

    /// Nobody could ask for so long that nothing of it need be known any more.
    pub(crate) fn is_forgotten(&self, now: Micros) -> bool {
        now >= self.since + FORGOTTEN
    }

    /// Until when the instance has asked for fewer requests, if it has.
    pub(crate) fn limited(&self) -> Option<Micros> {
        self.limited
    }

    /// How often it failed may be forgotten: whoever knew of it looks elsewhere.
    pub(crate) fn forget_count(&mut self) {
        self.count = 0;
    }

    /// An answer ends an outage. A rate limit is ended by a success that was asked for after it, or
    /// by any answer after its time.
    pub(crate) fn is_ended_by(&self, success: bool, sent: Micros) -> bool {
        self.limited
            .is_none_or(|until| sent >= until || (success && sent >= self.since))
    }
}

fn doubled(first: Micros, count: u32, longest: Micros) -> Micros {
    (first << count.saturating_sub(1).min(20)).min(longest)
}
