//! A cluster and some instances in memory, around the operator's own state: what the controller
//! does with I/O is done here without.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::scene::*;
use crate::{
    api::{AllowedHosts, ServiceNowCredentialSpec, ServiceNowCredentialStatus},
    controller::{Bounds, Core},
    decide::{
        Credential, Failure, Name, Step,
        observed::{Kind, Policy, Version},
        ownership::TargetObject,
    },
    servicenow::{AccessToken, SharingKey, TokenAnswer},
};
use jiff::{SignedDuration, Timestamp};

/// What an instance answers, and how long it takes.
pub(crate) type Answer = (SignedDuration, Result<TokenAnswer, Failure>);

/// The instances: what they answer to whom and when.
pub(crate) type Answers = Box<dyn FnMut(&SharingKey, Timestamp) -> Answer>;

/// Something that happens just before a step of this kind.
pub(crate) type Mischief = (fn(&Step) -> bool, fn(&mut World));

/// A request that was sent, and what will come of it when.
pub(crate) struct UnderWay {
    pub(crate) due: Timestamp,
    pub(crate) key: Arc<SharingKey>,
    pub(crate) answer: Result<TokenAnswer, Failure>,
}

pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    pub(crate) random: f64,
    pub(crate) credentials: BTreeMap<Name, Credential>,
    pub(crate) secrets: HashMap<Name, TargetObject>,
    /// Client Secrets: their state and the client's secret.
    pub(crate) clients: HashMap<Name, (Version, String)>,
    pub(crate) answer: Answers,
    /// Every token request: when, and at which origin.
    pub(crate) requests: Vec<(Timestamp, String)>,
    pub(crate) client_reads: usize,
    pub(crate) secret_writes: usize,
    pub(crate) status_writes: usize,
    pub(crate) rounds: usize,
    pub(crate) mischief: Option<Mischief>,
    /// The API server refuses to write a status.
    pub(crate) statuses_fail: bool,
    pub(crate) under_way: Vec<UnderWay>,
    pub(crate) version: u32,
}

fn core() -> Core {
    let policy = Policy {
        allowed_hosts: AllowedHosts::default(),
        min_renew_interval: seconds(5),
    };
    let bounds = Bounds {
        concurrency: 32,
        instance_concurrency: 4,
    };
    let mut core = Core::new(policy, bounds);
    core.all_listed();
    core.lead();
    core
}

/// Answers with a new token for half an hour, after a tenth of a second.
pub(crate) fn new_tokens() -> Answers {
    let mut count = 0;
    Box::new(move |key, _| {
        count += 1;
        let host = key.origin().trim_start_matches("https://");
        (
            SignedDuration::from_millis(100),
            good(&format!("{host}-{count}"), 1800),
        )
    })
}

pub(crate) fn good(token: &str, lifetime: i64) -> Result<TokenAnswer, Failure> {
    Ok(TokenAnswer {
        token: AccessToken::parse(token).unwrap(),
        expires_in: Some(lifetime),
        scope: String::new(),
    })
}

impl World {
    /// A cluster with these resources, and one client Secret for all.
    pub(crate) fn with(names: &[&str]) -> Self {
        let mut world = Self {
            core: core(),
            now: at(0),
            random: 0.5,
            credentials: BTreeMap::new(),
            secrets: HashMap::new(),
            clients: HashMap::new(),
            answer: new_tokens(),
            requests: Vec::new(),
            client_reads: 0,
            secret_writes: 0,
            status_writes: 0,
            rounds: 0,
            mischief: None,
            statuses_fail: false,
            under_way: Vec::new(),
            version: 10,
        };
        world.rotate_client("secret");
        for name in names {
            world.create(name);
        }
        world
    }

