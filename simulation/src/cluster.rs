//! The cluster: resources and Secrets as the API server keeps them, and what its watches tell.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use foldhash::fast::FixedState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use servicenow_credential_operator::{
    api::{ServiceNowCredentialSpec, ServiceNowCredentialStatus},
    decide::{
        Credential, Name,
        observed::{Version, WriteOutcome},
        ownership::{CREDENTIAL, Desired, Fields, TargetObject, TargetWrite},
    },
};

use crate::time::{Micros, wall};

/// The one namespace.
const NAMESPACE: &str = "team-a";

/// Something for each name. Whatever depends on its order has to sort it.
pub type ByName<T> = HashMap<Name, T, FixedState>;

thread_local! {
    static SHARED: Arc<str> = NAMESPACE.into();
}

/// A name in it.
pub fn name(name: &str) -> Name {
    Name {
        namespace: SHARED.with(Arc::clone),
        name: name.into(),
    }
}

/// News of a watch.
#[derive(Clone)]
pub enum News {
    /// A resource as it is now.
    Resource(Arc<Credential>),
    /// A resource is gone.
    ResourceGone(Name),
    /// A Secret exists in this state.
    Secret(Name, Version),
    /// A Secret is gone; this was its last resourceVersion.
    SecretGone(Name, String),
}

/// A client Secret: which client it holds, or nothing that could be used.
#[derive(Clone, Debug)]
pub struct ClientSecret {
    /// Its state.
    pub version: Version,
    /// The number of the client's secret in it.
    pub secret: u32,
}

/// What the API server keeps.
#[derive(Default)]
pub struct Cluster {
    /// The resources.
    pub resources: ByName<Arc<Credential>>,
    /// Targets, and what is in their way.
    pub secrets: ByName<TargetObject>,
    /// Client Secrets.
    pub clients: ByName<ClientSecret>,
    /// What the watches have not told yet.
    pub news: Vec<News>,
    /// Secrets that somebody else has deleted or edited since they were written.
    pub taken: HashSet<Name, FixedState>,
    version: u64,
}

/// What a write of a target did.
pub struct Written {
    /// As the operator is told.
    pub outcome: WriteOutcome,
    /// The Secret before, if the write came to anything.
    pub before: Option<Option<TargetObject>>,
}

impl Cluster {
    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn next_uid(&mut self, of: &str) -> String {
        self.version += 1;
        format!("{of}-{}", self.version)
    }

    /// Somebody creates a resource.
    pub fn create(&mut self, who: &str, spec: ServiceNowCredentialSpec, now: Micros) {
        let uid = self.next_uid(who);
        let credential = Credential {
            name: name(who),
            uid,
            generation: 1,
            resource_version: self.next_version(),
            created_at: wall(now, 0),
            deleting: false,
            finalizer: false,
            renew_request: None,
            spec: Ok(spec.into()),
            status: Arc::default(),
        };
        let credential = Arc::new(credential);
        self.news.push(News::Resource(credential.clone()));
        self.resources.insert(credential.name.clone(), credential);
    }

    /// Somebody deletes a resource; returns the Secrets that go with it, later.
    pub fn delete(&mut self, who: &Name) -> Vec<(Name, String)> {
        let Some(gone) = self.resources.remove(who) else {
            return Vec::new();
        };
        self.version += 1;
        self.news.push(News::ResourceGone(who.clone()));
        let owned = self.secrets.iter().filter(|(_, secret)| {
            let owner = secret.controller.as_ref();
            owner.is_some_and(|owner| owner.uid == gone.uid)
        });
        let owned = owned.map(|(name, _)| (name.clone(), gone.uid.clone()));
        let mut owned: Vec<_> = owned.collect();
        owned.sort_unstable();
        owned
    }

    /// Garbage collection: the Secret goes if its owner is still the one that is gone.
    pub fn collect(&mut self, secret: &Name, owner: &str) {
        let held = self.secrets.get(secret).and_then(|s| s.controller.as_ref());
        if held.is_some_and(|held| held.uid == owner) {
            self.remove_secret(secret);
        }
    }

    /// Somebody changes a resource's spec.
    pub fn change(&mut self, who: &Name, change: impl FnOnce(&mut ServiceNowCredentialSpec)) {
        let version = self.next_version();
        let Some(credential) = self.resources.get_mut(who).map(Arc::make_mut) else {
            return;
        };
        let Ok(spec) = &credential.spec else { return };
        let mut spec = ServiceNowCredentialSpec::clone(spec);
        change(&mut spec);
        credential.spec = Ok(spec.into());
        credential.generation += 1;
        credential.resource_version = version;
        self.tell(who);
    }

    fn tell(&mut self, who: &Name) {
        let credential = self.resources.get(who).cloned();
        self.news.extend(credential.map(News::Resource));
    }

    /// Somebody asks for a renewal.
    pub fn annotate(&mut self, who: &Name, value: String) {
        let version = self.next_version();
        if let Some(credential) = self.resources.get_mut(who).map(Arc::make_mut) {
            credential.renew_request = Some(value);
            credential.resource_version = version;
            self.tell(who);
        }
    }

    /// Somebody creates or changes a client Secret.
    pub fn put_client(&mut self, client: &Name, secret: u32) {
        let uid = match self.clients.get(client) {
            Some(known) => known.version.uid.clone(),
            None => self.next_uid(&client.name),
        };
        let version = Version {
            uid,
            resource_version: self.next_version(),
        };
        self.news
            .push(News::Secret(client.clone(), version.clone()));
        self.clients
            .insert(client.clone(), ClientSecret { version, secret });
    }

