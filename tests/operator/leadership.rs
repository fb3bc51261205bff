//! One of several replicas leads: it alone writes, hands over cleanly, and never writes after its
//! time.

use std::{pin::pin, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams},
};
use serde_json::json;
use testkit::{
    cluster::{ControlPlane, Server},
    operator::{Operator, Options},
};

use crate::support::{
    Scene, eventually, install_crd,
    rights::{LEASE, rules},
};

/// For how long a Lease that is not renewed is its holder's.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How a replica of this scene is started.
pub(crate) fn replica(scene: &Scene) -> Options {
    let namespace = format!("--lease-namespace={}", scene.namespace);
    let lease = format!("--lease-name={LEASE}");
    scene.options(&["--leader-elect", &namespace, &lease])
}

/// The arguments of a replica whose Lease is in the namespace `default`.
pub(crate) fn of_default() -> Vec<String> {
    let lease = format!("--lease-name={LEASE}");
    let arguments = ["--leader-elect", "--lease-namespace=default", &lease];
    arguments.map(str::to_owned).into()
}

pub(crate) fn leases(scene: &Scene) -> Api<Lease> {
    Api::namespaced(scene.client.clone(), &scene.namespace)
}

pub(crate) async fn lease(scene: &Scene) -> LeaseSpec {
    let lease = leases(scene).get(LEASE).await.unwrap();
    lease.spec.unwrap()
}

fn leads(operator: &Operator) -> bool {
    operator.metrics().contains("snowcred_leader 1")
}

pub(crate) async fn until_it_leads(operator: &Operator) {
    let leads = async || leads(operator).then_some(());
    eventually("it leads", leads).await;
}

/// A fleet of one that is renewed every few seconds, under a leader that leads.
pub(crate) async fn led(lifetime: u64) -> (Scene, Operator) {
    let scene = Scene::new(Duration::from_secs(lifetime)).await;
    let leader = Operator::start(&replica(&scene)).await;
    until_it_leads(&leader).await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    (scene, leader)
}

/// Waits for one more token, and returns it.
async fn renewed(scene: &Scene, old: &str) -> String {
    eventually("the token is renewed", async || {
        scene.token("itsm").await.filter(|token| token != old)
    })
    .await
}

pub(crate) fn writes(operator: &Operator) -> String {
    let metrics = operator.metrics();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("snowcred_secret_writes_total "));
    line.expect("the counter").to_owned()
}

/// How the Lease passed from one holder to the next.
#[derive(Debug, PartialEq)]
pub(crate) enum Passed {
    /// Its holder gave it back.
    GivenBack,
    /// It was not renewed for its whole duration.
    WaitedOut,
}

/// Every state of the Lease since it was read, to the first in which another holds it.
async fn states_since(scene: &Scene, read: &Lease) -> Vec<LeaseSpec> {
    let only_this = WatchParams::default().fields(&format!("metadata.name={LEASE}"));
    let version = read.resource_version().unwrap();
    let changes = leases(scene).watch(&only_this, &version).await.unwrap();
    let mut changes = pin!(changes);
    let before = &read.spec.as_ref().unwrap().holder_identity;
    let mut states: Vec<LeaseSpec> = Vec::new();
    while let Some(change) = changes.next().await {
        let WatchEvent::Modified(lease) = change.unwrap() else {
            panic!("the Lease was only written");
        };
        let spec = lease.spec.unwrap();
        let is_over =
            spec.holder_identity != *before && spec.holder_identity.as_deref() != Some("");
        states.push(spec);
        if is_over {
            break;
        }
    }
    states
}

/// The Lease as it is given back.
fn given_back(old: &LeaseSpec, state: &LeaseSpec) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: state.renew_time.clone(),
        renew_time: state.renew_time.clone(),
        ..old.clone()
    }
}

/// The Lease as the next holder takes it.
fn taken(old: &LeaseSpec, state: &LeaseSpec) -> LeaseSpec {
    LeaseSpec {
        holder_identity: state.holder_identity.clone(),
        acquire_time: state.acquire_time.clone(),
        renew_time: state.acquire_time.clone(),
        lease_transitions: old.lease_transitions.map(|before| before + 1),
        ..old.clone()
    }
}

/// Waits until this replica leads; the Lease was read when its holder was about to end. Nobody else
/// has held it in between, and whoever had it did not lose it before its time.
pub(crate) async fn passed_to(next: &Operator, scene: &Scene, read: &Lease) -> Passed {
    until_it_leads(next).await;
    let old = read.spec.as_ref().unwrap();
    let mut states = states_since(scene, read).await;
    // The old holder may have renewed it once more.
    states.retain(|state| state.holder_identity != old.holder_identity);
    let last = states.last().expect("somebody has taken it");
    let holder = last.holder_identity.as_ref().unwrap();
    assert!(next.log().contains(holder), "{holder:?} is another");
    match states.as_slice() {
        [state] => {
            assert_eq!(*state, taken(old, state));
            let renewed = old.renew_time.as_ref().unwrap().0;
            assert!(state.acquire_time.as_ref().unwrap().0 >= renewed + LEASE_DURATION);
            Passed::WaitedOut
        }
        [back, state] => {
            let expected = [given_back(old, back), taken(old, state)];
            assert_eq!([back, state], expected.each_ref());
            Passed::GivenBack
        }
        others => panic!("others held it in between: {others:?}"),
    }
}

