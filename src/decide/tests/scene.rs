//! What a decision is made from, put together so that a case reads as a sentence.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

pub(crate) use super::objects::*;
use crate::{
    api::{AllowedHosts, ServiceNowCredentialSpec, ServiceNowCredentialStatus, Target, condition},
    decide::{
        Credential, Failure, Memory, Observed, Outcome, Seen, Settle, Step, Transition, Wish,
        decide,
        observed::{ClientRead, Policy, Rival, WriteOutcome},
        ownership::{TargetObject, TargetWrite},
        probes::Probes,
        restarts::Restarted,
    },
    servicenow::{Exchange, Held, SharedFailure},
};

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
            status: settle.status.map(Arc::unwrap_or_clone),
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
    pub(crate) origin_is_held: bool,
    pub(crate) hold: Option<SharedFailure>,
    pub(crate) client: Option<Result<ClientRead, Failure>>,
    pub(crate) asked_at: Option<Timestamp>,
    pub(crate) exchange: Exchange,
    pub(crate) target: Option<Option<TargetObject>>,
    pub(crate) unreadable: Option<Failure>,
    pub(crate) written: Option<(String, WriteOutcome)>,
    pub(crate) removed: BTreeMap<String, Result<(), Failure>>,
    pub(crate) finalized: Option<Result<(), Failure>>,
    pub(crate) restarted: Vec<Restarted>,
    pub(crate) probes: Arc<Probes>,
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
            origin_is_held: false,
            hold: None,
            client: None,
            asked_at: None,
            exchange: Exchange::default(),
            target: None,
            unreadable: None,
            written: None,
            removed: BTreeMap::new(),
            finalized: None,
            restarted: Vec::new(),
            probes: Arc::default(),
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
        change_spec(&mut self.credential, change);
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
            versions: [Some(version), None, None, None],
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
        self.exchange.held = Some(Arc::new(held));
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
            Ok(held) => self.exchange.held = Some(Arc::new(held)),
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
            TargetWrite::Apply { uid, .. } | TargetWrite::Merge { uid, .. } => uid.clone(),
            TargetWrite::Replace { version, .. } => version.uid.clone(),
        };
        let version = version(&uid, resource_version);
        self.target_seen = Seen::Present(version.clone());
        self.written = Some((
            write.desired().data.sha256().to_owned(),
            WriteOutcome::Done(version),
        ));
        self
    }

    /// The write failed, or found the Secret changed.
    pub(crate) fn write_ended(mut self, outcome: WriteOutcome) -> Self {
        self.written = Some((String::new(), outcome));
        self
    }

    pub(crate) fn observed(&self) -> Observed<'_> {
        Observed {
            now: self.now,
            random: self.random,
            policy: &self.policy,
            credential: &self.credential,
            memory: &self.memory,
            references: [Some(&self.client_seen), None, None, None],
            target_seen: &self.target_seen,
            previous_seen: &self.previous_seen,
            rival: self.rival.clone(),
            origin_is_held: self.origin_is_held || self.hold.is_some(),
            hold: self.hold.clone(),
            client: self.client.as_ref().map(Result::as_ref),
            asked_at: self.asked_at,
            exchange: self.client.as_ref().map(|_| self.exchange.clone()),
            target: &self.target,
            unreadable: self.unreadable.as_ref(),
            written: self.written.as_ref(),
            removed: &self.removed,
            finalized: self.finalized.as_ref(),
            restarted: &self.restarted,
            probes: &self.probes,
        }
    }

    pub(crate) fn decide(&self) -> Step {
        decide(&self.observed())
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
        self.removed.clear();
        self.finalized = None;
        self.restarted.clear();
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
            ..self.status().clone()
        }
    }

    pub(crate) fn ready(&self) -> (String, String) {
        state(self.status(), condition::READY)
    }

    pub(crate) fn synced_state(&self) -> (String, String) {
        state(self.status(), condition::SYNCED)
    }
}