    /// Somebody deletes a client Secret.
    pub fn remove_client(&mut self, client: &Name) {
        let version = self.next_version();
        if self.clients.remove(client).is_some() {
            self.news.push(News::SecretGone(client.clone(), version));
        }
    }

    /// Somebody deletes a Secret.
    pub fn remove_secret(&mut self, secret: &Name) {
        self.take_away(secret);
        self.taken.insert(secret.clone());
    }

    fn take_away(&mut self, secret: &Name) {
        let version = self.next_version();
        if self.secrets.remove(secret).is_some() {
            self.news.push(News::SecretGone(secret.clone(), version));
        }
    }

    /// Somebody edits the token away.
    pub fn edit_secret(&mut self, secret: &Name) {
        let version = self.next_version();
        if let Some(target) = self.secrets.get_mut(secret) {
            target.data.insert("token".to_owned(), b"edited".to_vec());
            target.version.resource_version = version;
            target.others = vec!["kubectl-edit".to_owned()];
            target.last_written_by_us = false;
            self.taken.insert(secret.clone());
            let news = News::Secret(secret.clone(), target.version.clone());
            self.news.push(news);
        }
    }

    /// Somebody else's Secret under this name, if there is none yet.
    pub fn put_foreign(&mut self, secret: &Name) {
        if self.secrets.contains_key(secret) {
            return;
        }
        let version = Version {
            uid: self.next_uid(&secret.name),
            resource_version: self.next_version(),
        };
        self.news
            .push(News::Secret(secret.clone(), version.clone()));
        let foreign = TargetObject {
            version,
            type_: "Opaque".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            controller: None,
            data: BTreeMap::from([("token".to_owned(), b"theirs".to_vec())]),
            ours: Fields::default(),
            theirs: BTreeMap::from([("token".to_owned(), "kubectl".to_owned())]),
            others: vec!["kubectl".to_owned()],
            last_written_by_us: false,
        };
        self.secrets.insert(secret.clone(), foreign);
    }

    /// Carries a write of a target out, as the API server does: a create wants nothing there, an
    /// apply the uid, a patch the uid and the resourceVersion.
    pub fn write(&mut self, credential: &Credential, secret: &Name, write: TargetWrite) -> Written {
        let found = self.secrets.get(secret).map(|s| &s.version);
        let (uid, desired) = match (write, found) {
            (TargetWrite::Create(desired), None) => (self.next_uid(&secret.name), desired),
            (
                TargetWrite::Apply { uid, desired } | TargetWrite::Merge { uid, desired },
                Some(found),
            ) if uid == found.uid => (uid, desired),
            (
                TargetWrite::Replace {
                    version, desired, ..
                },
                Some(found),
            ) if version == *found => (version.uid, desired),
            _ => {
                return Written {
                    outcome: WriteOutcome::Changed,
                    before: None,
                };
            }
        };
        let version = Version {
            uid,
            resource_version: self.next_version(),
        };
        let after = written(credential, desired, version.clone());
        self.news
            .push(News::Secret(secret.clone(), version.clone()));
        self.taken.remove(secret);
        let before = self.secrets.insert(secret.clone(), after);
        Written {
            outcome: WriteOutcome::Done(version),
            before: Some(before),
        }
    }

    /// Deletes a target by its uid, as the operator does with one of an old name; returns whether it
    /// was there.
    pub fn remove_previous(&mut self, secret: &Name, uid: &str) -> bool {
        let known = self.secrets.get(secret);
        let same = known.is_some_and(|known| known.version.uid == uid);
        if same {
            self.take_away(secret);
        }
        same
    }

    /// Writes the status of the resource with this uid; `None` where it is gone.
    pub fn write_status(
        &mut self,
        credential: &Credential,
        status: &Arc<ServiceNowCredentialStatus>,
    ) -> Option<String> {
        let known = self.resources.get(&credential.name);
        known.filter(|known| known.uid == credential.uid)?;
        let version = self.next_version();
        let known = Arc::make_mut(self.resources.get_mut(&credential.name)?);
        known.status = status.clone();
        known.resource_version.clone_from(&version);
        self.tell(&credential.name);
        Some(version)
    }
}

/// The Secret that a write leaves behind.
fn written(credential: &Credential, desired: Desired, version: Version) -> TargetObject {
    let decoded = desired.data.encoded().map(|(key, value)| {
        let value = STANDARD.decode(value).unwrap_or_default();
        (key.to_owned(), value)
    });
    let data: BTreeMap<_, _> = decoded.collect();
    TargetObject {
        version,
        controller: Some(OwnerReference {
            api_version: "snowcred.dev/v1alpha1".to_owned(),
            kind: "ServiceNowCredential".to_owned(),
            name: credential.name.name.to_string(),
            uid: credential.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }),
        ours: Fields {
            data: data.keys().cloned().collect(),
            labels: desired.labels.keys().cloned().collect(),
            annotations: desired.annotations.keys().cloned().collect(),
        },
        type_: desired.type_,
        labels: desired.labels,
        annotations: desired.annotations,
        data,
        theirs: BTreeMap::new(),
        others: Vec::new(),
        last_written_by_us: true,
    }
}

/// The resource that a Secret says it is written by.
pub fn writer(secret: &TargetObject) -> Option<Name> {
    secret.annotations.get(CREDENTIAL).map(|who| name(who))
}