    pub(crate) fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub(crate) fn create(&mut self, name: &str) {
        let uid = format!("{name}-uid-{}", self.version);
        let credential = Credential {
            uid,
            resource_version: self.next_version(),
            ..credential(name)
        };
        self.credentials
            .insert(credential.name.clone(), credential.clone());
        self.tell_of(&credential.name);
        // The watch of Secrets knows of those that were there before.
        for secret in self
            .secrets
            .keys()
            .chain(self.clients.keys())
            .cloned()
            .collect::<Vec<_>>()
        {
            self.tell_of_secret(&secret);
        }
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let name = Name::new("team-a", name);
        self.credentials.remove(&name);
        let woken = self.core.store.remove(&name);
        self.core.wake(woken);
    }

    /// Somebody changes a resource.
    pub(crate) fn change(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut ServiceNowCredentialSpec),
    ) {
        let version = self.next_version();
        let name = Name::new("team-a", name);
        let credential = self.credentials.get_mut(&name).unwrap();
        change_spec(credential, change);
        credential.generation += 1;
        credential.resource_version = version;
        self.tell_of(&name);
    }

    pub(crate) fn request_renewal(&mut self, name: &str, value: &str) {
        let version = self.next_version();
        let name = Name::new("team-a", name);
        let credential = self.credentials.get_mut(&name).unwrap();
        credential.renew_request = Some(value.to_owned());
        credential.resource_version = version;
        self.tell_of(&name);
    }

    pub(crate) fn rotate_client(&mut self, secret: &str) {
        let name = Name::new("team-a", "client");
        let version = Version {
            uid: "client-uid".to_owned(),
            resource_version: self.next_version(),
        };
        self.clients
            .insert(name.clone(), (version, secret.to_owned()));
        self.tell_of_secret(&name);
    }

    /// Somebody changes a Secret, or deletes it.
    pub(crate) fn meddle(&mut self, secret: &str, change: impl FnOnce(&mut TargetObject) -> bool) {
        let name = Name::new("team-a", secret);
        let version = self.next_version();
        let Some(mut target) = self.secrets.remove(&name) else {
            return;
        };
        target.version.resource_version.clone_from(&version);
        if change(&mut target) {
            self.secrets.insert(name.clone(), target);
            self.tell_of_secret(&name);
        } else {
            let woken = self.core.store.secrets.deleted(&name, &version);
            self.core.wake(woken);
        }
    }

    pub(crate) fn tell_of(&mut self, name: &Name) {
        let woken = self.core.store.apply(self.credentials[name].clone());
        self.core.wake(woken);
    }

    fn tell_of_secret(&mut self, secret: &Name) {
        let client = self.clients.get(secret).map(|(version, _)| version.clone());
        let version = client.or_else(|| self.secrets.get(secret).map(|t| t.version.clone()));
        if let Some(version) = version {
            let woken = self
                .core
                .store
                .object_applied(Kind::Secret, secret, version);
            self.core.wake(woken);
        }
    }

    /// The operator dies, and another begins with what the API server holds.
    pub(crate) fn restart(&mut self) {
        self.core = core();
        self.under_way.clear();
        let names: Vec<_> = self.credentials.keys().cloned().collect();
        names.iter().for_each(|name| self.tell_of(name));
        let mut relist = self.core.store.begin_relist(None);
        let clients = self
            .clients
            .iter()
            .map(|(name, (version, _))| (name.clone(), version.clone()));
        let targets = self
            .secrets
            .iter()
            .map(|(name, t)| (name.clone(), t.version.clone()));
        for (name, version) in clients.chain(targets).collect::<Vec<_>>() {
            self.core.store.secrets.listed(&mut relist, &name, version);
        }
        self.core.store.secrets.end_relist(&relist);
        self.core.wake(names);
    }

    pub(crate) fn status(&self, name: &str) -> &ServiceNowCredentialStatus {
        &self.credentials[&Name::new("team-a", name)].status
    }

    pub(crate) fn ready(&self, name: &str) -> (String, String) {
        state(self.status(name), "Ready")
    }

    pub(crate) fn synced(&self, name: &str) -> (String, String) {
        state(self.status(name), "Synced")
    }

    /// The token in a Secret.
    pub(crate) fn token(&self, secret: &str) -> Option<String> {
        let target = self.secrets.get(&Name::new("team-a", secret))?;
        String::from_utf8(target.data.get("token")?.clone()).ok()
    }
}
