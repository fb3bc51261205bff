//! What the watch of one kind has told: the uid and resourceVersion of each object that some
//! resource names. Of any other object, nothing is kept.

use std::{collections::BTreeSet, sync::Arc};

use foldhash::{HashMap, HashSet};

use crate::decide::{Name, Seen, observed::Version};

/// The objects of one kind that resources name.
#[derive(Default)]
pub struct Objects {
    named: HashMap<Name, Named>,
    /// The namespaces, or all, whose list was complete once: from then on a watch tells of what comes.
    listed: HashSet<Option<Arc<str>>>,
}

/// An object that somebody names.
#[derive(Default)]
struct Named {
    /// In order. Most objects have one, for whom a tree's node is ten times too large.
    users: Vec<Name>,
    seen: Seen,
    /// The resourceVersion at which it was last deleted, or the last known of it where a list did not
    /// hold it any more: a read may have been answered before that, and be heard of after it.
    gone: Option<Box<str>>,
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
    /// A list of one namespace, or of all, that is the `begun`th.
    pub(super) fn new(namespace: Option<&str>, begun: u64) -> Self {
        Self {
            namespace: namespace.map(Arc::from),
            begun,
            listed: HashSet::default(),
        }
    }

    /// The list holds the object.
    pub(super) fn lists(&mut self, name: Name) {
        self.listed.insert(name);
    }

    /// The list would hold the object, and does not.
    pub(super) fn covers(&self, name: &Name) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|ns| *ns == name.namespace)
            && !self.listed.contains(name)
    }
}

impl Objects {
    /// Whether nobody names any.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Its watch has ended: what exists is not known until there is another list.
    pub fn unlisted(&mut self) {
        self.listed.clear();
    }

    /// What is known of an object.
    pub fn seen(&self, object: &Name) -> &Seen {
        let named = self.named.get(object);
        named.map_or(&Seen::Unknown, |named| &named.seen)
    }

    /// Those who name an object.
    pub fn users(&self, object: &Name) -> impl Iterator<Item = &Name> {
        let named = self.named.get(object);
        named.into_iter().flat_map(|named| &named.users)
    }

    /// A resource names an object, since the relist of that number.
    pub(super) fn name(&mut self, object: &Name, user: &Name, since: u64) {
        let named = self.named.entry(object.clone()).or_insert_with(|| Named {
            since,
            ..Named::default()
        });
        if let Err(place) = named.users.binary_search(user) {
            if named.users.is_empty() {
                named.users.reserve_exact(1);
            }
            named.users.insert(place, user.clone());
        }
    }

    /// A resource names an object no more. The others wake: it may be theirs now.
    pub(super) fn unname(&mut self, object: &Name, user: &Name) -> Vec<Name> {
        let Some(named) = self.named.get_mut(object) else {
            return Vec::new();
        };
        if let Ok(place) = named.users.binary_search(user) {
            named.users.remove(place);
        }
        if named.users.is_empty() {
            self.named.remove(object);
            return Vec::new();
        }
        named.users.clone()
    }

    /// An object exists in this state; returns who is to wake.
    pub fn applied(&mut self, object: &Name, version: Version) -> Vec<Name> {
        let Some(named) = self.named.get_mut(object) else {
            return Vec::new();
        };
        let known = match &named.seen {
            Seen::Present(old) => Some(&*old.resource_version),
            Seen::Absent => named.gone.as_deref(),
            Seen::Unknown => None,
        };
        if known.is_some_and(|known| !is_newer(&version.resource_version, known)) {
            return Vec::new();
        }
        named.seen = Seen::Present(version);
        named.users.clone()
    }

    /// An object was deleted, in this last state; returns who is to wake.
    pub fn deleted(&mut self, object: &Name, resource_version: &str) -> Vec<Name> {
        let Some(named) = self.named.get_mut(object) else {
            return Vec::new();
        };
        match &named.seen {
            Seen::Absent => Vec::new(),
            Seen::Present(old) if is_newer(&old.resource_version, resource_version) => Vec::new(),
            _ => {
                named.seen = Seen::Absent;
                named.gone = Some(resource_version.into());
                named.users.clone()
            }
        }
    }

    /// A read of ours found an object, or found none; the watch is believed where it knows more.
    /// Returns who is to wake: when the watch brings the same news, it is none any more.
    pub fn read(&mut self, object: &Name, found: Option<Version>) -> Vec<Name> {
        match found {
            Some(version) => self.applied(object, version),
            None => {
                let namespace = Some(object.namespace.clone());
                let watched = self.listed.contains(&None) || self.listed.contains(&namespace);
                if let Some(named) = self.named.get_mut(object).filter(|_| watched)
                    && named.seen == Seen::Unknown
                {
                    named.seen = Seen::Absent;
                    return named.users.clone();
                }
                Vec::new()
            }
        }
    }

    /// An object is in the list.
    pub fn listed(&mut self, relist: &mut Relist, object: &Name, version: Version) -> Vec<Name> {
        if self.named.contains_key(object) {
            relist.lists(object.clone());
        }
        self.applied(object, version)
    }

    /// The list is complete: the others are gone, but for those that were named only while it ran,
    /// of which it may have said nothing in time.
    pub fn end_relist(&mut self, relist: &Relist) -> Vec<Name> {
        self.listed.insert(relist.namespace.clone());
        let mut woken = BTreeSet::new();
        for (object, named) in &mut self.named {
            if relist.covers(object) && named.since < relist.begun && named.seen != Seen::Absent {
                if let Seen::Present(last) = std::mem::replace(&mut named.seen, Seen::Absent) {
                    named.gone = Some(last.resource_version.into());
                }
                woken.extend(named.users.iter().cloned());
            }
        }
        woken.into_iter().collect()
    }
}

/// Resource versions of one resource type compare as numbers (Kubernetes API concepts, "Resource
/// versions"); where they do not parse, the newcomer is believed if it differs.
pub(super) fn is_newer(new: &str, old: &str) -> bool {
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if is_number(new) && is_number(old) {
        // They have no zeros in front, so the longer one is the larger.
        return (new.len(), new) > (old.len(), old);
    }
    new != old
}
