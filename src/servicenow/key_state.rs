//! What is known of one sharing key, and what an answer makes of it.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    answer::new_lifetime,
    exchange::{Held, Known, SharedFailure, back},
    line::Queued,
    token::TokenAnswer,
};
use crate::{
    api::Reason,
    decide::{
        Failure, Name,
        backoff::{Attempt, retry_at},
        failure::Class,
        renewal::{Validity, plus},
    },
};

/// A same-token answer at the expiry is asked again at this pace …
const AT_EXPIRY_SOON: SignedDuration = SignedDuration::from_millis(200);
/// … for this long, …
const AT_EXPIRY_SOON_FOR: SignedDuration = SignedDuration::from_millis(1500);
/// … then at this pace, …
const AT_EXPIRY_LATER: SignedDuration = SignedDuration::from_secs(1);
/// … and after this long it is no valid answer any more.
const AT_EXPIRY_GIVEN_UP: SignedDuration = SignedDuration::from_secs(5);

/// Instances refuse now and then one of several concurrent requests; the next one passes.
pub(super) const ONE_OFF_REFUSAL: SignedDuration = SignedDuration::from_secs(1);

/// An expiry has moved if it is later, or earlier, by more than this (and the round trip).
const MOVED: SignedDuration = SignedDuration::from_secs(2);

/// A failure that says nothing of when to try again is waited out this long.
const NO_TIME_SAID: SignedDuration = SignedDuration::from_hours(1);

/// A request at the expiry waits this long at most for the instance's own clock.
const ROUND_TRIP: SignedDuration = SignedDuration::from_millis(200);

#[derive(Default)]
pub(super) struct KeyState {
    /// Settles ties.
    pub(super) number: u64,
    pub(super) held: Option<Arc<Held>>,
    pub(super) failure: Option<SharedFailure>,
    pub(super) known: Option<Known>,
    pub(super) failures_before: Option<(Class, u32)>,
    /// How often the client was refused since it was good: another failure between two refusals
    /// makes the next one no first.
    pub(super) refusals: u32,
    /// Where it stands in the line of its origin.
    pub(super) queued: Option<Queued>,
    pub(super) under_way: Option<Timestamp>,
    /// A person asked for the request that is under way.
    pub(super) forced: bool,
    pub(super) waiters: BTreeSet<Name>,
    /// Those who were told of a failure: they wait it out, and are woken when it is over sooner.
    pub(super) told: BTreeSet<Name>,
    /// The instance has taken this very client before.
    pub(super) good_before: bool,
    pub(super) one_off_spent: bool,
    /// How long the answer with the last new token took: the instance counts from somewhere in it,
    /// so a request at the expiry that is sent so much later finds the token over.
    pub(super) round_trip: SignedDuration,
    pub(super) at_expiry_since: Option<Timestamp>,
}

/// A failure as it is shared.
pub(super) fn share(
    failure: Failure,
    count: u32,
    sent_at: Timestamp,
    now: Timestamp,
    expires_at: Option<Timestamp>,
    random: f64,
) -> SharedFailure {
    let attempt = Attempt {
        class: failure.class(),
        count,
        retry_after: failure.retry_after(),
        expires_at,
        random,
    };
    SharedFailure {
        retry_at: retry_at(&attempt, now).unwrap_or(plus(now, NO_TIME_SAID)),
        failure,
        count,
        sent_at,
        at: now,
    }
}

/// What an answer is.
pub(super) enum Judged {
    /// A token to hold.
    Held(Held),
    /// To be asked again at this moment.
    Again(Timestamp),
}

