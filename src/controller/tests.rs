//! What the real API cannot be made to do: a bug of our own, and a deadline that passes at a chosen
//! moment.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{Client, client::Body};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use super::{Bounds, Controller, Core, Parts, Scope};
use crate::{
    Clock, SystemClock,
    api::{
        AllowedHosts, ClientAuthentication, Instance, Reason, ServiceNowCredentialSpec,
        ServiceNowCredentialStatus, TokenStatus,
    },
    decide::{
        Credential, Failure, Name, Outcome, Step,
        observed::{ClientRead, Policy, Version},
        probes::Probe,
    },
    kubernetes::{Cluster, Fence, ReferencesRead},
    servicenow::{AccessToken, Ask, Endpoint, Probed, SharingKey, TokenAnswer, Urgency},
    telemetry::{Health, Metrics},
};

/// A clock that stands still, and panics when it is asked for the first time.
struct Trap(AtomicBool);

impl Clock for Trap {
    fn now(&self) -> Timestamp {
        assert!(self.0.swap(true, Ordering::SeqCst), "a bug of our own");
        Timestamp::UNIX_EPOCH
    }
}

/// A Kubernetes API that refuses everything.
fn refusing() -> Client {
    let service = tower::service_fn(|_: http::Request<Body>| async {
        let answer = http::Response::builder().status(500).body(Body::empty());
        Ok::<_, Infallible>(answer.unwrap())
    });
    Client::new(service, "default")
}

/// A controller at an API that refuses everything, with one resource at a time.
fn controller(clock: Arc<dyn Clock>, fence: Fence) -> Arc<Controller> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = refusing();
    let parts = Parts {
        cluster: Cluster::new(client.clone(), "test".to_owned(), fence),
        client,
        endpoint: Endpoint::new(Duration::from_secs(1)).unwrap(),
        clock,
        metrics: Arc::new(Metrics::new()),
        health: Arc::new(Health::default()),
    };
    let scope = Scope {
        namespaces: Vec::new(),
        selector: None,
    };
    Controller::new(parts, policy(), scope, BOUNDS)
}

const BOUNDS: Bounds = Bounds {
    concurrency: 2,
    instance_concurrency: 1,
};

fn policy() -> Policy {
    Policy {
        allowed_hosts: AllowedHosts::default(),
        min_renew_interval: SignedDuration::from_secs(5),
    }
}

fn credential(name: &Name) -> Credential {
    Credential {
        name: name.clone(),
        uid: "uid".to_owned(),
        generation: 1,
        resource_version: "1".to_owned(),
        created_at: Timestamp::UNIX_EPOCH,
        deleting: false,
        finalizer: false,
        renew_request: None,
        spec: Ok(ServiceNowCredentialSpec::default().into()),
        status: Default::default(),
    }
}

/// A resource whose spec names a client and the instance "dev1".
fn sound(name: &Name) -> Credential {
    let mut spec = ServiceNowCredentialSpec {
        instance: "dev1".to_owned(),
        ..ServiceNowCredentialSpec::default()
    };
    spec.client.secret_ref.name = "client".to_owned();
    Credential {
        spec: Ok(spec.into()),
        ..credential(name)
    }
}

fn key_of(instance: &str) -> Arc<SharingKey> {
    Arc::new(SharingKey::client_credentials(
        &Instance::parse(instance).unwrap(),
        ClientAuthentication::Basic,
        Zeroizing::new("id".to_owned()),
        Zeroizing::new("secret".to_owned()),
        &[],
    ))
}

/// The answer of an instance that is well.
fn a_token() -> TokenAnswer {
    TokenAnswer {
        token: AccessToken::parse("t").unwrap(),
        expires_in: Some(1800),
        scope: String::new(),
    }
}

/// The client Secret as it was read.
fn client_read(key: &Arc<SharingKey>) -> ReferencesRead {
    let version = Version {
        uid: "uid".to_owned(),
        resource_version: "1".to_owned(),
    };
    let read = ClientRead {
        versions: [Some(version.clone()), None, None, None],
        client_id: "id".to_owned(),
        trimmed: false,
    };
    ReferencesRead {
        found: [Some(Some(version)), None, None, None],
        client: Ok((key.clone(), read)),
    }
}

