//! What a resource had before a step, which a failure may not take away.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use servicenow_credential_operator::api::ServiceNowCredentialStatus;

use crate::{
    alike::{is_ready, owner, reason, target, target_stands, used_what_is_there},
    history::Told,
    rival::RIVAL,
    step::Step,
    support::end::difference,
    world::World,
};

/// What the resource had when it was last compared.
pub(crate) struct Kept {
    /// The name of the target Secret, and how it was when the resource was last synced, unless
    /// somebody has changed it since.
    last_good: Option<(String, Value)>,
    /// Of the status, and of the workload.
    record: Value,
    /// What the policy Orphan has left behind, and how, where that is known.
    orphans: BTreeMap<String, Option<Value>>,
    /// The target's name, and the resource that owned the Secret.
    owner: Option<(String, String)>,
    /// The workload was restarted in the last step.
    was_restarted: bool,
}

/// What a status says of token, target and referenced objects. The renewal time follows the spec.
pub(crate) fn record_of(status: &ServiceNowCredentialStatus) -> Value {
    let status = json!(status);
    let mut token = status["token"].clone();
    if let Some(token) = token.as_object_mut() {
        token.remove("renewalTime");
    }
    json!({"token": token, "target": status["target"], "observed": status["observed"]})
}

impl Kept {
    /// Of a resource that is new.
    pub(crate) fn new() -> Self {
        Self {
            last_good: None,
            record: record_of(&ServiceNowCredentialStatus::default()),
            orphans: BTreeMap::new(),
            owner: None,
            was_restarted: false,
        }
    }

    /// The resource is deleted, and what it has left behind stays.
    pub(crate) fn begin_anew(&mut self) {
        let restarted = self.record["restarted"].take();
        *self = Self {
            orphans: self.orphans_beside(None),
            ..Self::new()
        };
        self.record["restarted"] = restarted;
    }

    /// Somebody else has changed the Secret of this name.
    pub(crate) fn forget(&mut self, name: &str) {
        self.last_good.take_if(|(good, _)| good == name);
        self.orphans
            .entry(name.to_owned())
            .and_modify(|is| *is = None);
    }

    /// The Secret of this name may belong to anybody from now on.
    pub(crate) fn disown(&mut self, name: &str) {
        self.owner.take_if(|(owned, _)| owned == name);
    }

    /// After a step that came to this.
    pub(crate) fn remember(&mut self, world: &World, end: &Value, record: Value) {
        let name = world.target();
        if reason(end) == "TokenSynced" {
            self.orphans = self.orphans_beside(Some(name));
            self.last_good = Some((name.to_owned(), target(end, name)));
        }
        self.was_restarted = self.record["restarted"] != record["restarted"];
        self.record = record;
        self.owner = owner(end, name).map(|owner| (name.to_owned(), owner.to_owned()));
    }

    /// Counts what there was after a step.
    pub(crate) fn count_in(&self, told: &mut Told) {
        told.restarts += usize::from(self.was_restarted);
        told.with_orphans += usize::from(!self.orphans.is_empty());
        let owner = self.owner.as_ref().map(|(_, owner)| owner.as_str());
        told.behind_rival += usize::from(owner == Some(RIVAL));
    }

    /// The orphans but for the one that is the target again.
    pub(crate) fn orphans_beside(&self, name: Option<&str>) -> BTreeMap<String, Option<Value>> {
        let mut orphans = self.orphans.clone();
        let last = &self.record["target"];
        if let ("Orphan", Some(written)) = (
            last["creationPolicy"].as_str().unwrap_or_default(),
            last["name"].as_str(),
        ) {
            let good = self.last_good.as_ref().filter(|(good, _)| good == written);
            orphans.insert(written.to_owned(), good.map(|(_, secret)| secret.clone()));
        }
        orphans.retain(|orphan, _| Some(orphan.as_str()) != name);
        orphans
    }

    /// What of an orphan is no longer as it was left.
    pub(crate) fn orphan_is_touched(&self, world: &World, end: &Value) -> Option<String> {
        let orphans = self.orphans_beside(Some(world.target()));
        let touched = orphans.iter().find_map(|(name, before)| {
            let (before, now) = (before.as_ref()?, target(end, name));
            (*before != now).then(|| difference(before, &now))
        });
        touched.map(|difference| format!("an orphan: {difference}"))
    }

    /// What of the last good state a failure has taken away: the Secret, under its old name too as
    /// long as the new one has not come to be, and what the status says of it.
    pub(crate) fn is_lost(&self, end: &Value, record: &Value) -> Option<String> {
        let said = |field: &str| {
            let (before, now) = (&self.record[field], &record[field]);
            (before != now).then(|| format!("the last good {field}: {}", difference(before, now)))
        };
        let secret = || {
            let (name, before) = self.last_good.as_ref()?;
            let now = target(end, name);
            let lost = || format!("the last good Secret: {}", difference(before, &now));
            (now != *before).then(lost).or_else(|| said("target"))
        };
        let ready = || {
            let intact = target_stands(end) && is_ready(end);
            (self.last_good.is_some() && !intact).then(|| "the last good token is valid".to_owned())
        };
        // What the instance was asked with is on record, whatever it answered.
        let observed = || said("observed").filter(|_| !used_what_is_there(end));
        said("token")
            .or_else(secret)
            .or_else(ready)
            .or_else(observed)
    }

    /// A workload is restarted if the token's value has changed while it was listed, and for nothing
    /// else.
    pub(crate) fn restart_is_wrong(&self, step: &Step, record: &Value) -> Option<String> {
        let (before, now) = (&self.record, record);
        // Where a renewal was asked for, the first token may have a second one behind it.
        if before["token"].is_null() && !matches!(step, Step::Recreate) {
            return None;
        }
        let listed = |record: &Value| record["restart"].as_array().is_some_and(|l| !l.is_empty());
        let [old, new] = [before, now].map(|record| &record["token"]["sha256"]);
        let due = listed(before) && listed(now) && old.is_string() && old != new;
        let [old, new] = [before, now].map(|record| &record["restarted"]);
        (due != (old != new)).then(|| format!("restarted at {old}, and now {new}, due: {due}"))
    }

    /// The present owner of a target keeps it.
    pub(crate) fn owner_has_changed(&self, world: &World, end: &Value) -> Option<String> {
        let (name, before) = self.owner.as_ref().filter(|(n, _)| n == world.target())?;
        let now = owner(end, name).filter(|now| now != before)?;
        Some(format!("the Secret {name} was {before}'s, and is {now}'s"))
    }
}