#[tokio::test]
async fn a_standby_is_ready_and_writes_nothing() {
    let (scene, leader) = led(6).await;
    let standby = Operator::start(&replica(&scene)).await;
    let token = scene.token("itsm").await.unwrap();
    renewed(&scene, &token).await;
    assert_eq!(standby.get("/readyz").unwrap().0, 200);
    assert_eq!(standby.get("/livez").unwrap().0, 200);
    assert!(leads(&leader) && !leads(&standby));
    assert_eq!(writes(&standby), "snowcred_secret_writes_total 0");
    assert!(!standby.metrics().contains("snowcred_token_requests_total{"));
}

#[tokio::test]
async fn a_lease_in_which_somebody_wrote_impossible_times_is_renewed_and_taken() {
    let (scene, mut leader) = led(1800).await;
    let touch = async |times: serde_json::Value| {
        let (params, patch) = (
            PatchParams::default(),
            Patch::Merge(json!({ "spec": times })),
        );
        let leases = leases(&scene);
        let touched = leases.patch_metadata(LEASE, &params, &patch);
        touched.await.unwrap().resource_version().unwrap()
    };
    let longest = "9999-12-31T23:59:59.999999Z";
    let version = touch(json!({"acquireTime": longest})).await;
    eventually("the leader renews it", async || {
        let lease = leases(&scene).get(LEASE).await.ok()?;
        (lease.resource_version()? != version).then_some(())
    })
    .await;
    assert!(leads(&leader));
    let standby = Operator::start(&replica(&scene)).await;
    leader.kill();
    touch(json!({"acquireTime": longest, "renewTime": longest})).await;
    until_it_leads(&standby).await;
}

#[tokio::test]
async fn of_two_that_start_together_one_leads_and_one_request_is_sent() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    scene.create("itsm", scene.spec()).await;
    let (a, b) = (
        Operator::spawn(&replica(&scene)),
        Operator::spawn(&replica(&scene)),
    );
    scene.await_synced("itsm").await;
    for operator in [&a, &b] {
        eventually("both are ready", async || {
            operator
                .get("/readyz")
                .is_ok_and(|(s, _)| s == 200)
                .then_some(())
        })
        .await;
    }
    assert_eq!([&a, &b].into_iter().filter(|o| leads(o)).count(), 1);
    assert_eq!(scene.instance.token_requests(), 1);
    assert_eq!(lease(&scene).await.lease_transitions, Some(0));
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_at_once() {
    let (scene, mut leader) = led(1800).await;
    let standby = Operator::start(&replica(&scene)).await;
    let before = leases(&scene).get(LEASE).await.unwrap();
    let (ended, _) = leader.stop().await;
    assert!(ended.unwrap().success());
    assert!(leader.log().contains("the Lease is given back"));
    let passed = passed_to(&standby, &scene, &before).await;
    assert_eq!(passed, Passed::GivenBack);
    // What was valid stays, and is not asked for again.
    scene
        .change("itsm", json!({"spec": {"target": {"labels": {"a": "b"}}}}))
        .await;
    eventually("the new leader works", async || {
        let labels = scene.secret("itsm").await?.metadata.labels?;
        labels.contains_key("a").then_some(())
    })
    .await;
    assert!(scene.instance.token_requests() <= 2);
}

#[tokio::test]
async fn the_last_replica_gives_the_lease_back() {
    let (scene, mut leader) = led(1800).await;
    let (ended, _) = leader.stop().await;
    assert!(ended.unwrap().success());
    let spec = lease(&scene).await;
    assert_eq!(spec.holder_identity.as_deref(), Some(""));
    assert_eq!(spec.lease_duration_seconds, Some(1));
}

#[tokio::test]
async fn a_leader_that_was_paused_and_wakes_late_writes_nothing_and_ends() {
    let (scene, mut leader) = led(6).await;
    let standby = Operator::start(&replica(&scene)).await;
    let before = scene.instance.token_requests();
    let written = |leader: &Operator| leader.log().matches("Secret written").count();
    leader.pause();
    let written_before = written(&leader);
    until_it_leads(&standby).await;
    // What fell due meanwhile is done by the new leader alone.
    let token = scene.token("itsm").await.unwrap();
    let token = renewed(&scene, &token).await;
    leader.resume();
    let ended = leader.ended().await;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(written(&leader), written_before);
    assert!(
        leader.log().contains("the Lease was lost"),
        "{}",
        leader.log()
    );
    renewed(&scene, &token).await;
    let holder = lease(&scene).await.holder_identity;
    assert!(standby.log().contains(&holder.unwrap()));
    // Each token that was issued is one that was written: nobody asked beside the new leader.
    let issued = scene.instance.token_requests() - before;
    let by_the_new = standby.metrics();
    let success = format!("result=\"Success\"}} {issued}");
    assert!(
        by_the_new.contains(&success),
        "{issued} requests:\n{by_the_new}"
    );
}