impl KeyState {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }

    /// What is known was told by a clock that has been set back.
    pub(super) fn clock_set_back(&mut self, by: SignedDuration) {
        if let Some(held) = self.held.as_mut().map(Arc::make_mut) {
            held.validity = held.validity.set_back(by);
            held.sent_at -= by;
            held.at -= by;
        }
        if let Some(known) = &mut self.known {
            known.validity = known.validity.set_back(by);
        }
        if let Some(failure) = &mut self.failure {
            failure.clock_set_back(by);
        }
        if let Some(queued) = &mut self.queued {
            queued.since -= by;
            queued.not_before -= by;
        }
        back(&mut self.under_way, by);
        back(&mut self.at_expiry_since, by);
    }

    /// Failures in a row with this one: by cause, and those that were under way together count as
    /// one. Refusals count on until the client is good again, whatever else fails between.
    pub(super) fn count(
        &self,
        before: Option<&SharedFailure>,
        failure: &Failure,
        sent_at: Timestamp,
    ) -> u32 {
        let class = failure.class();
        match before.filter(|before| before.failure.class() == class) {
            Some(before) if sent_at < before.at => before.count,
            Some(before) => before.count.saturating_add(1),
            None => {
                let remembered = self.failures_before.filter(|(of, _)| *of == class);
                let refusals = Some(self.refusals).filter(|_| class == Class::Refused);
                let before = remembered.map(|(_, count)| count).max(refusals);
                before.unwrap_or(0).saturating_add(1)
            }
        }
    }

    /// Everyone with this key waits; returns who is to wake.
    pub(super) fn fail(
        &mut self,
        failure: Failure,
        sent_at: Timestamp,
        now: Timestamp,
        random: f64,
    ) -> BTreeSet<Name> {
        let count = self.count(self.failure.as_ref(), &failure, sent_at);
        if failure.class() == Class::Refused {
            self.refusals = count;
        }
        self.failure = Some(share(failure, count, sent_at, now, self.expiry(), random));
        self.failures_before = None;
        let woken = std::mem::take(&mut self.waiters);
        self.told.extend(woken.iter().cloned());
        woken
    }

    /// Everyone with this key is served; returns who is to wake.
    pub(super) fn succeed(&mut self, held: Held) -> BTreeSet<Name> {
        self.known = Some(Known {
            sha256: held.sha256.clone(),
            validity: held.validity,
        });
        self.held = Some(Arc::new(held));
        self.failure = None;
        self.failures_before = None;
        self.refusals = 0;
        self.one_off_spent = false;
        self.good_before = true;
        self.at_expiry_since = None;
        let mut woken = std::mem::take(&mut self.told);
        woken.append(&mut self.waiters);
        woken
    }

    /// Somebody has on record when the token in memory expires: an instance that gave the same expiry
    /// for it later keeps tokens until then, though nobody knew that when the answer came. Returns
    /// whether that is news.
    pub(super) fn learns_that_it_is_kept(&mut self, recorded: &Known) -> bool {
        let Some(held) = self.held.as_mut().filter(|held| !held.kept) else {
            return false;
        };
        let (before, since) = (recorded.validity, held.validity);
        let slack = MOVED + round_trip(held.sent_at, held.at);
        let apart = since.issued_at.duration_since(before.issued_at);
        let moved = since.expires_at.duration_since(before.expires_at);
        let kept = held.sha256 == recorded.sha256 && apart > slack && moved.abs() <= slack;
        if kept {
            Arc::make_mut(held).kept = true;
        }
        kept
    }

    pub(super) fn expiry(&self) -> Option<Timestamp> {
        self.known.as_ref().map(|known| known.validity.expires_at)
    }

    /// The first refusal of a client that was good before is tried once more.
    pub(super) fn tries_once_more(&self, failure: &Failure) -> bool {
        let refused_before = self.refusals > 0
            || matches!(self.failures_before, Some((Class::Refused, count)) if count > 0);
        let good_before = self.good_before && self.failure.is_none() && !refused_before;
        failure.is_one_off() && good_before && !self.one_off_spent
    }

    pub(super) fn judge(
        &mut self,
        answer: TokenAnswer,
        origin: &str,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Result<Judged, Failure> {
        let sha256 = answer.token.sha256();
        // What a clock recorded that has been set back since says nothing.
        let known = self
            .known
            .as_ref()
            .filter(|known| known.sha256 == sha256 && !known.validity.is_from_the_future(sent_at));
        let round_trip = round_trip(sent_at, now);
        if known.is_none() {
            self.round_trip = round_trip.min(ROUND_TRIP);
        }
        let (validity, kept) = match known {
            None => (new_validity(&answer, origin, sent_at)?, false),
            Some(known) => {
                let recorded = known.validity;
                // A missing lifetime of a known token says nothing new about it.
                let seconds = answer.expires_in.unwrap_or(0).max(0);
                let stated = Validity {
                    issued_at: sent_at,
                    expires_at: plus(sent_at, SignedDuration::from_secs(seconds)),
                };
                let silent = answer.expires_in.is_none();
                let moved_after = plus(recorded.expires_at, MOVED + round_trip);
                // An expiry that is over has not moved, however late it is told.
                let ahead = stated.expires_at > now;
                if !silent && ahead && stated.expires_at > moved_after {
                    (stated, false)
                } else if sent_at >= recorded.expires_at {
                    return self.ask_again(origin, now).map(Judged::Again);
                } else if !silent && plus(stated.expires_at, MOVED) < recorded.expires_at {
                    let expires_at = stated.expires_at;
                    (
                        Validity {
                            expires_at,
                            ..recorded
                        },
                        true,
                    )
                } else {
                    // So soon after the last answer a moved expiry looks the same as one that stays.
                    let apart = sent_at.duration_since(recorded.issued_at);
                    (recorded, apart > MOVED + round_trip)
                }
            }
        };
        if !kept && validity.expires_at <= now {
            return Err(over_on_arrival(origin));
        }
        Ok(Judged::Held(Held {
            token: answer.token,
            sha256,
            scope: answer.scope,
            validity,
            sent_at,
            at: now,
            kept,
        }))
    }

    /// The instance still hands out a token whose time is over by our count.
    fn ask_again(&mut self, origin: &str, now: Timestamp) -> Result<Timestamp, Failure> {
        let since = *self.at_expiry_since.get_or_insert(now);
        let waited = now.duration_since(since);
        if waited < AT_EXPIRY_SOON_FOR {
            return Ok(now + AT_EXPIRY_SOON);
        }
        if waited < AT_EXPIRY_GIVEN_UP {
            return Ok(now + AT_EXPIRY_LATER);
        }
        // Until there is another token, each further attempt is one request, and backed off.
        Err(Failure::new(
            Reason::InvalidResponse,
            format!(
                "{origin} still answers with the token whose lifetime is over, and says nothing of a \
                 longer one. Compare the clocks of the instance and of this cluster; if they agree, \
                 look at the client's Access Token Lifespan in the Application Registry."
            ),
        ))
    }
}

/// How long an answer took; a clock that was set back meanwhile makes it none.
fn round_trip(sent_at: Timestamp, answered_at: Timestamp) -> SignedDuration {
    answered_at
        .duration_since(sent_at)
        .max(SignedDuration::ZERO)
}

fn over_on_arrival(origin: &str) -> Failure {
    Failure::new(
        Reason::InvalidResponse,
        format!(
            "{origin} answered with a token whose lifetime was over before the answer was in. Give \
             the client a longer Access Token Lifespan in the Application Registry, or find out why \
             the instance answers so slowly."
        ),
    )
}

fn new_validity(
    answer: &TokenAnswer,
    origin: &str,
    sent_at: Timestamp,
) -> Result<Validity, Failure> {
    Ok(Validity {
        issued_at: sent_at,
        expires_at: plus(sent_at, new_lifetime(answer, origin)?),
    })
}
