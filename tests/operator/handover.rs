//! The lead passes from one replica to the next, whatever ends the one before, and nothing is lost
//! or done twice.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use testkit::{
    cluster::{ControlPlane, Server},
    operator::{Operator, Options},
    servicenow::Fault,
};

use crate::{
    leadership::{
        Passed, lease, leases, led, of_default, passed_to, replica, until_it_leads, writes,
    },
    support::{
        Scene, eventually, install_crd,
        rights::{LEASE, rules},
    },
};

/// Whether a replica leads, or has ended.
fn leads(operator: &Operator) -> bool {
    let metrics = operator.get("/metrics");
    metrics.is_ok_and(|(_, metrics)| metrics.contains("snowcred_leader 1"))
}

/// A replica's reconciles: outcomes and how often.
fn reconciles(operator: &Operator) -> Vec<(String, u32)> {
    let metrics = operator.metrics();
    let outcome = |line: &str| {
        let line = line.strip_prefix("snowcred_reconciles_total{outcome=\"")?;
        let (outcome, count) = line.split_once("\"} ")?;
        Some((outcome.to_owned(), count.parse().unwrap()))
    };
    metrics.lines().filter_map(outcome).collect()
}

/// Whether the holder of the Lease is this replica.
fn is_held_by(spec: &LeaseSpec, operator: &Operator) -> bool {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    !holder.is_empty() && operator.log().contains(holder)
}

#[tokio::test]
async fn what_was_asked_for_when_the_leader_is_stopped_is_written_before_the_next_one_leads() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let mut leader = Operator::start(&replica(&scene)).await;
    until_it_leads(&leader).await;
    let standby = Operator::start(&replica(&scene)).await;
    let slow = Fault::Delay(Duration::from_secs(1));
    scene.instance.set_fault(Some(slow));
    scene.create("itsm", scene.spec()).await;
    scene.instance.wait_for_token_requests(1).await;
    let (ended, _) = leader.stop().await;
    assert!(ended.unwrap().success());
    let token = scene.token("itsm").await.expect("it was written");
    assert!(scene.instance.is_valid(&token));
    until_it_leads(&standby).await;
    eventually("the next one has looked at the resource", async || {
        reconciles(&standby).into_iter().next()
    })
    .await;
    assert_eq!(writes(&standby), "snowcred_secret_writes_total 0");
    assert_eq!(scene.token("itsm").await, Some(token));
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn an_instance_that_hangs_does_not_keep_a_leader_that_is_stopped_from_giving_way() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let mut leader = Operator::start(&replica(&scene)).await;
    until_it_leads(&leader).await;
    let standby = Operator::start(&replica(&scene)).await;
    // Longer than an answer is waited for at a stop, and shorter than a write.
    scene
        .instance
        .set_fault(Some(Fault::Delay(Duration::from_secs(5))));
    scene.create("itsm", scene.spec()).await;
    scene.instance.wait_for_token_requests(1).await;
    let (ended, _) = leader.stop().await;
    assert!(ended.unwrap().success());
    assert_eq!(scene.token("itsm").await, None, "it has not waited");
    scene.instance.set_fault(None);
    until_it_leads(&standby).await;
    scene.await_synced("itsm").await;
    assert_eq!(scene.instance.token_requests(), 2);
}