#[tokio::test]
async fn a_panic_in_a_reconcile_is_caught_and_the_resource_is_tried_again() {
    let controller = controller(Arc::new(Trap(AtomicBool::new(false))), Fence::open());
    let name = Name::new("team-a", "itsm");
    let epoch = Timestamp::UNIX_EPOCH;
    controller.with_core(|core| {
        core.all_listed();
        core.lead();
        core.store.apply(credential(&name));
        core.queue.wake(&name, Urgency::New);
        assert_eq!(core.take(epoch).as_ref(), Some(&name));
    });
    controller.reconcile_guarded(&name).await;
    controller.with_core(|core| {
        assert_eq!(core.queue.running(), 0, "its place is free again");
        let next = core.queue.next_timer().expect("it is tried again");
        assert!(
            next > epoch && next <= epoch + SignedDuration::from_secs(2),
            "{next}"
        );
    });
    let metrics = controller.metrics.print();
    assert!(
        metrics.contains("reconciles_total{outcome=\"InternalError\"} 1"),
        "{metrics}"
    );
}

/// Asks for a token behind this fence; returns whether an instance was connected to.
async fn asks(fence: Fence) -> bool {
    let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", instance.local_addr().unwrap());
    let key = key_of(&origin);
    let controller = controller(Arc::new(SystemClock), fence);
    let mut connected = std::pin::pin!(instance.accept());
    tokio::select! {
        biased;
        _ = &mut connected => true,
        () = controller.exchange(&key) => false,
    }
}

#[tokio::test]
async fn who_leads_no_more_asks_for_no_token() {
    assert!(asks(Fence::open()).await);
    assert!(!asks(Fence::closed()).await);
}

#[tokio::test]
async fn a_standby_that_begins_to_lead_looks_at_all_that_is_there_and_at_nothing_that_is_gone() {
    let controller = controller(Arc::new(SystemClock), Fence::closed());
    let (here, gone) = (Name::new("team-a", "here"), Name::new("team-a", "gone"));
    controller.with_core(|core| {
        core.all_listed();
        for name in [&here, &gone] {
            let woken = core.store.apply(credential(name));
            core.wake(woken);
        }
        let woken = core.store.remove(&gone);
        core.wake(woken);
        assert_eq!(core.take(Timestamp::UNIX_EPOCH), None, "it stands by");
        core.lead();
        assert_eq!(core.take(Timestamp::UNIX_EPOCH), Some(here));
        assert_eq!(core.take(Timestamp::UNIX_EPOCH), None);
    });
}

#[test]
fn a_recovery_wakes_who_decided_to_sleep_and_has_not_said_so_yet() {
    let mut core = Core::new(policy(), BOUNDS);
    let name = Name::new("team-a", "itsm");
    let now = Timestamp::from_second(1000).unwrap();
    let key = key_of("dev1");
    let another = Ask {
        name: Name::new("team-a", "another"),
        urgency: Urgency::New,
        known: None,
        not_before: None,
        good_before: false,
        failures: None,
        refusals: 0,
        forced: true,
    };
    core.broker.ask(&key, another.clone(), now);
    core.broker.dispatch(now);
    let down = Failure::new(Reason::InstanceUnavailable, "down");
    core.broker.complete(&key, now, Err(down), 0.0);
    core.store.apply(sound(&name));
    let mut round = core.begin(&name, now, 0.0);
    core.references_read(&name, &mut round, client_read(&key));
    let step = core.decide(&name, &mut round, now);
    assert!(matches!(step, Some(Step::Settle(end))
        if end.outcome == Outcome::Failed(Reason::InstanceUnavailable)));
    // Its status is still being written.
    core.broker.ask(&key, another, now);
    core.broker.dispatch(now);
    let woken = core.broker.complete(&key, now, Ok(a_token()), 0.0).woken;
    assert!(woken.contains(&name), "{woken:?}");
}

#[test]
fn what_is_begun_is_ended_before_more_is_begun() {
    let mut core = Core::new(policy(), BOUNDS);
    core.all_listed();
    core.lead();
    let now = Timestamp::from_second(1000).unwrap();
    let key = key_of("dev1");
    let [begun, other] = ["begun", "other"].map(|name| Name::new("team-a", name));
    let woken = core.store.apply(sound(&begun));
    core.wake(woken);
    assert_eq!(core.take(now), Some(begun.clone()));
    let mut round = core.begin(&begun, now, 0.0);
    core.references_read(&begun, &mut round, client_read(&key));
    let Some(Step::Settle(settle)) = core.decide(&begun, &mut round, now) else {
        panic!("it does not wait for its answer")
    };
    core.settled(&begun, round, settle);
    core.finish(&begun);
    // Another comes before the answer does.
    let woken = core.store.apply(sound(&other));
    core.wake(woken);
    core.broker.dispatch(now);
    let woken = core.broker.complete(&key, now, Ok(a_token()), 0.0).woken;
    core.wake(woken);
    assert_eq!(core.take(now), Some(begun));
    assert_eq!(core.take(now), Some(other));
}

