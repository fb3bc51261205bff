//! A settle in the making: what all ends have in common.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    FIGHT_PERIOD,
    memory::Memory,
    observed::{ByRole, ClientRead, Reference, Seen, Version, WriteOutcome},
    probes::Probe,
    restarts::record_restarts,
    settle::{Outcome, Settle, Transition},
    status::{self, Expiry, FALSE, TRUE, UNKNOWN, Verdict, is_kept, ready, set, validity_of},
    synced::token_status,
    view::View,
};
use crate::api::{ObservedObject, Reason, ServiceNowCredentialStatus, condition};

/// A settle in the making.
pub(super) struct End<'a> {
    pub(super) v: &'a View<'a>,
    pub(super) outcome: Outcome,
    /// Shared with the resource until something of it changes.
    pub(super) status: Arc<ServiceNowCredentialStatus>,
    pub(super) wake: Option<Timestamp>,
    pub(super) memory: Memory,
    /// News beside those of the condition `Synced`.
    pub(super) news: Option<Transition>,
    pub(super) probe: Option<Probe>,
}

impl<'a> End<'a> {
    pub(super) fn new(v: &'a View<'a>, outcome: Outcome) -> Self {
        let mut memory = v.o.memory.clone();
        let since = v.o.now - FIGHT_PERIOD;
        memory.put_backs.retain(|at| *at > since);
        memory.has_written |= v.has_written();
        let mut end = Self {
            v,
            outcome,
            status: v.o.credential.status.clone(),
            wake: None,
            memory,
            news: None,
            probe: None,
        };
        if end.status.token.as_ref() != v.token.as_deref() {
            end.status_mut().token = v.token.as_deref().cloned();
        }
        // A token that stands in its Secret is on record, too, whatever else the round comes to.
        let held = v.o.exchange.as_ref().and_then(|e| e.held.as_ref());
        if let Some(held) = held.filter(|held| v.has_written() && !v.is_on_record(held)) {
            end.status_mut().token = Some(token_status(v, held));
        }
        record_restarts(&mut end);
        // What was written is on record whatever else the round comes to, unless something is
        // still to be removed that only the record knows of.
        let previous = v.previous_target();
        let removed =
            previous.is_none_or(|last| matches!(v.o.removed.get(&last.name), Some(Ok(()))));
        let adopted = v.last_target().filter(|_| v.adopted).cloned();
        let written = v.written_target().or(adopted);
        if removed && let Some(written) = written.or_else(|| v.found_target()) {
            if end
                .status
                .target
                .as_ref()
                .is_some_and(|old| old.name != written.name)
            {
                // Whoever fought over the old one does not fight over this.
                end.memory.put_backs.clear();
            }
            end.status_mut().target = Some(written);
        }
        end
    }

    pub(super) fn status_mut(&mut self) -> &mut ServiceNowCredentialStatus {
        Arc::make_mut(&mut self.status)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.v.o.now
    }

    /// Whether our token was edited away is remembered of a target that was read.
    fn look_for_token(&mut self) {
        if let Some(Some(target)) = self.v.o.target {
            let lost = self.v.has_lost_token(target, &self.status);
            self.memory.looked_at = Some((target.version.clone(), lost));
        }
    }

    /// Whether the Secret that the status names still stands, as far as is known.
    pub(super) fn target_is_there(&mut self) -> bool {
        self.look_for_token();
        let Some(target) = &self.status.target else {
            return false;
        };
        let wanted = target.name == self.v.target_name();
        if wanted && self.v.lost {
            return false;
        }
        if wanted && self.v.has_written() {
            return true;
        }
        if wanted
            && let (Seen::Present(seen), Some((version, true))) =
                (self.v.o.target_seen, &self.memory.looked_at)
            && seen == version
        {
            return false;
        }
        let seen = if wanted {
            self.v.o.target_seen
        } else {
            self.v.o.previous_seen
        };
        match seen {
            Seen::Unknown => true,
            Seen::Absent => false,
            Seen::Present(version) => version.uid == target.uid,
        }
    }

    fn ready(&mut self, synced: &Verdict, expiry: Expiry) -> Verdict {
        let there = self.target_is_there();
        let over = self.expiry();
        ready(&self.status, over, synced, there, expiry, self.now())
    }

    /// When the token on record is over, by the clock as it is now.
    fn expiry(&self) -> Option<Timestamp> {
        let token = self.status.token.as_ref();
        token.map(|token| self.v.o.memory.validity(token).expires_at)
    }

    pub(super) fn conclude(&mut self, synced: Verdict, expiry: Expiry) {
        let generation = self.v.o.credential.generation;
        let ready = self.ready(&synced, expiry);
        if self.status.observed_generation != Some(generation) {
            self.status_mut().observed_generation = Some(generation);
        }
        let now = self.now();
        set(&mut self.status, condition::READY, ready, generation, now);
        set(&mut self.status, condition::SYNCED, synced, generation, now);
    }

