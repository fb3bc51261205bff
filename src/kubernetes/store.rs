//! What the watches have told: the resources, trimmed, and the objects that they name.
//!
//! No I/O: events go in, and the names of the resources to wake come out.

use std::sync::Arc;

use foldhash::HashMap;
use jiff::Timestamp;

use super::objects::{Objects, Relist, is_newer};

use crate::{
    api::{CreationPolicy, ServiceNowCredentialStatus},
    decide::{
        Credential, Name, Seen,
        observed::{Kind, Rival, Role, Version},
    },
};

/// Resources and the objects that they name.
#[derive(Default)]
pub struct Store {
    credentials: HashMap<Name, Arc<Credential>>,
    /// The Secrets that they name.
    pub secrets: Objects,
    /// The ConfigMaps that they name.
    pub config_maps: Objects,
    /// The resourceVersions of our own status writes that the watch has not brought yet.
    written: HashMap<Name, String>,
    /// Writes of ours that have no answer yet.
    under_way: HashMap<Name, UnderWay>,
    relists: u64,
}

/// What a resource's reconcile writes just now. A watch often brings a write of ours before its
/// answer comes, and what may be that is told to the reconcile at its end, if it was not.
struct UnderWay {
    write: Write,
    /// A watch has told of something that may be this very write.
    told: bool,
}

/// What a reconcile writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The resource's target.
    Target,
    /// The resource's status.
    Status,
}

impl Store {
    /// A resource by its name.
    pub fn get(&self, name: &Name) -> Option<&Arc<Credential>> {
        self.credentials.get(name)
    }

