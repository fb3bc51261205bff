//! What a decision is made from, put together so that a case reads as a sentence.

use std::{collections::BTreeMap, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};

use crate::{
    api::{
        AllowedHosts, Reason, ServiceNowCredentialSpec, ServiceNowCredentialStatus, Target,
        condition,
    },
    decide::{
        Credential, Failure, Memory, Name, Observed, Outcome, Seen, Settle, Step, Transition, Wish,
        decide,
        observed::{ClientRead, Policy, Rival, Version, WriteOutcome},
        ownership::{Desired, Fields, TargetObject, TargetWrite},
        renewal::Validity,
    },
    servicenow::{AccessToken, Exchange, Held, SharedFailure},
};

/// A moment, in seconds after the beginning of these tests.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(crate) fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

pub(crate) fn version(uid: &str, resource_version: u32) -> Version {
    Version {
        uid: uid.to_owned(),
        resource_version: resource_version.to_string(),
    }
}

/// A token in memory, asked for at `issued` and valid for `lifetime` seconds.
pub(crate) fn held(token: &str, issued: i64, lifetime: i64) -> Held {
    let token = AccessToken::parse(token).unwrap();
    Held {
        sha256: token.sha256(),
        token,
        scope: "useraccount".to_owned(),
        validity: Validity {
            issued_at: at(issued),
            expires_at: at(issued + lifetime),
        },
        sent_at: at(issued),
        kept: false,
    }
}

/// A failure that the broker shares: the `count`th in a row, met at `when`.
pub(crate) fn shared(reason: Reason, count: u32, when: i64, retry: i64) -> SharedFailure {
    SharedFailure {
        failure: Failure::new(reason, format!("It failed: {reason}.")),
        count,
        sent_at: at(when),
        at: at(when),
        retry_at: at(retry),
    }
}

pub(crate) fn spec() -> ServiceNowCredentialSpec {
    let mut spec = ServiceNowCredentialSpec {
        instance: "dev12345".to_owned(),
        ..ServiceNowCredentialSpec::default()
    };
    spec.client.secret_ref.name = "client".to_owned();
    spec
}

pub(crate) fn credential(name: &str) -> Credential {
    Credential {
        name: Name::new("team-a", name),
        uid: format!("{name}-uid"),
        generation: 1,
        resource_version: "1".to_owned(),
        created_at: at(-60),
        deleting: false,
        renew_request: None,
        spec: Ok(spec()),
        status: ServiceNowCredentialStatus::default(),
    }
}

/// The end of a reconcile, without what is only remembered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    pub(crate) status: Option<ServiceNowCredentialStatus>,
    pub(crate) transition: Option<Transition>,
    pub(crate) wake: Option<Timestamp>,
}

impl From<Settle> for End {
    fn from(settle: Settle) -> Self {
        Self {
            outcome: settle.outcome,
            status: settle.status,
            transition: settle.transition,
            wake: settle.wake,
        }
    }
}

/// Everything that one decision looks at.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) now: Timestamp,
    pub(crate) random: f64,
    pub(crate) policy: Policy,
    pub(crate) credential: Credential,
    pub(crate) memory: Memory,
    pub(crate) client_seen: Seen,
    pub(crate) target_seen: Seen,
    pub(crate) previous_seen: Seen,
    pub(crate) rival: Option<Rival>,
    pub(crate) hold: Option<SharedFailure>,
    pub(crate) client: Option<Result<ClientRead, Failure>>,
    pub(crate) asked_at: Option<Timestamp>,
    pub(crate) exchange: Exchange,
    pub(crate) target: Option<Option<TargetObject>>,
    pub(crate) unreadable: Option<Failure>,
    pub(crate) written: Option<(String, WriteOutcome)>,
    pub(crate) removed: Option<Result<(), Failure>>,
}

impl Scene {
    /// A new resource whose client Secret exists, at second 0.
    pub(crate) fn new() -> Self {
        Self {
            now: at(0),
            random: 0.0,
            policy: Policy {
                allowed_hosts: AllowedHosts::default(),
                min_renew_interval: seconds(5),
            },
            credential: credential("itsm"),
            memory: Memory::default(),
            client_seen: Seen::Present(version("client-uid", 10)),
            target_seen: Seen::Absent,
            previous_seen: Seen::Absent,
            rival: None,
            hold: None,
            client: None,
            asked_at: None,
            exchange: Exchange::default(),
            target: None,
            unreadable: None,
            written: None,
            removed: None,
        }
    }

