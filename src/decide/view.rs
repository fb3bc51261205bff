//! The questions that the chain asks of what was observed.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{
    FIGHT_PERIOD,
    memory::Judged,
    observed::{Basis, CheckedSpec, Observed, Reference, Seen, Version, WriteOutcome},
    ownership::{self, Ownership, TargetObject, is_intact, recorded},
    renewal::{self, Margin, Validity},
    status::{is_kept, validity_of},
    template,
};
use crate::{
    api::{
        CreationPolicy, ObservedObject, ServiceNowCredentialStatus, TargetStatus, TokenStatus,
        duration,
    },
    micro_time,
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
    /// It is the Secret's own record.
    pub(super) adopted: bool,
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
            token: status.token.as_ref().map(|token| as_kept(o, token)),
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
        // What was written by another policy may be somebody else's Secret for this one.
        recorded.creation_policy == self.policy()
            && matches!(self.o.target_seen, Seen::Present(seen)
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
        let data = self.spec.target_data();
        let held = template::recover_token(data, &target.data);
        // Whoever takes a key out leaves no trace in `managedFields`.
        let incomplete = data.keys().any(|key| !target.data.contains_key(key));
        // What was written by another spec is another thing.
        let of_this_spec = target.ours.data.iter().all(|key| data.contains_key(key));
        recorded.uid == target.version.uid
            && !self.basis_has_changed()
            && of_this_spec
            && (incomplete || !target.last_written_by_us)
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
    pub(super) fn client_is_as_recorded(&self) -> bool {
        let mut deciding = self.references().filter(|(r, _)| r.role.decides_token());
        deciding.all(|(reference, seen)| self.is_as_recorded(reference, seen))
    }

    /// So are all that a request is made of.
    pub(super) fn request_is_as_recorded(&self) -> bool {
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

    pub(super) fn observed(&self, reference: &Reference) -> Option<&ObservedObject> {
        let mut observed = self.o.credential.status.observed.iter();
        let kind = reference.kind.as_str();
        observed.find(|o| o.kind == kind && *o.name == *reference.name)
    }

    /// The spec names an object that nobody has named before: whether it exists is not known, and no
    /// watch tells of it before it changes.
    pub(super) fn names_what_was_never_seen(&self) -> bool {
        let mut unseen = self
            .references()
            .filter(|(_, seen)| **seen == Seen::Unknown);
        unseen.any(|(reference, _)| self.observed(reference).is_none())
    }

    /// This process knows that the Secret was written for another spec.
    pub(super) fn basis_has_changed(&self) -> bool {
        self.o.memory.basis.is_some_and(|basis| basis != self.basis)
    }

    /// The target is as it was left.
    pub(super) fn target_stands(&self) -> bool {
        self.target_is_as_recorded() || self.target_reads_intact()
    }

    /// The record of a target that was read, is another than the one on record, and holds what is on
    /// record: it was put back, and nobody heard of it.
    pub(super) fn found_target(&self) -> Option<TargetStatus> {
        let read = self.o.target.as_ref()?.as_ref()?;
        let recorded = self.recorded_target()?;
        let found = read.version.uid != recorded.uid && self.target_reads_intact();
        found.then(|| self.target_record(&read.version, recorded.sha256.clone()))
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

/// The token on record, kept until it expires where that is known and not on record yet.
fn as_kept<'a>(o: &Observed<'_>, token: &'a TokenStatus) -> Cow<'a, TokenStatus> {
    if o.memory.kept != Some(validity_of(token)) || is_kept(token) {
        return Cow::Borrowed(token);
    }
    Cow::Owned(TokenStatus {
        renewal_time: token.expires_at.clone(),
        ..token.clone()
    })
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
