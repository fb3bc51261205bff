//! Whether a token is needed, which one serves, and whether the target holds it.

use jiff::Timestamp;

use super::{
    Failure, Wish,
    failure::class_of,
    observed::ClientRead,
    ownership::{self, Ownership, is_intact},
    renewal,
    status::{is_kept, validity_of},
    template::{self, Rendered, Variables},
    view::View,
};
use crate::{
    api::{CreationPolicy, Reason, TokenStatus},
    servicenow::{Exchange, Held, Known, Urgency},
};

impl View<'_> {
    /// This very token, with this very expiry, is the one on record.
    pub(super) fn is_on_record(&self, held: &Held) -> bool {
        self.token.as_ref().is_some_and(|token| {
            token.sha256.as_deref() == Some(&held.sha256)
                && token.expires_at.0 == held.validity.expires_at
        })
    }

    /// The target lacks this token, which is the one that it shall hold until there is a new one.
    pub(super) fn is_missing(&self, held: &Held) -> bool {
        self.is_on_record(held) && self.o.now < held.validity.expires_at && !self.target_stands()
    }

    /// Whether anything needs the token's value.
    pub(super) fn needs_token(&self) -> bool {
        self.needs_more_than_a_put_back() || !self.target_stands()
    }

    /// When the token on record is looked after.
    pub(super) fn due_at(token: &TokenStatus) -> Timestamp {
        if is_kept(token) {
            renewal::prepared_from(validity_of(token))
        } else {
            token.renewal_time.0
        }
    }

    /// When the token on record is over, by the clock as it is now.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        let token = self.token.as_deref();
        token.map(|token| self.o.memory.validity(token).expires_at)
    }

    /// The times of the token on record were told by a clock that has been set back since.
    pub(super) fn is_distrusted(&self, token: &TokenStatus) -> bool {
        let set_back = self.o.memory.set_back_since(token).is_some();
        set_back || validity_of(token).is_from_the_future(self.o.now)
    }

    pub(super) fn needs_more_than_a_put_back(&self) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let failed = self
            .last_failure()
            .and_then(|failure| failure.reason.parse::<Reason>().ok())
            .is_some_and(|reason| class_of(reason).is_shared());
        let remembered = self.o.memory.failure.as_ref();
        let failed = failed || remembered.is_some_and(|failure| failure.unwritten);
        self.forced
            || self.o.now >= Self::due_at(token)
            || self.is_distrusted(token)
            || !self.basis_is_recorded()
            || !self.client_is_as_recorded()
            || failed
    }

    /// When the pending renewal request was first seen.
    fn forced_since(&self) -> Option<Timestamp> {
        let (_, since) = self
            .o
            .memory
            .renew_request
            .as_ref()
            .filter(|_| self.forced)?;
        Some(*since)
    }

    /// A forced renewal takes only the answer to a request that was sent after it.
    pub(super) fn is_older_than_force(&self, sent_at: Timestamp) -> bool {
        self.forced_since().is_some_and(|since| sent_at < since)
    }

    /// Whether a token in memory serves this resource now.
    pub(super) fn serves(&self, held: &Held) -> bool {
        let now = self.o.now;
        if held.validity.expires_at <= now
            || held.validity.is_from_the_future(now)
            || self.is_older_than_force(held.sent_at)
            || (self.is_on_record(held) && self.has_failed_since(held.at))
        {
            return false;
        }
        if self.o.asked_at.is_some_and(|asked| held.sent_at >= asked) {
            return true;
        }
        // One that is on record is due when its record says so.
        let on_record = self.token.as_ref().filter(|token| {
            token.sha256.as_deref() == Some(&held.sha256)
                && token.expires_at.0 >= held.validity.expires_at
        });
        match on_record {
            // That it is kept may not be on record yet.
            Some(_) if held.kept => now < renewal::prepared_from(held.validity),
            Some(token) => now < Self::due_at(token),
            None if held.kept => true,
            None => now < renewal::latest(held.validity, self.margin()),
        }
    }

    /// Its place in the queue of its origin.
    pub(super) fn urgency(&self) -> Urgency {
        let token = self.token.as_deref();
        let token = token.map(|token| self.o.memory.validity(token));
        self.o
            .credential
            .urgency(token, self.o.target_seen, self.o.now)
    }

    /// What is asked of the broker.
    pub(super) fn wish(&self, exchange: &Exchange) -> Wish {
        let urgency = self.urgency();
        let trusted = self.token.as_deref().filter(|t| !self.is_distrusted(t));
        let known = trusted.and_then(|token| {
            Some(Known {
                sha256: token.sha256.clone()?,
                validity: validity_of(token),
            })
        });
        let same = !self.forced && self.basis_is_recorded() && self.client_is_as_recorded();
        // That it is kept may not be on record yet.
        let held = exchange.held.as_ref().filter(|held| held.kept);
        let kept = trusted.filter(|token| {
            let kept = is_kept(token) || held.is_some_and(|held| self.is_on_record(held));
            same && kept && self.o.now >= renewal::prepared_from(validity_of(token))
        });
        Wish {
            urgency,
            known,
            not_before: kept.map(|token| token.expires_at.0),
            good_before: self.token.is_some() && self.client_is_as_recorded(),
            // Another client begins anew.
            failures: self.last_shared().filter(|_| self.client_is_as_recorded()),
            refusals: self.refusals(),
            forced: self.forced,
        }
    }

    pub(super) fn render(&self, client: &ClientRead, held: &Held) -> Result<Rendered, Failure> {
        let instance = self
            .spec
            .instance()
            .map_err(|error| Failure::new(Reason::InvalidSpec, error.to_string()))?;
        let variables = Variables {
            token: &held.token,
            scope: &held.scope,
            expires_at: held.validity.expires_at,
            instance_url: instance.origin(),
            client_id: &client.client_id,
        };
        template::render(self.spec.target_data(), &variables)
    }

    /// The target holds this token already, and nothing of it has to change.
    pub(super) fn is_in_place(&self, held: &Held, data: &Rendered) -> bool {
        let Some(recorded) = self.recorded_target() else {
            return self.reads_in_place(held, data);
        };
        let unwritten = self.target_is_as_recorded() && recorded.sha256 == data.sha256();
        // The expiry stands in annotations, which a merge does not write.
        let told = self.is_on_record(held) || self.policy() == CreationPolicy::Merge;
        (told && unwritten && self.basis_is_recorded()) || self.reads_in_place(held, data)
    }

    fn reads_in_place(&self, held: &Held, data: &Rendered) -> bool {
        let Some(Some(target)) = self.o.target else {
            return false;
        };
        let expires_at = held.validity.expires_at;
        let desired = ownership::Desired::new(self.o.credential, self.spec, held, data.clone());
        self.whose(target) == Ownership::Ours
            && is_intact(target, self.spec, expires_at, data.sha256())
            && desired.dropped(target).is_empty()
    }

    /// The write would restore what this resource had written already.
    pub(super) fn is_put_back(&self, held: &Held) -> bool {
        self.is_on_record(held) && self.recorded_target().is_some() && self.basis_is_recorded()
    }
}