    /// A resource whose token "first" was asked for at second 0, is valid for half an hour, is due
    /// at second 1200 and stands in its Secret; one second later.
    pub(crate) fn synced() -> Self {
        static SYNCED: LazyLock<Scene> = LazyLock::new(|| {
            let scene = Scene::new().holding(held("first", 0, 1800));
            let scene = scene.reads_client();
            let (write, _) = scene.writes();
            scene.wrote(&write, 100).ended().at(1)
        });
        SYNCED.clone()
    }

    pub(crate) fn at(mut self, seconds: i64) -> Self {
        self.now = at(seconds);
        self
    }

    /// The spec is changed.
    pub(crate) fn with_spec(mut self, change: impl FnOnce(&mut ServiceNowCredentialSpec)) -> Self {
        self.credential.generation += 1;
        change(self.credential.spec.as_mut().unwrap());
        self
    }

    pub(crate) fn with_target(self, change: impl FnOnce(&mut Target)) -> Self {
        self.with_spec(|spec| change(spec.target.get_or_insert_default()))
    }

    /// The renew annotation is set, and was first seen now.
    pub(crate) fn renew_requested(mut self, value: &str) -> Self {
        self.credential.renew_request = Some(value.to_owned());
        self.memory.renew_request = Some((value.to_owned(), self.now));
        self
    }

    /// The client Secret is read, as it is seen.
    pub(crate) fn reads_client(mut self) -> Self {
        let Seen::Present(version) = self.client_seen.clone() else {
            panic!("there is no client Secret to read")
        };
        self.client = Some(Ok(ClientRead {
            version,
            client_id: "an-id".to_owned(),
            trimmed: false,
        }));
        self
    }

    /// The client Secret was written again.
    pub(crate) fn client_changed(mut self, resource_version: u32) -> Self {
        self.client_seen = Seen::Present(version("client-uid", resource_version));
        self
    }

    pub(crate) fn holding(mut self, held: Held) -> Self {
        self.exchange.held = Some(held);
        self
    }

    /// A request is queued or under way since then, and this resource waits for it.
    pub(crate) fn asked(mut self, seconds: i64) -> Self {
        self.asked_at = Some(at(seconds));
        self.exchange.asked_at = Some(at(seconds));
        self
    }

    /// The request came to this.
    pub(crate) fn answered(mut self, answer: Result<Held, SharedFailure>) -> Self {
        self.exchange.asked_at = None;
        match answer {
            Ok(held) => self.exchange.held = Some(held),
            Err(failure) => self.exchange.failure = Some(failure),
        }
        self
    }

    /// The whole origin is held.
    pub(crate) fn held_by(mut self, failure: SharedFailure) -> Self {
        self.hold = Some(failure.clone());
        self.exchange.failure = Some(failure);
        self
    }

    /// The target is read as this Secret.
    pub(crate) fn reads_target(mut self, target: TargetObject) -> Self {
        self.target_seen = Seen::Present(target.version.clone());
        self.target = Some(Some(target));
        self
    }

    /// Somebody deleted the target.
    pub(crate) fn target_deleted(mut self) -> Self {
        self.target_seen = Seen::Absent;
        self
    }

    /// The write has ended well.
    pub(crate) fn wrote(mut self, write: &TargetWrite, resource_version: u32) -> Self {
        let uid = match write {
            TargetWrite::Create(desired) => format!("{}-secret-uid", desired.name),
            TargetWrite::Apply { uid, .. } => uid.clone(),
            TargetWrite::Replace { version, .. } => version.uid.clone(),
        };
        let version = version(&uid, resource_version);
        self.target_seen = Seen::Present(version.clone());
        self.written = Some((write.desired().data.sha256(), WriteOutcome::Done(version)));
        self
    }

    /// The write failed, or found the Secret changed.
    pub(crate) fn write_ended(mut self, outcome: WriteOutcome) -> Self {
        self.written = Some((String::new(), outcome));
        self
    }

    pub(crate) fn decide(&self) -> Step {
        decide(&Observed {
            now: self.now,
            random: self.random,
            policy: &self.policy,
            credential: &self.credential,
            memory: &self.memory,
            client_seen: self.client_seen.clone(),
            target_seen: self.target_seen.clone(),
            previous_seen: self.previous_seen.clone(),
            rival: self.rival.clone(),
            hold: self.hold.clone(),
            client: self.client.clone(),
            asked_at: self.asked_at,
            exchange: self.client.as_ref().map(|_| self.exchange.clone()),
            target: &self.target,
            unreadable: self.unreadable.as_ref(),
            written: self.written.as_ref(),
            removed: self.removed.as_ref(),
        })
    }

    pub(crate) fn settles(&self) -> Settle {
        match self.decide() {
            Step::Settle(settle) => *settle,
            step => panic!("it does not settle: {step:?}"),
        }
    }

    pub(crate) fn end(&self) -> End {
        self.settles().into()
    }

