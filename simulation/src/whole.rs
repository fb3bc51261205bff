//! What is promised of a resource at any time at which nothing excuses the operator.

use servicenow_credential_operator::{
    api::condition,
    decide::{Class, Credential, Name, failure::class_of},
};

use crate::{
    cluster::name,
    event::Event,
    promises::Broken,
    run::{Done, Run},
    time::{MINUTE, Micros, true_time},
};

/// Every resource is looked at so often.
const PACE: Micros = 10 * MINUTE;
/// A token that was over for so long has been tried to be renewed in vain, and Ready says so.
const TOLD: Micros = MINUTE;

/// Whether a condition of a resource is True.
pub(crate) fn is_true(credential: &Credential, kind: &str) -> bool {
    let mut conditions = credential.status.conditions.iter();
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}

fn fails_locally(credential: &Credential) -> bool {
    let failure = credential.status.failure.as_ref();
    let reason = failure.and_then(|failure| failure.reason.parse().ok());
    reason.is_some_and(|reason| class_of(reason) == Class::Local)
}

impl Run {
    /// Looks at all resources now, and again.
    pub(crate) fn look_at_all(&mut self) -> Done {
        for (who, credential) in &self.cluster.resources {
            self.look_at(who, credential)?;
        }
        self.after(PACE, Event::LookAtAll);
        Ok(())
    }

    fn look_at(&self, who: &Name, credential: &Credential) -> Done {
        if !self.promises.is_quiet(who, self.now) {
            return Ok(());
        }
        let (Some(target), Some(client)) =
            (credential.target_secret(), self.client_of_resource(who))
        else {
            return Ok(());
        };
        let suspended = credential
            .spec
            .as_ref()
            .is_ok_and(|s| s.suspend == Some(true));
        if suspended || self.is_disputed(&target) {
            return Ok(());
        }
        let broken = |promise, seen| Broken {
            at: self.now,
            promise,
            seen: format!(
                "{who}, {target}: {seen}; the status is {:#?}",
                credential.status
            ),
        };
        let expiry = self.expiry_in(&target);
        let excused = self.promises.excused_until(who, client, None) > self.now;
        let written = credential.status.target.as_ref();
        let had_one = written.is_some_and(|written| *written.name == *target.name)
            && !self.cluster.taken.contains(&target);
        if expiry.is_none() && had_one {
            let seen = "there is none".to_owned();
            return Err(broken("the last good token is never removed", seen));
        }
        if expiry.is_none() && !excused {
            let seen = "it holds no token".to_owned();
            return Err(broken("a Secret that is wanted is there", seen));
        }
        // It may be the one of the old name, as long as there is none of the new one.
        let told = written.and_then(|written| self.expiry_in(&name(&written.name)));
        // Where something local has to change first, the target is not read, and an edit not seen.
        let over = told.map_or(!fails_locally(credential), |expiry| {
            expiry + TOLD < self.now && self.promises.is_recorded_by_this_clock(expiry)
        });
        if over && is_true(credential, condition::READY) {
            let seen = "its token is over".to_owned();
            return Err(broken("Ready is not True on an expired token", seen));
        }
        let recorded = credential.status.token.as_ref();
        let recorded = recorded.map(|token| true_time(token.expires_at.0, self.offset));
        let good = [told, recorded].iter().all(|expiry| {
            expiry.is_some_and(|at| at > self.now && self.promises.is_recorded_by_this_clock(at))
        });
        if good && !is_true(credential, condition::READY) {
            let seen = "its token is good".to_owned();
            return Err(broken("Ready is True while the token is good", seen));
        }
        Ok(())
    }

    /// Several want it, or it was somebody else's.
    fn is_disputed(&self, target: &Name) -> bool {
        &*target.name == "shared" || target.name.starts_with("foreign")
    }
}