    /// Looks at `Ready` alone: the last attempt says what it said.
    pub(super) fn ready_only(&mut self, expiry: Expiry) {
        let Some(old) = status::get(&self.status, condition::SYNCED).cloned() else {
            return;
        };
        let status = match old.status.as_str() {
            TRUE => TRUE,
            FALSE => FALSE,
            _ => UNKNOWN,
        };
        let reason = old.reason.parse().unwrap_or(Reason::Pending);
        let synced = Verdict::new(status, reason, old.message);
        let ready = self.ready(&synced, expiry);
        let generation = status::get(&self.status, condition::READY)
            .and_then(|c| c.observed_generation)
            .unwrap_or(self.v.o.credential.generation);
        let now = self.now();
        set(&mut self.status, condition::READY, ready, generation, now);
    }

    /// Looks again when the token expires, if that comes first.
    pub(super) fn wake_at_expiry(&mut self) {
        if let Some(expiry) = self.expiry().filter(|at| *at > self.now()) {
            self.wake = Some(self.wake.map_or(expiry, |wake| wake.min(expiry)));
        }
    }

    /// The renewal request has been acted on, for better or worse.
    pub(super) fn handled(&mut self) {
        let request = self.v.o.credential.renew_request.as_ref();
        let known = self.v.o.memory.renew_request.as_ref();
        if request == known.map(|(value, _)| value)
            && request != self.status.handled_renew_request.as_ref()
        {
            self.status_mut().handled_renew_request = request.cloned();
        }
    }

    /// What a request was made of is what was used.
    pub(super) fn observe(&mut self, client: &ClientRead) {
        let mut versions = client.versions.each_ref().map(Option::as_ref);
        let v = self.v;
        // Whoever merges into the client's own Secret has changed it since it was read.
        if let Some((_, WriteOutcome::Done(written))) = v.o.written {
            for reference in v.spec.references() {
                let read = &mut versions[reference.role as usize];
                if read.is_some_and(|read| read.uid == written.uid) {
                    *read = Some(written);
                }
            }
        }
        self.observe_versions(versions);
    }

    /// What the caches show is what must have been used.
    pub(super) fn observe_seen(&mut self) {
        self.observe_versions(self.v.o.references.map(|seen| match seen {
            Some(Seen::Present(version)) => Some(version),
            _ => None,
        }));
    }

    fn observe_versions(&mut self, versions: ByRole<&Version>) {
        let references = self.v.spec.references().iter();
        let used = references.filter_map(|reference| {
            let version = versions[reference.role as usize]?;
            Some((reference, version))
        });
        let same = |(reference, version): (&Reference, &Version), old: &ObservedObject| {
            old.kind == reference.kind.as_str()
                && *old.name == *reference.name
                && version.is(&old.uid, &old.resource_version)
        };
        let old = &self.status.observed;
        if used.clone().count() == old.len() && used.clone().zip(old).all(|(u, o)| same(u, o)) {
            return;
        }
        let observed = used.map(|(reference, version)| ObservedObject {
            kind: reference.kind.as_str().to_owned(),
            name: reference.name.to_string(),
            uid: version.uid.clone(),
            resource_version: version.resource_version.clone(),
        });
        self.status_mut().observed = observed.collect();
    }

    pub(super) fn into_settle(mut self) -> Settle {
        let old = &self.v.o.credential.status;
        let changed = !Arc::ptr_eq(old, &self.status) && *old != self.status;
        let news = changed.then(|| transition(old, &self.status)).flatten();
        let untold = self.memory.untold.take();
        let token = self.status.token.as_ref().filter(|token| is_kept(token));
        self.memory.kept = token.map(validity_of);
        let synced = status::get(&self.status, condition::SYNCED);
        let untold = untold
            .filter(|told| synced.is_some_and(|synced| synced.reason == told.reason.as_str()));
        Settle {
            outcome: self.outcome,
            // A failure is told rather than a recovery that comes with it.
            transition: match news {
                Some(news) if news.is_failure => Some(news),
                news => self.news.or(news).or(untold),
            },
            probe: self.probe,
            status: changed.then_some(self.status),
            wake: self.wake,
            memory: self.memory,
        }
    }
}

/// Compares `Synced` before and after: into failure, between failures, out of it.
fn transition(
    old_status: &ServiceNowCredentialStatus,
    new: &ServiceNowCredentialStatus,
) -> Option<Transition> {
    let new = status::get(new, condition::SYNCED)?;
    let old = status::get(old_status, condition::SYNCED);
    let failing = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| c.status == FALSE;
    let was_failing = old.is_some_and(failing);
    // What was suspended amid a failure recovers from it afterwards.
    let recovers = was_failing || old_status.failure.is_some();
    let same_reason = old.is_some_and(|old| old.reason == new.reason);
    let worth_it = if failing(new) {
        !(was_failing && same_reason)
    } else {
        recovers && new.status == TRUE
    };
    worth_it.then(|| Transition {
        reason: new.reason.parse().unwrap_or(Reason::InternalError),
        message: new.message.clone(),
        is_failure: failing(new),
    })
}