    pub(crate) fn asks(&self) -> Wish {
        match self.decide() {
            Step::Ask(wish) => *wish,
            step => panic!("it does not ask: {step:?}"),
        }
    }

    pub(crate) fn writes(&self) -> (TargetWrite, bool) {
        match self.decide() {
            Step::Write { write, put_back } => (*write, put_back),
            step => panic!("it does not write: {step:?}"),
        }
    }

    pub(crate) fn wants_to_read_client(&self) -> bool {
        matches!(self.decide(), Step::ReadClient)
    }

    pub(crate) fn wants_to_read_target(&self) -> bool {
        matches!(self.decide(), Step::ReadTarget)
    }

    /// The round settles: its status is written, its memory kept, and what it read is over.
    pub(crate) fn ended(mut self) -> Self {
        let settle = self.settles();
        if let Some(status) = settle.status {
            self.credential.status = status;
        }
        self.memory = settle.memory;
        self.forgetting_the_round()
    }

    /// A new process knows the objects and nothing else.
    pub(crate) fn restarted(mut self) -> Self {
        self.memory = Memory::default();
        self.exchange = Exchange::default();
        self.hold = None;
        self.forgetting_the_round()
    }

    fn forgetting_the_round(mut self) -> Self {
        self.client = None;
        self.asked_at = None;
        self.target = None;
        self.unreadable = None;
        self.written = None;
        self.removed = None;
        self
    }

    pub(crate) fn status(&self) -> &ServiceNowCredentialStatus {
        &self.credential.status
    }

    /// The status, with its conditions as they would be told from second `since` on.
    pub(crate) fn status_with(&self, conditions: [Condition; 2]) -> ServiceNowCredentialStatus {
        ServiceNowCredentialStatus {
            observed_generation: Some(self.credential.generation),
            conditions: conditions
                .into_iter()
                .map(|condition| Condition {
                    observed_generation: Some(self.credential.generation),
                    ..condition
                })
                .collect(),
            ..self.credential.status.clone()
        }
    }

    pub(crate) fn ready(&self) -> (String, String) {
        state(self.status(), condition::READY)
    }

    pub(crate) fn synced_state(&self) -> (String, String) {
        state(self.status(), condition::SYNCED)
    }
}

/// Status and reason of a condition.
pub(crate) fn state(status: &ServiceNowCredentialStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == kind);
    found.map_or_else(Default::default, |c| (c.status.clone(), c.reason.clone()))
}

pub(crate) fn is(status: &str, reason: Reason) -> (String, String) {
    (status.to_owned(), reason.as_str().to_owned())
}

/// A condition that is so since this second.
pub(crate) fn condition(
    kind: &str,
    status: &str,
    reason: Reason,
    since: i64,
    message: &str,
) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(at(since)),
        observed_generation: None,
    }
}

/// The Secret that a write leaves behind.
pub(crate) fn secret_of(
    credential: &Credential,
    desired: &Desired,
    version: Version,
) -> TargetObject {
    let data: BTreeMap<_, _> = desired
        .data
        .encoded()
        .map(|(key, value)| (key.to_owned(), STANDARD.decode(value).unwrap()))
        .collect();
    TargetObject {
        version,
        type_: desired.type_.clone(),
        labels: desired.labels.clone(),
        annotations: desired.annotations.clone(),
        controller: Some(owner(
            "ServiceNowCredential",
            &credential.name.name,
            &credential.uid,
        )),
        ours: Fields {
            data: data.keys().cloned().collect(),
            labels: desired.labels.keys().cloned().collect(),
            annotations: desired.annotations.keys().cloned().collect(),
        },
        data,
        others: Vec::new(),
    }
}

pub(crate) fn owner(kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: if kind == "ServiceNowCredential" {
            "snowcred.dev/v1alpha1".to_owned()
        } else {
            "apps/v1".to_owned()
        },
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// A Secret that nobody of ours wrote.
pub(crate) fn foreign_secret(version: Version) -> TargetObject {
    TargetObject {
        version,
        type_: "Opaque".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        controller: None,
        data: BTreeMap::from([("token".to_owned(), b"theirs".to_vec())]),
        ours: Fields::default(),
        others: vec!["kubectl".to_owned()],
    }
}

/// The target of [`Scene::synced`], as it was written.
pub(crate) fn first_secret(resource_version: u32) -> TargetObject {
    static FIRST: LazyLock<TargetObject> = LazyLock::new(|| {
        let scene = Scene::new().holding(held("first", 0, 1800)).reads_client();
        let (write, _) = scene.writes();
        secret_of(&scene.credential, write.desired(), version("", 0))
    });
    let mut target = FIRST.clone();
    target.version = version("itsm-secret-uid", resource_version);
    target
}
