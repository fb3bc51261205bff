//! What the watches have told: the resources, trimmed, and the uid and resourceVersion of each
//! Secret that one of them names. Of any other Secret, nothing is kept.
//!
//! No I/O: events go in, and the names of the resources to wake come out.

use std::{collections::BTreeSet, sync::Arc};

use foldhash::{HashMap, HashSet};

use crate::{
    api::ServiceNowCredentialStatus,
    decide::{
        Credential, Name, Seen,
        observed::{Rival, Version},
    },
};

/// Resources and the Secrets that they name.
#[derive(Default)]
pub struct Store {
    credentials: HashMap<Name, Arc<Credential>>,
    secrets: HashMap<Name, Named>,
    /// The resourceVersions of our own status writes that the watch has not brought yet.
    written: HashMap<Name, String>,
    relists: u64,
}

/// A Secret that somebody names.
#[derive(Default)]
struct Named {
    users: BTreeSet<Name>,
    seen: Seen,
    /// The relist that was under way, or the last one, when it was first named.
    since: u64,
}

/// A list of objects under way: what it does not hold when it is done does not exist.
#[derive(Default)]
pub struct Relist {
    namespace: Option<Arc<str>>,
    begun: u64,
    listed: HashSet<Name>,
}

impl Relist {
    fn covers(&self, name: &Name) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|ns| *ns == name.namespace)
            && !self.listed.contains(name)
    }
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

    /// What is known of a Secret.
    pub fn seen(&self, secret: &Name) -> &Seen {
        let named = self.secrets.get(secret);
        named.map_or(&Seen::Unknown, |named| &named.seen)
    }

    /// Takes a resource in; returns who is to wake.
    pub fn apply(&mut self, mut credential: Credential) -> Vec<Name> {
        let old = self.credentials.get(&credential.name);
        let old = old.filter(|old| old.uid == credential.uid);
        if let Some(old) = old {
            if !is_newer(&credential.resource_version, &old.resource_version) {
                return Vec::new();
            }
            // Somebody's change from before our last status write comes without that status.
            let written = self.written.get(&credential.name);
            if written.is_some_and(|ours| is_newer(ours, &credential.resource_version)) {
                credential.status = old.status.clone();
                return self.take_in(credential);
            }
        }
        self.written.remove(&credential.name);
        self.take_in(credential)
    }

    fn take_in(&mut self, credential: Credential) -> Vec<Name> {
        let name = credential.name.clone();
        let old = self.credentials.get(&name).cloned();
        let wakes = old
            .as_ref()
            .is_none_or(|old| asks_for_a_look(old, &credential));
        let mut woken: Vec<_> = wakes.then(|| name.clone()).into_iter().collect();
        let (before, after) = (old.as_deref().map(secrets_of), secrets_of(&credential));
        let before = before.unwrap_or_default();
        // A target that is given up may be another's now, even while the status still names it.
        if let Some(given_up) = old.as_deref().and_then(Credential::target_secret)
            && credential.target_secret().as_ref() != Some(&given_up)
        {
            let others = self.secrets.get(&given_up).map(|named| &named.users);
            woken.extend(
                others
                    .into_iter()
                    .flatten()
                    .filter(|user| **user != name)
                    .cloned(),
            );
        }
        for secret in before.iter().filter(|s| !after.contains(s)).flatten() {
            woken.extend(self.unname(secret, &name));
        }
        for secret in after.iter().filter(|s| !before.contains(s)).flatten() {
            let since = self.relists;
            let named = self.secrets.entry(secret.clone()).or_insert_with(|| Named {
                since,
                ..Named::default()
            });
            named.users.insert(name.clone());
        }
        self.credentials.insert(name, Arc::new(credential));
        woken
    }

    /// Takes the answer of a status write in. It wakes others, where a Secret is given up with it,
    /// and never the resource itself.
    pub fn status_written(
        &mut self,
        name: &Name,
        uid: &str,
        resource_version: String,
        status: Arc<ServiceNowCredentialStatus>,
    ) -> Vec<Name> {
        let Some(old) = self.credentials.get(name).filter(|old| old.uid == uid) else {
            return Vec::new();
        };
        if !is_newer(&resource_version, &old.resource_version) {
            return Vec::new();
        }
        // The resourceVersion stays: what else has changed meanwhile is still to come with the
        // watch, under a version between the two or under this very one.
        let credential = Credential {
            status,
            ..Credential::clone(old)
        };
        self.written.insert(name.clone(), resource_version);
        let mut woken = self.take_in(credential);
        woken.retain(|other| other != name);
        woken
    }

    /// A resource is gone; returns who is to wake.
    pub fn remove(&mut self, name: &Name) -> Vec<Name> {
        let Some(old) = self.credentials.remove(name) else {
            return Vec::new();
        };
        self.written.remove(name);
        let mut woken = vec![name.clone()];
        for secret in secrets_of(&old).iter().flatten() {
            woken.extend(self.unname(secret, name));
        }
        woken
    }

    /// The others that name the Secret wake: it may be theirs now.
    fn unname(&mut self, secret: &Name, user: &Name) -> Vec<Name> {
        let Some(named) = self.secrets.get_mut(secret) else {
            return Vec::new();
        };
        named.users.remove(user);
        if named.users.is_empty() {
            self.secrets.remove(secret);
            return Vec::new();
        }
        named.users.iter().cloned().collect()
    }

    /// A list of resources or Secrets begins.
    pub fn begin_relist(&mut self, namespace: Option<&str>) -> Relist {
        self.relists += 1;
        Relist {
            namespace: namespace.map(Arc::from),
            begun: self.relists,
            listed: HashSet::default(),
        }
    }

    /// The resource is in the list.
    pub fn listed(&mut self, relist: &mut Relist, credential: Credential) -> Vec<Name> {
        relist.listed.insert(credential.name.clone());
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

    /// A Secret exists in this state; returns who is to wake.
    pub fn secret_applied(&mut self, secret: &Name, version: Version) -> Vec<Name> {
        let Some(named) = self.secrets.get_mut(secret) else {
            return Vec::new();
        };
        if let Seen::Present(old) = &named.seen
            && !is_newer(&version.resource_version, &old.resource_version)
        {
            return Vec::new();
        }
        named.seen = Seen::Present(version);
        named.users.iter().cloned().collect()
    }

    /// A Secret was deleted, in this last state; returns who is to wake.
    pub fn secret_deleted(&mut self, secret: &Name, resource_version: &str) -> Vec<Name> {
        let Some(named) = self.secrets.get_mut(secret) else {
            return Vec::new();
        };
        match &named.seen {
            Seen::Absent => Vec::new(),
            Seen::Present(old) if is_newer(&old.resource_version, resource_version) => Vec::new(),
            _ => {
                named.seen = Seen::Absent;
                named.users.iter().cloned().collect()
            }
        }
    }

    /// A read of ours found a Secret, or found none; the watch is believed where it knows more.
    /// Returns who is to wake: when the watch brings the same news, it is none any more.
    pub fn secret_read(&mut self, secret: &Name, found: Option<Version>) -> Vec<Name> {
        match found {
            Some(version) => self.secret_applied(secret, version),
            None => {
                if let Some(named) = self.secrets.get_mut(secret)
                    && named.seen == Seen::Unknown
                {
                    named.seen = Seen::Absent;
                }
                Vec::new()
            }
        }
    }

    /// The Secret is in the list.
    pub fn secret_listed(
        &mut self,
        relist: &mut Relist,
        secret: &Name,
        version: Version,
    ) -> Vec<Name> {
        if self.secrets.contains_key(secret) {
            relist.listed.insert(secret.clone());
        }
        self.secret_applied(secret, version)
    }

    /// The list of Secrets is complete: the others are gone, but for those that were named only
    /// while it ran, of which it may have said nothing in time.
    pub fn end_secret_relist(&mut self, relist: &Relist) -> Vec<Name> {
        let mut woken = BTreeSet::new();
        for (secret, named) in &mut self.secrets {
            if relist.covers(secret) && named.since < relist.begun && named.seen != Seen::Absent {
                named.seen = Seen::Absent;
                woken.extend(named.users.iter().cloned());
            }
        }
        woken.into_iter().collect()
    }

    /// The resource that comes before this one for the same target, if any: the present owner,
    /// else the older one.
    pub fn rival(&self, credential: &Credential) -> Option<Rival> {
        let target = credential.target_secret()?;
        let named = self.secrets.get(&target)?;
        let owns = |c: &Credential| match (&named.seen, &c.status.target) {
            (Seen::Present(seen), Some(t)) => *t.name == *target.name && t.uid == seen.uid,
            _ => false,
        };
        if owns(credential) {
            return None;
        }
        let age = |c: &Credential| (c.created_at, c.uid.clone());
        named
            .users
            .iter()
            .filter(|user| **user != credential.name)
            .filter_map(|user| self.credentials.get(user))
            .filter(|other| other.target_secret().as_ref() == Some(&target))
            .find(|other| owns(other) || age(other) < age(credential))
            .map(|other| Rival {
                name: other.name.name.to_string(),
            })
    }
}

/// Whether a resource has to be looked at, now that it changed. Its own status, as we wrote it,
/// is in the store already when the watch brings it back.
fn asks_for_a_look(old: &Credential, new: &Credential) -> bool {
    old.uid != new.uid
        || old.generation != new.generation
        || old.deleting != new.deleting
        || old.renew_request != new.renew_request
        || old.status != new.status
}

/// Every Secret that a resource names: its client's, its target, and the target it had before.
fn secrets_of(credential: &Credential) -> [Option<Name>; 3] {
    [
        credential.client_secret(),
        credential.target_secret(),
        credential.written_secret(),
    ]
}

/// Resource versions of one resource type compare as numbers (Kubernetes API concepts, "Resource
/// versions"); where they do not parse, the newcomer is believed if it differs.
fn is_newer(new: &str, old: &str) -> bool {
    match (new.parse::<u128>(), old.parse::<u128>()) {
        (Ok(new), Ok(old)) => new > old,
        _ => new != old,
    }
}