#[tokio::test]
async fn a_handover_of_a_fleet_asks_for_nothing_and_writes_nothing() {
    let (scene, mut leader) = led(1800).await;
    let standby = Operator::start(&replica(&scene)).await;
    for number in 1..20 {
        scene.create(&format!("itsm-{number}"), scene.spec()).await;
    }
    for number in 1..20 {
        scene.await_synced(&format!("itsm-{number}")).await;
    }
    let secrets = scene.secrets().list(&ListParams::default()).await.unwrap();
    let resources = scene.credentials().list(&ListParams::default()).await;
    let resources = json!(resources.unwrap().items);
    leader.stop().await;
    until_it_leads(&standby).await;
    eventually("the next one has looked at all", async || {
        let looked = reconciles(&standby);
        assert!(
            looked.iter().all(|(outcome, _)| outcome == "Synced"),
            "{looked:?}"
        );
        (looked.first()?.1 >= 20).then_some(())
    })
    .await;
    assert_eq!(writes(&standby), "snowcred_secret_writes_total 0");
    let after = scene.secrets().list(&ListParams::default()).await.unwrap();
    assert_eq!(after.items, secrets.items);
    let after = scene.credentials().list(&ListParams::default()).await;
    assert_eq!(json!(after.unwrap().items), resources);
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn the_series_of_a_resource_are_gone_from_a_standby_too_when_the_resource_goes() {
    let (scene, _leader) = led(1800).await;
    let standby = Operator::start(&replica(&scene)).await;
    let series = format!("{{namespace=\"{}\",name=\"itsm\"}}", scene.namespace);
    eventually("the standby knows it", async || {
        standby.metrics().contains(&series).then_some(())
    })
    .await;
    scene.delete("itsm").await;
    eventually("the standby has forgotten it", async || {
        (!standby.metrics().contains(&series)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_standby_that_is_stopped_ends_at_once_and_the_leader_keeps_the_lease() {
    let (scene, leader) = led(1800).await;
    let mut standby = Operator::start(&replica(&scene)).await;
    let before = lease(&scene).await;
    let (ended, took) = standby.stop().await;
    assert!(ended.unwrap().success());
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let after = lease(&scene).await;
    assert_eq!(after.holder_identity, before.holder_identity);
    assert_eq!(after.lease_transitions, Some(0));
    assert!(leads(&leader));
}

#[tokio::test]
async fn a_replica_that_may_not_watch_the_lease_takes_it_over_all_the_same() {
    let (scene, mut leader) = led(1800).await;
    let mut fewer = rules();
    for rule in &mut fewer {
        if rule.resources == Some(vec!["leases".to_owned()]) {
            rule.verbs.retain(|verb| verb != "list" && verb != "watch");
        }
    }
    let kubeconfig = scene
        .cluster
        .service_account(&scene.namespace, "no-watch", fewer)
        .await;
    let standby = Operator::start(&Options {
        kubeconfig,
        ..replica(&scene)
    })
    .await;
    let before = leases(&scene).get(LEASE).await.unwrap();
    leader.stop().await;
    let passed = passed_to(&standby, &scene, &before).await;
    assert_eq!(passed, Passed::GivenBack);
}

#[tokio::test]
async fn a_leader_whose_lease_somebody_else_holds_ends_and_says_who() {
    let (scene, mut leader) = led(1800).await;
    let taken = json!({"spec": {"holderIdentity": "somebody-else", "leaseTransitions": 1}});
    leases(&scene)
        .patch(LEASE, &PatchParams::default(), &Patch::Merge(taken))
        .await
        .unwrap();
    let ended = leader.ended().await;
    assert_eq!(ended.code(), Some(1));
    let log = leader.log();
    assert!(
        log.contains("the Lease was lost: \"somebody-else\" holds it now"),
        "{log}"
    );
    let holder = lease(&scene).await.holder_identity;
    assert_eq!(holder.as_deref(), Some("somebody-else"));
}

#[tokio::test]
async fn a_lease_that_is_deleted_is_there_again_and_one_replica_leads() {
    let (scene, leader) = led(1800).await;
    let replicas = [leader, Operator::start(&replica(&scene)).await];
    let deleted = leases(&scene).get(LEASE).await.unwrap().uid();
    leases(&scene)
        .delete(LEASE, &DeleteParams::default())
        .await
        .unwrap();
    eventually("one replica leads by a new Lease", async || {
        let lease = leases(&scene).get_opt(LEASE).await.unwrap()?;
        let spec = lease.spec.as_ref()?;
        let only_its_holder = |replica: &Operator| leads(replica) == is_held_by(spec, replica);
        (lease.uid() != deleted
            && replicas.iter().any(leads)
            && replicas.iter().all(only_its_holder))
        .then_some(())
    })
    .await;
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn without_an_election_it_leads_alone_and_there_is_no_lease() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let operator = Operator::start(&scene.options(&["--leader-elect=false"])).await;
    until_it_leads(&operator).await;
    let all = leases(&scene).list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items, []);
}

/// What ends a leader.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    Paused,
    Stopped,
}

#[tokio::test]
async fn leaders_that_are_killed_paused_and_stopped_in_turns_keep_the_secret_right() {
    let (scene, mut leader) = led(1800).await;
    for (turn, end) in [End::Killed, End::Paused, End::Stopped]
        .into_iter()
        .enumerate()
    {
        let standby = Operator::start(&replica(&scene)).await;
        let before = leases(&scene).get(LEASE).await.unwrap();
        // It is told to renew when it has no time left to do so, or just so much that it has begun.
        let name = format!("turn-{turn}");
        let request =
            json!({"metadata": {"annotations": {"snowcred.dev/renew-requested-at": name}}});
        scene.change("itsm", request).await;
        match end {
            End::Killed => leader.kill(),
            End::Paused => leader.pause(),
            End::Stopped => {
                leader.stop().await;
            }
        }
        let passed = passed_to(&standby, &scene, &before).await;
        let expected = match end {
            End::Killed | End::Paused => Passed::WaitedOut,
            End::Stopped => Passed::GivenBack,
        };
        assert_eq!(passed, expected, "{end:?}");
        eventually("the renewal is done", async || {
            let handled = scene.get("itsm").await.status?.handled_renew_request?;
            (handled == name).then_some(())
        })
        .await;
        let token = scene.token("itsm").await.unwrap();
        assert!(scene.instance.is_valid(&token), "{end:?}");
        let secret = scene.secret("itsm").await.unwrap();
        if matches!(end, End::Paused) {
            leader.resume();
            assert_eq!(leader.ended().await.code(), Some(1));
            assert_eq!(scene.secret("itsm").await.unwrap(), secret);
        }
        // One for the first token, one for each renewal, and at most one more for each hand-over.
        let requests = scene.instance.token_requests();
        assert!(
            requests <= 1 + 2 * (turn + 1),
            "{requests} after {end:?} in turn {turn}"
        );
        leader = standby;
    }
    assert_eq!(writes(&leader), "snowcred_secret_writes_total 1");
    assert_eq!(lease(&scene).await.lease_transitions, Some(3));
}

#[tokio::test]
async fn an_api_server_that_hangs_ends_the_leader_in_time_and_the_standby_leads_afterwards() {
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
    cluster.pause(Server::ApiServer);
    let ended = leader.ended().await;
    assert_eq!(ended.code(), Some(1));
    let log = leader.log();
    assert!(
        log.contains("the Lease was lost: The Kubernetes API did not answer in time"),
        "{log}"
    );
    assert_eq!(standby.get("/livez").unwrap().0, 200);
    cluster.resume(Server::ApiServer);
    until_it_leads(&standby).await;
    // It cannot give the Lease back now, and does not try for long.
    cluster.pause(Server::ApiServer);
    let (ended, took) = standby.stop().await;
    assert!(ended.unwrap().success());
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    let log = standby.log();
    assert!(
        log.contains("the Lease was not given back in time"),
        "{log}"
    );
}
