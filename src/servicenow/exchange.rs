//! The values that pass between a resource and the broker.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::token::AccessToken;
use crate::decide::{
    Class, Failure, Name,
    backoff::{Attempt, retry_at},
    renewal::{Validity, plus},
};

/// A token in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The token.
    pub token: AccessToken,
    /// Its hex SHA-256.
    pub sha256: String,
    /// The scope that the instance answered.
    pub scope: String,
    /// From the request that brought it, or moved its expiry, to its expiry.
    pub validity: Validity,
    /// When the request was sent that last brought it.
    pub sent_at: Timestamp,
    /// When the answer to it was in.
    pub at: Timestamp,
    /// The instance gave the same token without moving its expiry: it keeps tokens until they
    /// expire, and asking earlier gains nothing.
    pub kept: bool,
}

/// What a resource already knows of its token, from its status: a same-token answer is judged
/// against it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Hex SHA-256 of the token.
    pub sha256: String,
    /// The recorded validity.
    pub validity: Validity,
}

/// A failure that everyone with the same key, or on the same origin, waits out together.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedFailure {
    /// What went wrong.
    pub failure: Failure,
    /// Failures in a row.
    pub count: u32,
    /// When the failed request was sent.
    pub sent_at: Timestamp,
    /// When the answer was in.
    pub at: Timestamp,
    /// When the next request may go out.
    pub retry_at: Timestamp,
}

impl SharedFailure {
    /// When to try again where it is waited out as an outage is: from `since` on, the sooner the nearer
    /// the expiry at stake, and no later than it says.
    pub(crate) fn retry_for(&self, expires_at: Option<Timestamp>, since: Timestamp) -> Timestamp {
        let attempt = Attempt {
            class: self.failure.class(),
            count: self.count,
            retry_after: None,
            expires_at,
            random: 0.0,
        };
        retry_at(&attempt, since).map_or(self.retry_at, |at| at.min(self.retry_at))
    }

    /// It was told by a clock that has been set back.
    pub(super) fn clock_set_back(&mut self, by: SignedDuration) {
        self.sent_at -= by;
        self.at -= by;
        self.retry_at -= by;
    }
}

/// A moment as told by a clock that has been set back since.
pub(crate) fn back(at: &mut Option<Timestamp>, by: SignedDuration) {
    *at = at.map(|at| at - by);
}

/// What the broker knows for one key, as `decide` sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// The last token, if any.
    pub held: Option<Arc<Held>>,
    /// The failure that keeps this key waiting: its own, or its origin's.
    pub failure: Option<SharedFailure>,
    /// A request is queued or on its way, since this moment, and its answer wakes this resource.
    pub asked_at: Option<Timestamp>,
    /// Where that request stands in the queue, if it is not on its way.
    pub queued: Option<Urgency>,
    /// A request is on its way, whoever waits for it.
    pub under_way: bool,
    /// No request before this moment: the least interval after a success.
    pub not_before: Option<Timestamp>,
}

/// Who goes first at an origin whose request limit is reached. Smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Less than a tenth of the lifetime is left; nearest expiry first.
    Expiring(Timestamp),
    /// There is no token yet.
    New,
    /// A renewal in good time; nearest expiry first.
    Renewal(Timestamp),
}

impl Urgency {
    /// The first moment, in the microseconds that times are kept in, at which the renewal of a token
    /// of this validity is urgent: less than a tenth of its lifetime is left.
    pub fn presses_from(validity: Validity) -> Timestamp {
        let tenth = validity.lifetime() / 10;
        plus(validity.expires_at - tenth, SignedDuration::from_micros(1))
    }

    /// The urgency of a resource with a token of this validity, or with none yet.
    pub fn of(token: Option<Validity>, now: Timestamp) -> Self {
        match token {
            None => Self::New,
            Some(validity) => {
                if now >= Self::presses_from(validity) {
                    Self::Expiring(validity.expires_at)
                } else {
                    Self::Renewal(validity.expires_at)
                }
            }
        }
    }

    /// What is begun is ended before more is begun; but a renewal in good time holds nobody up who is
    /// in a hurry.
    pub fn begun(self) -> Self {
        match self {
            Self::Expiring(_) | Self::New => Self::Expiring(Timestamp::MIN),
            Self::Renewal(_) => Self::Renewal(Timestamp::MIN),
        }
    }
}

/// A resource's wish for a token.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who is woken by the answer.
    pub name: Name,
    /// Its place in the queue.
    pub urgency: Urgency,
    /// What it knows already.
    pub known: Option<Known>,
    /// The request may wait until then: asking earlier gains nothing.
    pub not_before: Option<Timestamp>,
    /// Its token came by this very client.
    pub good_before: bool,
    /// Failures in a row that its status remembers, and of which class, so that a restart does not
    /// begin anew.
    pub failures: Option<(Class, u32)>,
    /// How often its client was refused since it was good, whatever else failed between.
    pub refusals: u32,
    /// Asked for by a person: goes out even while the origin is held.
    pub forced: bool,
}

/// How requests are bounded.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests under way at one origin.
    pub per_origin: usize,
    /// The least interval between two successes of one key.
    pub min_interval: SignedDuration,
}