    /// All resources, by name: what follows from them never depends on the order in memory.
    pub fn all(&self) -> Vec<Arc<Credential>> {
        let mut all: Vec<_> = self.credentials.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The objects of a kind.
    pub fn objects(&self, kind: Kind) -> &Objects {
        match kind {
            Kind::Secret => &self.secrets,
            Kind::ConfigMap => &self.config_maps,
        }
    }

    /// The objects of a kind, to change.
    pub fn objects_mut(&mut self, kind: Kind) -> &mut Objects {
        match kind {
            Kind::Secret => &mut self.secrets,
            Kind::ConfigMap => &mut self.config_maps,
        }
    }

    /// Takes a resource in; returns who is to wake.
    pub fn apply(&mut self, credential: impl Into<Arc<Credential>>) -> Vec<Name> {
        let mut credential = credential.into();
        let old = self.credentials.get(&credential.name);
        let old = old.filter(|old| old.uid == credential.uid);
        if let Some(old) = old {
            if !is_newer(&credential.resource_version, &old.resource_version) {
                return Vec::new();
            }
            // Somebody's change from before our last status write comes without that status.
            let written = self.written.get(&credential.name);
            if written.is_some_and(|ours| is_newer(ours, &credential.resource_version)) {
                Arc::make_mut(&mut credential).status = old.status.clone();
                return self.take_in(credential);
            }
        }
        self.written.remove(&credential.name);
        self.take_in(credential)
    }

    fn take_in(&mut self, credential: Arc<Credential>) -> Vec<Name> {
        let name = credential.name.clone();
        let old = self.credentials.get(&name).cloned();
        let wakes = match old.as_ref().map(|old| difference(old, &credential)) {
            None | Some(Difference::Matters) => true,
            Some(Difference::Nothing) => false,
            Some(Difference::Status) => !self.may_be_ours(&name, Write::Status),
        };
        let mut woken: Vec<_> = wakes.then(|| name.clone()).into_iter().collect();
        let (before, after) = (old.as_deref().map(named_by), named_by(&credential));
        let before = before.unwrap_or_default();
        // A target that is given up may be another's now, even while the status still names it.
        if let Some(old) = old.as_deref()
            && let Some(given_up) = old.target_secret()
            && !(old.uid == credential.uid
                && merges(old) == merges(&credential)
                && credential.target_secret().as_ref() == Some(&given_up))
        {
            let others = self.secrets.users(&given_up);
            woken.extend(others.filter(|user| **user != name).cloned());
        }
        for (kind, object) in before.iter().filter(|o| !after.contains(o)).flatten() {
            woken.extend(self.objects_mut(*kind).unname(object, &name));
        }
        let since = self.relists;
        for (kind, object) in after.iter().filter(|o| !before.contains(o)).flatten() {
            self.objects_mut(*kind).name(object, &name, since);
        }
        self.credentials.insert(name, credential);
        woken
    }

    /// Takes the answer of a status write in. It wakes others, where a Secret is given up with it,
    /// and the resource itself only where a watch told of another status meanwhile.
    pub fn status_written(
        &mut self,
        name: &Name,
        uid: &str,
        resource_version: String,
        status: Arc<ServiceNowCredentialStatus>,
    ) -> Vec<Name> {
        let told = self.end_write(name);
        let Some(old) = self.credentials.get(name).filter(|old| old.uid == uid) else {
            return Vec::new();
        };
        let wakes = told && old.status != status;
        let mut woken = Vec::new();
        if is_newer(&resource_version, &old.resource_version) {
            // The resourceVersion stays: what else has changed meanwhile is still to come with the
            // watch, under a version between the two or under this very one.
            let credential = Credential {
                status,
                ..Credential::clone(old)
            };
            self.written.insert(name.clone(), resource_version);
            woken = self.take_in(Arc::new(credential));
            woken.retain(|other| other != name);
        }
        woken.extend(wakes.then(|| name.clone()));
        woken
    }

    /// A resource is gone; returns who is to wake.
    pub fn remove(&mut self, name: &Name) -> Vec<Name> {
        let Some(old) = self.credentials.remove(name) else {
            return Vec::new();
        };
        self.written.remove(name);
        self.under_way.remove(name);
        let mut woken = vec![name.clone()];
        for (kind, object) in named_by(&old).iter().flatten() {
            woken.extend(self.objects_mut(*kind).unname(object, name));
        }
        woken
    }

    /// A reconcile begins to write.
    pub fn begin_write(&mut self, name: &Name, write: Write) {
        let told = false;
        self.under_way
            .insert(name.clone(), UnderWay { write, told });
    }

    /// The write has its answer, or the reconcile its end; returns whether a watch has told of
    /// something since that was not this write.
    pub fn end_write(&mut self, name: &Name) -> bool {
        self.under_way.remove(name).is_some_and(|write| write.told)
    }

    /// Whether what a watch tells may be the resource's own write, which is then to look at its end.
    fn may_be_ours(&mut self, name: &Name, write: Write) -> bool {
        match self.under_way.get_mut(name) {
            Some(under_way) if under_way.write == write => {
                under_way.told = true;
                true
            }
            _ => false,
        }
    }

    /// The watch tells that an object exists in this state; returns who is to wake.
    pub fn object_applied(&mut self, kind: Kind, object: &Name, version: Version) -> Vec<Name> {
        let mut woken = self.objects_mut(kind).applied(object, version);
        woken.retain(|user| {
            let credential = self.credentials.get(user);
            let target = credential.and_then(|credential| credential.target_secret());
            let is_target = kind == Kind::Secret && target.as_ref() == Some(object);
            !(is_target && self.may_be_ours(user, Write::Target))
        });
        woken
    }

    /// The write of a resource's target has its answer: the Secret is in this state now, or nobody
    /// knows. Returns who is to wake.
    pub fn target_written(
        &mut self,
        name: &Name,
        secret: &Name,
        version: Option<&Version>,
    ) -> Vec<Name> {
        let told = self.end_write(name);
        let mut woken = match version {
            Some(version) => self.secrets.applied(secret, version.clone()),
            None => Vec::new(),
        };
        woken.retain(|other| other != name);
        let known = matches!((self.secrets.seen(secret), version),
            (Seen::Present(seen), Some(written)) if seen == written);
        if told && !known {
            woken.push(name.clone());
        }
        woken
    }

    /// A list of resources or of objects that they name begins.
    pub fn begin_relist(&mut self, namespace: Option<&str>) -> Relist {
        self.relists += 1;
        Relist::new(namespace, self.relists)
    }

    /// The resource is in the list.
    pub fn listed(
        &mut self,
        relist: &mut Relist,
        credential: impl Into<Arc<Credential>>,
    ) -> Vec<Name> {
        let credential = credential.into();
        relist.lists(credential.name.clone());
        self.apply(credential)
    }

    /// The list of resources is complete: the others are gone.
    pub fn end_relist(&mut self, relist: &Relist) -> Vec<Name> {
        let mut gone: Vec<_> = self
            .credentials
            .keys()
            .filter(|name| relist.covers(name))
            .cloned()
            .collect();
        gone.sort_unstable();
        gone.iter().flat_map(|name| self.remove(name)).collect()
    }

    /// The resource that comes before this one for the same target, if any: the present owner,
    /// else the older one. Those who merge create no Secret, so the Secret alone says whether they may.
    pub fn rival(&self, credential: &Credential) -> Option<Rival> {
        let target = credential.target_secret()?;
        let seen = self.secrets.seen(&target);
        let owns = |c: &Credential| {
            let wrote = c.status.target.as_ref();
            let wrote = wrote.filter(|t| t.creation_policy != CreationPolicy::Merge);
            match (seen, wrote) {
                (Seen::Present(seen), Some(t)) => *t.name == *target.name && t.uid == seen.uid,
                // Nobody has seen it yet: who wrote it last would know.
                (Seen::Unknown, Some(t)) => *t.name == *target.name,
                _ => false,
            }
        };
        if merges(credential) || owns(credential) {
            return None;
        }
        let others = self.secrets.users(&target);
        let others = others.filter(|user| **user != credential.name);
        let others = others.filter_map(|user| self.credentials.get(user));
        others
            .filter(|other| other.target_secret().as_ref() == Some(&target))
            .filter(|other| owns(other) || !merges(other) && age(other) < age(credential))
            .min_by(|a, b| (!owns(a), age(a)).cmp(&(!owns(b), age(b))))
            .map(|other| Rival {
                name: other.name.name.to_string(),
                owns: owns(other),
            })
    }
}

/// By what two resources are told apart of which neither owns their target.
fn age(credential: &Credential) -> (Timestamp, &str) {
    (credential.created_at, &credential.uid)
}

/// How a resource differs from what it was.
enum Difference {
    Nothing,
    /// In its status alone: our own is in the store already when the watch brings it after its
    /// answer.
    Status,
    Matters,
}

fn difference(old: &Credential, new: &Credential) -> Difference {
    let matters = old.uid != new.uid
        || old.generation != new.generation
        || old.deleting != new.deleting
        || old.finalizer != new.finalizer
        || old.renew_request != new.renew_request;
    match matters {
        true => Difference::Matters,
        false if old.status != new.status => Difference::Status,
        false => Difference::Nothing,
    }
}

fn merges(credential: &Credential) -> bool {
    let spec = credential.spec.as_ref();
    spec.is_ok_and(|spec| spec.creation_policy() == CreationPolicy::Merge)
}

/// Every object that a resource names: what its spec refers to, its target, and the target it had
/// before.
fn named_by(credential: &Credential) -> [Option<(Kind, Name)>; Role::COUNT + 2] {
    let mut named = <[_; Role::COUNT + 2]>::default();
    let targets = [credential.target_secret(), credential.written_secret()];
    for (slot, target) in named.iter_mut().zip(targets) {
        *slot = target.map(|name| (Kind::Secret, name));
    }
    for (role, kind, name) in credential.references() {
        named[2 + role as usize] = Some((kind, name));
    }
    named
}
