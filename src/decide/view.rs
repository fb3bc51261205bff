//! The questions that the chain asks of what was observed.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{
    FIGHT_PERIOD, Failure, Wish,
    backoff::LONGEST_WAIT,
    failure::class_of,
    memory::Judged,
    observed::{Basis, CheckedSpec, ClientRead, Observed, Reference, Seen, Version, WriteOutcome},
    ownership::{self, Ownership, TargetObject, is_intact, recorded},
    renewal::{self, Margin, Validity, plus},
    status::{is_kept, validity_of},
    template::{self, Rendered, Variables},
};
use crate::{
    api::{
        CreationPolicy, FailureStatus, ObservedObject, Reason, ServiceNowCredentialStatus,
        TargetStatus, TokenStatus, duration,
    },
    decide::Class,
    micro_time,
    servicenow::{Exchange, Held, Known, SharedFailure, Urgency},
};

static UNKNOWN: Seen = Seen::Unknown;

/// What was observed, with what follows from it at once.
#[derive(Clone)]
pub(super) struct View<'a> {
    pub(super) o: &'a Observed<'a>,
    pub(super) spec: &'a CheckedSpec,
    pub(super) basis: Basis,
    /// A renewal was asked for by the annotation and not answered yet.
    pub(super) forced: bool,
    /// The token on record: the status's, or the Secret's own record where that is newer.
    pub(super) token: Option<Cow<'a, TokenStatus>>,
    /// The target as last written, likewise.
    target: Option<Cow<'a, TargetStatus>>,
    adopted: bool,
    /// Somebody else's value stands where our token should.
    pub(super) lost: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(o: &'a Observed<'a>, spec: &'a CheckedSpec) -> Self {
        let status = &o.credential.status;
        Self {
            o,
            spec,
            basis: spec.basis(),
            forced: is_forced(o),
            token: status.token.as_ref().map(Cow::Borrowed),
            target: status.target.as_ref().map(Cow::Borrowed),
            adopted: false,
            lost: judged(o, spec.basis()).is_some_and(|judged| judged.lost),
        }
    }

    /// What was said of the target in this state, for this spec.
    pub(super) fn judged(&self) -> Option<&'a Judged> {
        judged(self.o, self.basis)
    }

    pub(super) fn having_lost(mut self, lost: bool) -> Self {
        self.lost = lost;
        self
    }

    pub(super) fn target_name(&self) -> &str {
        self.spec.target_name(&self.o.credential.name.name)
    }

    pub(super) fn margin(&self) -> Margin {
        let renewal = self.spec.renewal.as_ref();
        let before = renewal
            .and_then(|r| r.renew_before.as_deref())
            .and_then(|text| duration::parse(text).ok());
        match (before, renewal.and_then(|r| r.renew_before_percentage)) {
            (Some(before), _) => Margin::Before(before),
            (None, Some(percent)) => Margin::Percentage(percent),
            (None, None) => Margin::Default,
        }
    }

    /// The status of the target, where it is the one that the spec names.
    pub(super) fn recorded_target(&self) -> Option<&TargetStatus> {
        self.last_target().filter(|t| t.name == self.target_name())
    }

    /// What the status says was written last, whatever its name.
    pub(super) fn last_target(&self) -> Option<&TargetStatus> {
        self.target.as_deref()
    }

    /// The record of the target in this state.
    pub(super) fn target_record(&self, version: &Version, sha256: String) -> TargetStatus {
        TargetStatus {
            name: self.target_name().to_owned(),
            uid: version.uid.clone(),
            resource_version: version.resource_version.clone(),
            creation_policy: self.spec.creation_policy(),
            sha256,
        }
    }

    /// The record of what was written in this round.
    pub(super) fn written_target(&self) -> Option<TargetStatus> {
        match self.o.written {
            Some((sha256, WriteOutcome::Done(version))) => {
                Some(self.target_record(version, sha256.clone()))
            }
            _ => None,
        }
    }

    /// The target was written in this round.
    pub(super) fn has_written(&self) -> bool {
        matches!(self.o.written, Some((_, WriteOutcome::Done(_))))
    }

    /// The target was not touched since it was written.
    pub(super) fn target_is_as_recorded(&self) -> bool {
        let Some(recorded) = self.recorded_target() else {
            return false;
        };
        matches!(self.o.target_seen, Seen::Present(seen)
            if seen.is(&recorded.uid, &recorded.resource_version))
    }

    /// How the target is written.
    pub(super) fn policy(&self) -> CreationPolicy {
        self.spec.creation_policy()
    }

    /// Whose a Secret is that was read as the target.
    pub(super) fn whose(&self, target: &TargetObject) -> Ownership {
        ownership::judge(target, self.o.credential, self.policy())
    }

    /// The target that was last written under another name, and that goes or loses our keys.
    pub(super) fn previous_target(&self) -> Option<&'a TargetStatus> {
        let last = self.o.credential.status.target.as_ref()?;
        let stale =
            last.name != self.target_name() && last.creation_policy != CreationPolicy::Orphan;
        // What nobody named for a moment is not known, and may stand there still: it is removed by
        // its uid, so another one is safe.
        let there = match self.o.previous_seen {
            Seen::Present(seen) => seen.uid == last.uid,
            Seen::Unknown => true,
            Seen::Absent => false,
        };
        (stale && there).then_some(last)
    }

    /// Takes the Secret's own record over the status's where it is newer: the operator died
    /// between the two writes.
    pub(super) fn adopting(mut self, target: &TargetObject) -> Self {
        let credential = self.o.credential;
        // A status that tells of a failure or a wait knows its generation too, but nothing of the
        // Secret.
        let status = &credential.status;
        let synced = super::status::is_synced(status)
            && status.observed_generation == Some(credential.generation);
        let written_for_this_spec = synced || credential.generation == 1;
        let data = self.spec.target_data();
        let complete = data.keys().all(|key| target.data.contains_key(key));
        let merges = self.policy() == CreationPolicy::Merge;
        let ours = !merges && self.whose(target) == Ownership::Ours;
        // A Secret that somebody edited may claim anything.
        let (Some(issued_at), Some(expires_at)) = (
            recorded(target, ownership::ISSUED_AT),
            recorded(target, ownership::EXPIRES_AT),
        ) else {
            return self;
        };
        let newer = self
            .token
            .as_ref()
            .is_none_or(|token| token.issued_at.0 < issued_at);
        let possible = issued_at <= self.o.now && issued_at < expires_at;
        // What an earlier resource of this name left came by another spec, who knows which.
        let possible = possible && issued_at >= credential.created_at;
        // Whoever wrote it was another process, which may have ended only after this one began.
        let fresh_process = !self.o.memory.has_written;
        let untouched = target.last_written_by_us;
        if !(written_for_this_spec && complete && ours && newer && possible)
            || !(fresh_process && untouched)
        {
            return self;
        }
        let validity = Validity {
            issued_at,
            expires_at,
        };
        let sha256 = template::recover_token(data, &target.data).map(|token| token.sha256());
        self.token = Some(Cow::Owned(TokenStatus {
            issued_at: micro_time(issued_at),
            expires_at: micro_time(expires_at),
            renewal_time: micro_time(self.draw(validity)),
            scope: None,
            sha256,
        }));
        let sha256 = target.digest(self.spec);
        self.target = Some(Cow::Owned(self.target_record(&target.version, sha256)));
        self.adopted = true;
        self
    }

    /// Somebody has edited our token away: this target, which was read, holds another value or none.
    pub(super) fn has_lost_token(
        &self,
        target: &TargetObject,
        status: &ServiceNowCredentialStatus,
    ) -> bool {
        let (Some(token), Some(recorded)) = (&status.token, &status.target) else {
            return false;
        };
        let held = template::recover_token(self.spec.target_data(), &target.data);
        // What was written by another spec is another thing.
        recorded.uid == target.version.uid
            && !target.last_written_by_us
            && !self.basis_has_changed()
            && target.digest(self.spec) != recorded.sha256
            && held.map(|held| held.sha256()) != token.sha256
    }

    /// A renewal time for a token of this validity.
    pub(super) fn draw(&self, validity: Validity) -> Timestamp {
        let interval = self.o.policy.min_renew_interval;
        let drawn = renewal::renewal_time(validity, self.margin(), interval, self.o.random);
        if drawn > self.o.now {
            return drawn;
        }
        // The jitter does not make a token due that is taken over late in its life.
        drawn.max(renewal::latest(validity, self.margin()))
    }

    /// A renewal time that the margin of the spec could not have given is drawn again.
    pub(super) fn with_renewal_time_fit(mut self) -> Self {
        let refitted = self.token.as_deref().and_then(|token| self.refitted(token));
        if let (Some(renewal_time), Some(token)) = (refitted, &mut self.token) {
            token.to_mut().renewal_time = renewal_time;
        }
        self
    }

    /// Another renewal time for this token, where the margin wants it elsewhere.
    pub(super) fn refitted(&self, token: &TokenStatus) -> Option<MicroTime> {
        let validity = validity_of(token);
        let interval = self.o.policy.min_renew_interval;
        let at = token.renewal_time.0;
        let fits = is_kept(token) || renewal::still_fits(at, validity, self.margin(), interval);
        (!fits).then(|| micro_time(self.draw(validity)))
    }

    /// The Secret was last written for this very spec.
    pub(super) fn basis_is_recorded(&self) -> bool {
        let status = &self.o.credential.status;
        match self.o.memory.basis {
            Some(basis) => basis == self.basis,
            None => {
                let synced = super::status::is_synced(status);
                let current = status.observed_generation == Some(self.o.credential.generation);
                self.adopted || synced && current
            }
        }
    }

    /// The objects that decide whose token is issued are in the state in which they were last used.
    fn client_is_as_recorded(&self) -> bool {
        let mut deciding = self.references().filter(|(r, _)| r.role.decides_token());
        deciding.all(|(reference, seen)| self.is_as_recorded(reference, seen))
    }

    /// So are all that a request is made of.
    fn request_is_as_recorded(&self) -> bool {
        let mut all = self.references();
        all.all(|(reference, seen)| self.is_as_recorded(reference, seen))
    }

    fn is_as_recorded(&self, reference: &Reference, seen: &Seen) -> bool {
        match (seen, self.observed(reference)) {
            (Seen::Present(seen), Some(recorded)) => {
                seen.is(&recorded.uid, &recorded.resource_version)
            }
            (Seen::Present(_), None) => self.adopted,
            _ => false,
        }
    }

    /// The objects that the spec refers to, and what the caches know of them.
    pub(super) fn references(&self) -> impl Iterator<Item = (&'a Reference, &'a Seen)> {
        let (references, seen) = (self.spec.references(), self.o.references);
        references
            .iter()
            .map(move |reference| (reference, seen[reference.role as usize].unwrap_or(&UNKNOWN)))
    }

    fn observed(&self, reference: &Reference) -> Option<&ObservedObject> {
        let mut observed = self.o.credential.status.observed.iter();
        let kind = reference.kind.as_str();
        observed.find(|o| o.kind == kind && *o.name == *reference.name)
    }

    /// The last failure, from memory or from the status.
    pub(super) fn last_failure(&self) -> Option<&FailureStatus> {
        let remembered = self.o.memory.failure.as_ref().map(|r| &r.failure);
        remembered.or(self.o.credential.status.failure.as_ref())
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

    /// The spec names an object that nobody has named before: whether it exists is not known, and no
    /// watch tells of it before it changes.
    pub(super) fn names_what_was_never_seen(&self) -> bool {
        let mut unseen = self
            .references()
            .filter(|(_, seen)| **seen == Seen::Unknown);
        unseen.any(|(reference, _)| self.observed(reference).is_none())
    }

    /// When the token on record is looked after.
    pub(super) fn due_at(token: &TokenStatus) -> Timestamp {
        if is_kept(token) {
            renewal::prepared_from(validity_of(token))
        } else {
            token.renewal_time.0
        }
    }

    /// The times of the token on record were told by a clock that has been set back since.
    fn is_distrusted(&self, token: &TokenStatus) -> bool {
        self.o.memory.distrusted == Some(token.issued_at.0)
            || validity_of(token).is_from_the_future(self.o.now)
    }

    fn needs_more_than_a_put_back(&self) -> bool {
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

    /// This process has tried with this spec and this client, and found no token to serve.
    pub(super) fn has_failed_like_this(&self) -> bool {
        let Some(last) = &self.o.memory.failure else {
            return false;
        };
        let seen = last.references.each_ref().map(Option::as_ref);
        last.attempt == self.spec.attempt() && seen == self.o.references
    }

    /// This process knows that the Secret was written for another spec.
    pub(super) fn basis_has_changed(&self) -> bool {
        self.o.memory.basis.is_some_and(|basis| basis != self.basis)
    }

    /// This process has done so while the whole origin was held.
    pub(super) fn has_looked_under_a_hold(&self) -> bool {
        let last = self.o.memory.failure.as_ref();
        let last = last.and_then(|last| last.failure.reason.parse().ok());
        last.is_some_and(|reason| class_of(reason).is_of_origin()) && self.has_failed_like_this()
    }

    /// The target is as it was left.
    pub(super) fn target_stands(&self) -> bool {
        self.target_is_as_recorded() || self.target_reads_intact()
    }

    fn target_reads_intact(&self) -> bool {
        let (Some(token), Some(Some(target)), Some(recorded)) =
            (&self.token, self.o.target, self.recorded_target())
        else {
            return false;
        };
        self.whose(target) == Ownership::Ours
            && is_intact(target, self.spec, token.expires_at.0, &recorded.sha256)
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

    /// The instance has failed this resource since, as it is: an answer from before is no success.
    fn has_failed_since(&self, answered_at: Timestamp) -> bool {
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
        let expires_at = self.token.as_ref().map(|token| token.expires_at.0);
        match shared.failure.class() {
            Class::Unacceptable => shared.retry_for(expires_at, shared.at),
            _ => shared.retry_at,
        }
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

    /// Its place in the queue of its origin.
    pub(super) fn urgency(&self) -> Urgency {
        let token = self.token.as_deref().map(validity_of);
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

    pub(super) fn recent_put_backs(&self) -> usize {
        let since = self.o.now - FIGHT_PERIOD;
        self.o
            .memory
            .put_backs
            .iter()
            .filter(|at| **at > since)
            .count()
    }
}

fn judged<'a>(o: &Observed<'a>, basis: Basis) -> Option<&'a Judged> {
    let judged = o.memory.judged_target.as_ref()?;
    let same = matches!(o.target_seen, Seen::Present(seen) if *seen == judged.version);
    (same && judged.basis == basis).then_some(judged)
}

/// A renewal was asked for by the annotation, is not answered yet, and it is known since when.
fn is_forced(o: &Observed<'_>) -> bool {
    let request = o.credential.renew_request.as_ref();
    let known = o.memory.renew_request.as_ref().map(|(value, _)| value);
    request == known && o.credential.asks_for_renewal()
}
