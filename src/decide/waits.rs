//! What a resource waits for: its own failures, and those that it shares.

use jiff::Timestamp;

use super::{
    Class,
    backoff::LONGEST_WAIT,
    failure::class_of,
    renewal::{self, plus},
    status::validity_of,
    view::View,
};
use crate::{api::FailureStatus, servicenow::SharedFailure};

impl View<'_> {
    /// The last failure, from memory or from the status.
    pub(super) fn last_failure(&self) -> Option<&FailureStatus> {
        let remembered = self.o.memory.failure.as_ref().map(|r| &r.failure);
        remembered.or_else(|| self.recorded_failure())
    }

    /// The failure that the status tells of, unless the Secret itself tells of a success after it.
    fn recorded_failure(&self) -> Option<&FailureStatus> {
        let adopted = self.token.as_ref().filter(|_| self.adopted);
        let failure = self.o.credential.status.failure.as_ref();
        failure
            .filter(|failure| adopted.is_none_or(|token| token.issued_at.0 < failure.last_time.0))
    }

    /// How often the client was refused since it was good, as far as is known: whatever else fails
    /// between does not make the next refusal the first again.
    pub(super) fn refusals(&self) -> u32 {
        let last = self.last_failure().filter(|failure| {
            let class = failure.reason.parse().ok().map(class_of);
            class == Some(Class::Refused)
        });
        let refusals = last
            .map_or(0, |last| last.count)
            .max(self.o.memory.refusals);
        // Another client begins anew.
        if self.client_is_as_recorded() {
            refusals
        } else {
            0
        }
    }

    /// The last failure that the instance was the cause of, and how many in a row.
    pub(super) fn last_shared(&self) -> Option<(Class, u32)> {
        let last = self.last_failure().and_then(|failure| {
            let class = class_of(failure.reason.parse().ok()?);
            class.is_shared().then_some((class, failure.count))
        });
        last.or(self.o.memory.shared)
    }

    /// The failure whose wait is not over, as long as it stands for the same spec and client.
    pub(super) fn wait(&self) -> Option<&FailureStatus> {
        let failure = self.last_failure()?;
        // No wait is longer than an hour: one that seems so was written by another clock, and so
        // was one that begins in the future.
        let longest = plus(self.o.now, LONGEST_WAIT);
        let begun = failure.last_time.0 <= self.o.now;
        let waiting = failure
            .retry_time
            .as_ref()
            .is_some_and(|at| begun && at.0 > self.o.now && at.0 <= longest);
        let class = failure.reason.parse().ok().map(class_of);
        let stands = match &self.o.memory.failure {
            // A fight bounds how often the target is put back, and nothing else.
            _ if class == Some(Class::Local) => {
                !self.needs_more_than_a_put_back() && !self.target_stands()
            }
            // The broker keeps the wait, and knows when it is over before its time.
            Some(_) if class.is_some_and(Class::is_shared) => false,
            Some(_) => self.has_failed_like_this(),
            // The broker was told of it when this process began.
            None if class == Some(Class::Held) => false,
            // Somebody has met the outage since: the broker keeps the wait.
            None if class == Some(Class::Outage) && self.o.origin_is_held => false,
            None if self.o.memory.distrusted_wait == Some(failure.last_time.0) => false,
            None => {
                let status = &self.o.credential.status;
                let current = status.observed_generation == Some(self.o.credential.generation);
                let same = status.observed.is_empty() || self.request_is_as_recorded();
                (current && same) || self.is_waited_out(failure)
            }
        };
        (waiting && stands).then_some(failure)
    }

    /// This process has found this failure on record and waits it out, and what was asked with is
    /// still the same: a change of anything else does not end that wait.
    fn is_waited_out(&self, failure: &FailureStatus) -> bool {
        self.o.memory.waited.as_ref().is_some_and(|waited| {
            waited.failed_at == failure.last_time.0
                && waited.spec.asks_like(self.spec)
                && waited.references.each_ref().map(Option::as_ref) == self.o.references
        })
    }

    /// A wait of this resource's own is for the cluster, not for the instance.
    pub(super) fn waits_for_the_cluster(&self) -> bool {
        let reason = self.wait().and_then(|failure| failure.reason.parse().ok());
        reason.is_some_and(|reason| !class_of(reason).is_shared())
    }

    /// This process has tried with this spec and this client, and found no token to serve.
    pub(super) fn has_failed_like_this(&self) -> bool {
        let Some(last) = &self.o.memory.failure else {
            return false;
        };
        let seen = last.references.each_ref().map(Option::as_ref);
        last.attempt == self.spec.attempt() && seen == self.o.references
    }

    /// This process has done so while the whole origin was held.
    pub(super) fn has_looked_under_a_hold(&self) -> bool {
        let last = self.o.memory.failure.as_ref();
        let last = last.and_then(|last| last.failure.reason.parse().ok());
        last.is_some_and(|reason| class_of(reason).is_of_origin()) && self.has_failed_like_this()
    }

    /// The instance has failed this resource since, as it is: an answer from before is no success.
    pub(super) fn has_failed_since(&self, answered_at: Timestamp) -> bool {
        let credential = self.o.credential;
        let same = match &self.o.memory.failure {
            Some(_) => self.has_failed_like_this(),
            None => credential.status.observed_generation == Some(credential.generation),
        };
        let failed = self.last_failure().is_some_and(|failure| {
            let class = failure.reason.parse().ok().map(class_of);
            // What seems to come from the future was told by another clock.
            let since = answered_at < failure.last_time.0 && failure.last_time.0 <= self.o.now;
            class.is_some_and(Class::is_shared) && since
        });
        same && failed
    }

    /// When this resource may ask again after a failure that it shares. One that holds a key is waited
    /// out as the expiry of whoever asks wants it, and the others may have a later one.
    pub(super) fn retry_at(&self, shared: &SharedFailure) -> Timestamp {
        match shared.failure.class() {
            Class::Unacceptable => shared.retry_for(self.expires_at(), shared.at),
            _ => shared.retry_at,
        }
    }

    /// No request before this moment, by the record of a token that an earlier process asked for: the
    /// least interval after a success.
    pub(super) fn not_before_on_record(&self) -> Option<Timestamp> {
        let token = self
            .token
            .as_deref()
            .filter(|token| !self.is_distrusted(token))?;
        let same = self.basis_is_recorded() && self.client_is_as_recorded();
        let interval = self.o.policy.min_renew_interval;
        same.then(|| renewal::next_allowed(validity_of(token), interval))
    }
}