/// In which order these are taken at this second after a token was issued for 1000: the resource that
/// holds it, to which `change` happens, and a new one that comes after that.
fn order_at(
    now: i64,
    change: impl FnOnce(&mut Core, &Credential) -> Vec<Name>,
) -> [Option<&'static str>; 2] {
    let second = |s| Timestamp::from_second(s).unwrap();
    let mut core = Core::new(policy(), BOUNDS);
    core.all_listed();
    core.lead();
    let token = TokenStatus {
        issued_at: MicroTime(second(0)),
        expires_at: MicroTime(second(1000)),
        renewal_time: MicroTime(second(600)),
        scope: None,
        sha256: None,
    };
    let status = ServiceNowCredentialStatus {
        observed_generation: Some(1),
        token: Some(token),
        ..ServiceNowCredentialStatus::default()
    };
    let held = Credential {
        status: status.into(),
        ..sound(&Name::new("team-a", "held"))
    };
    let woken = core.store.apply(held.clone());
    core.wake(woken);
    let woken = change(&mut core, &held);
    core.wake(woken);
    let woken = core.store.apply(credential(&Name::new("team-a", "new")));
    core.wake(woken);
    [0; 2].map(|_| {
        let name = core.take(second(now))?;
        Some(if name == held.name { "held" } else { "new" })
    })
}

#[test]
fn a_renewal_that_waits_until_less_than_a_tenth_is_left_goes_before_new_resources() {
    let nothing = |_: &mut Core, _: &Credential| Vec::new();
    assert_eq!(order_at(900, nothing), [Some("new"), Some("held")]);
    assert_eq!(order_at(901, nothing), [Some("held"), Some("new")]);
}

#[test]
fn whoever_was_changed_or_lost_its_secret_does_not_wait_behind_new_resources() {
    let lost = |core: &mut Core, held: &Credential| {
        let target = held.target_secret().unwrap();
        core.store.secrets.deleted(&target, "7")
    };
    assert_eq!(order_at(700, lost), [Some("held"), Some("new")]);
    let changes: [fn(&mut Credential); 3] = [
        |held| held.generation = 2,
        |held| held.deleting = true,
        |held| held.renew_request = Some("now".to_owned()),
    ];
    for change in changes {
        let changed = |core: &mut Core, held: &Credential| {
            let mut held = held.clone();
            held.resource_version = "2".to_owned();
            change(&mut held);
            core.store.apply(held)
        };
        assert_eq!(order_at(700, changed), [Some("held"), Some("new")]);
    }
}

#[test]
fn what_a_round_came_to_by_a_clock_that_was_set_back_meanwhile_counts_for_nothing() {
    let mut core = Core::new(policy(), BOUNDS);
    let name = Name::new("team-a", "itsm");
    let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(7200).unwrap());
    core.all_listed();
    core.lead();
    let woken = core.store.apply(credential(&name));
    core.wake(woken);
    assert_eq!(core.take(late).as_ref(), Some(&name));
    let mut round = core.begin(&name, late, 0.0);
    let failure = Failure::new(Reason::InternalError, "by the old clock");
    let (settling, settle) = core.fail(&name, &failure, late, 0.0).unwrap();
    core.clock_set_back(SignedDuration::from_hours(2));
    let Some(Step::Settle(abandoned)) = core.decide(&name, &mut round, early) else {
        panic!("it goes on by two clocks")
    };
    assert_eq!((abandoned.outcome, abandoned.status), (Outcome::Idle, None));
    core.settled(&name, settling, settle.into());
    core.finish(&name);
    assert_eq!(core.queue.next_timer(), None, "it waits for no old time");
    assert_eq!(core.take(early), Some(name), "it is looked at again");
}

#[test]
fn tokens_of_an_instance_that_hangs_are_tried_out_a_few_at_a_time_and_hold_up_no_others() {
    let mut core = Core::new(policy(), BOUNDS);
    let (hangs, answers) = (key_of("dev1"), key_of("dev2"));
    let probe = Probe {
        path: "/api/now/table/sys_user".to_owned(),
        token: AccessToken::parse("token").unwrap(),
        sha256: "digest".to_owned(),
    };
    let origins = |core: &mut Core| {
        let sent = core.take_probes().into_iter();
        let origins = sent.map(|(key, _)| key.origin().to_owned());
        origins.collect::<Vec<_>>()
    };
    for _ in 0..6 {
        core.try_out(&hangs, probe.clone());
    }
    assert_eq!(origins(&mut core), [hangs.origin(); 4]);
    core.try_out(&answers, probe.clone());
    assert_eq!(origins(&mut core), [answers.origin()]);
    let probed = Probed {
        reason: Reason::InternalError,
        message: String::new(),
    };
    core.probed(hangs.origin(), &probe, probed, Timestamp::UNIX_EPOCH);
    assert_eq!(origins(&mut core), [hangs.origin()]);
}