#[tokio::test]
async fn two_that_fight_over_the_lease_keep_the_secret_right() {
    let (scene, leader) = led(1800).await;
    let mut replicas = vec![leader, Operator::start(&replica(&scene)).await];
    for round in 0..6 {
        let leader = eventually("one leads", async || replicas.iter().position(leads)).await;
        let mut old = replicas.remove(leader);
        replicas.push(Operator::start(&replica(&scene)).await);
        // One change is always under way when the leader goes.
        let label = round.to_string();
        scene
            .change(
                "itsm",
                json!({"spec": {"target": {"labels": {"round": label}}}}),
            )
            .await;
        old.stop().await;
        eventually("somebody has done it", async || {
            let labels = scene.secret("itsm").await?.metadata.labels?;
            (labels.get("round") == Some(&label)).then_some(())
        })
        .await;
        let token = scene.token("itsm").await.unwrap();
        assert!(scene.instance.is_valid(&token));
    }
    // At most one for each hand-over, beside the first.
    assert!(scene.instance.token_requests() <= 7);
    let transitions = lease(&scene).await.lease_transitions;
    assert_eq!(transitions, Some(6));
}

#[tokio::test]
async fn shards_have_leases_of_their_own() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let namespace = format!("--lease-namespace={}", scene.namespace);
    // Their names are the operator's own choice, and not the chart's.
    let mut any_lease = rules();
    any_lease
        .iter_mut()
        .for_each(|rule| rule.resource_names = None);
    let kubeconfig = scene
        .cluster
        .service_account(&scene.namespace, "shards", any_lease)
        .await;
    let mut shards = Vec::new();
    for selector in ["--selector=shard=a", "--selector=shard=b"] {
        let shard = Operator::start(&Options {
            kubeconfig: kubeconfig.clone(),
            ..scene.options(&["--leader-elect", &namespace, selector])
        })
        .await;
        until_it_leads(&shard).await;
        shards.push(shard);
    }
    let all = leases(&scene).list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 2);
}

#[tokio::test]
async fn a_lease_that_may_not_be_written_is_said_and_the_replica_is_not_ready() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let mut fewer = rules();
    for rule in &mut fewer {
        if rule.resources == Some(vec!["leases".to_owned()]) {
            rule.verbs
                .retain(|verb| verb != "create" && verb != "update");
        }
    }
    fewer.retain(|rule| !rule.verbs.is_empty());
    let kubeconfig = scene
        .cluster
        .service_account(&scene.namespace, "no-lease", fewer)
        .await;
    let operator = Operator::spawn(&Options {
        kubeconfig,
        ..replica(&scene)
    });
    eventually("/readyz names the missing verb", async || {
        let (status, text) = operator.get("/readyz").ok()?;
        (status == 503 && text.contains("create leases \"the-lease\"")).then_some(())
    })
    .await;
    assert!(operator.log().contains("may not create leases"));
}

#[tokio::test]
async fn an_api_server_that_is_away_for_longer_than_the_lease_ends_the_leader_and_not_the_standby()
{
    let cluster = ControlPlane::start().await.unwrap();
    install_crd(&cluster).await;
    let kubeconfig = cluster
        .service_account("default", "operator", rules())
        .await;
    let options = Options {
        binary: env!("CARGO_BIN_EXE_servicenow-credential-operator").into(),
        kubeconfig,
        arguments: of_default(),
        environment: Vec::new(),
    };
    let mut leader = Operator::start(&options).await;
    until_it_leads(&leader).await;
    let mut standby = Operator::start(&options).await;
    cluster.stop(Server::ApiServer).await;
    let lease_is_over = tokio::time::Instant::now() + LEASE_DURATION;
    let ended = leader.ended().await;
    assert_eq!(ended.code(), Some(1));
    assert!(
        leader.log().contains("the Lease was lost"),
        "{}",
        leader.log()
    );
    tokio::time::sleep_until(lease_is_over).await;
    // It looks at the Lease again and again, and stays.
    assert_eq!(standby.get("/livez").unwrap().0, 200);
    assert_eq!(standby.get("/readyz").unwrap().0, 200);
    cluster.restart(Server::ApiServer).await;
    until_it_leads(&standby).await;
    let (ended, _) = standby.stop().await;
    assert!(ended.unwrap().success());
}
