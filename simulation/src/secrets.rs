//! What is promised of a Secret: when it is written, and when its token is over.

use servicenow_credential_operator::decide::{Credential, Name, ownership::TargetObject};

use crate::{
    cluster::{name, writer},
    event::{Event, Fate},
    instance::{Issued, Mode},
    promises::Broken,
    run::{Done, Run},
    time::{HOUR, Micros, SECOND},
};

impl Run {
    /// A target was written: only for a change, only with a token that is good, and never over what
    /// is somebody else's.
    pub(crate) fn written(
        &mut self,
        secret: &Name,
        before: Option<TargetObject>,
        fate: Fate,
    ) -> Done {
        let Some(after) = self.cluster.secrets.get(secret) else {
            return Ok(());
        };
        let broken = |promise, seen: String| Broken {
            at: self.now,
            promise,
            seen,
        };
        if let Some(before) = &before {
            if let Some(other) = self.still_owned(secret, before, after) {
                return Err(broken(
                    "the present owner keeps its Secret",
                    format!("{secret} was written, and {other} wants it"),
                ));
            }
            let ours = before
                .controller
                .as_ref()
                .is_some_and(|owner| owner.kind == "ServiceNowCredential");
            if !ours {
                return Err(broken(
                    "what is somebody else's is never touched",
                    format!("{secret} was written"),
                ));
            }
            let same = before.data == after.data
                && before.labels == after.labels
                && before.annotations == after.annotations
                && before.controller == after.controller;
            let writer = writer(after);
            let quiet = writer.is_some_and(|writer| self.promises.is_quiet(&writer, self.now));
            if same && quiet && fate == Fate::Good {
                return Err(broken(
                    "there is no write without change",
                    format!("{secret} was as it was written"),
                ));
            }
        }
        let Some(now) = issued(after) else {
            return Err(broken(
                "a target holds a token",
                format!("{secret} holds none that was issued"),
            ));
        };
        let expiry = self.instances[now.instance].expiry(now);
        let old = before.as_ref().and_then(issued);
        let old_expiry = old.map(|old| self.instances[old.instance].expiry(old));
        if expiry <= self.now
            && old_expiry.is_some_and(|old_expiry| old_expiry > self.now)
            && old != Some(now)
        {
            return Err(broken(
                "the last good token is never removed",
                format!("{secret} got one that is over"),
            ));
        }
        let orphaned = after.controller.as_ref().filter(|owner| {
            let named = self.cluster.resources.get(&name(&owner.name));
            named.is_none_or(|resource| resource.uid != owner.uid)
        });
        if let Some(uid) = orphaned.map(|owner| owner.uid.clone()) {
            // Garbage collection finds that its owner is gone.
            self.after(5 * SECOND, Event::Collect(secret.clone(), uid));
        }
        let allowance = allowance(self.instances[now.instance].mode);
        self.check_after(expiry - self.now + allowance, secret);
        Ok(())
    }

    /// The other resource that owns this Secret and still wants it, and has wanted nothing else of
    /// late.
    fn still_owned(
        &self,
        secret: &Name,
        before: &TargetObject,
        after: &TargetObject,
    ) -> Option<Name> {
        let owner = before.controller.as_ref()?;
        let other = self.cluster.resources.get(&name(&owner.name))?;
        let another = after.controller.as_ref() != Some(owner);
        let wants = other.uid == owner.uid && other.target_secret().as_ref() == Some(secret);
        let quiet = self.promises.is_quiet(&other.name, self.now);
        (another && wants && quiet).then(|| other.name.clone())
    }

    /// The target of the old name is gone: that of the new one was there before.
    pub(crate) fn succeeded(&self, credential: &Credential, old: &str) -> Done {
        let Some(target) = credential.target_secret() else {
            return Ok(());
        };
        let there = self.expiry_in(&target).is_some() || self.cluster.taken.contains(&target);
        if there {
            return Ok(());
        }
        Err(Broken {
            at: self.now,
            promise: "the old Secret goes when the new one is there",
            seen: format!("{old} was deleted, and {target} holds no token"),
        })
    }

    /// When the token is over that a Secret holds.
    pub(crate) fn expiry_in(&self, secret: &Name) -> Option<Micros> {
        let issued = issued(self.cluster.secrets.get(secret)?)?;
        Some(self.instances[issued.instance].expiry(issued))
    }

    /// A token in a Secret was over some while ago: is there another?
    pub(crate) fn check(&mut self, secret: &Name) -> Done {
        let Some(target) = self.cluster.secrets.get(secret) else {
            return Ok(());
        };
        let Some(who) = writer(target) else {
            return Ok(());
        };
        let Some(credential) = self.cluster.resources.get(&who) else {
            return Ok(());
        };
        let Some(issued) = issued(target) else {
            return Ok(());
        };
        let expiry = self.instances[issued.instance].expiry(issued);
        let mode = self.instances[issued.instance].mode;
        let allowance = allowance(mode);
        if expiry + allowance > self.now {
            self.check_after(expiry + allowance - self.now, secret);
            return Ok(());
        }
        self.statistics.stalest = self.statistics.stalest.max(self.now - expiry);
        if credential.target_secret().as_ref() != Some(secret) {
            // It is another's, or about to go.
            return Ok(());
        }
        let Some(client) = self.client_of_resource(&who) else {
            return Ok(());
        };
        let excused = self.promises.excused_until(&who, client, Some(expiry));
        if excused > self.now {
            let again = excused.min(self.now + HOUR) - self.now + SECOND;
            self.check_after(again, secret);
            return Ok(());
        }
        Err(Broken {
            at: self.now,
            promise: "while the instance can answer, no workload reads an expired token",
            seen: format!(
                "{secret} holds a token that was over {} ms ago; the status of {who} is {:#?}",
                (self.now - expiry) / 1000,
                credential.status
            ),
        })
    }
}

/// The token that a Secret holds, whatever its template.
pub(crate) fn issued(secret: &TargetObject) -> Option<Issued> {
    let text = secret.data.get("token")?;
    Issued::read(text.strip_prefix(b"Bearer ").unwrap_or(text))
}

/// At an instance that keeps tokens until they expire, the gap is a request and a write, behind
/// those whose tokens expire at the same moment; elsewhere there is none.
pub(crate) fn allowance(mode: Mode) -> Micros {
    match mode {
        Mode::ReuseRemaining => 10 * SECOND,
        Mode::ReuseSlide | Mode::AlwaysNew => 0,
    }
}
