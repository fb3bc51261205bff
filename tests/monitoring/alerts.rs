//! The alerts: Prometheus takes them, and each fires for what it tells of.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use testkit::{
    prometheus::{JOB, NAMESPACE},
    servicenow::{Fault, TokenMode},
};

use crate::{
    World,
    files::{names, rules, text},
    support::{Scene, eventually},
};

/// The rules with the waits of minutes made short.
fn impatient_rules() -> String {
    let rules = rules();
    let lines = rules.lines().map(|line| {
        let indent = line.split("for: ").next().unwrap_or_default();
        if indent.trim().is_empty() && line.contains("for: ") {
            format!("{indent}for: 1s\n")
        } else {
            format!("{line}\n")
        }
    });
    lines.collect()
}

/// What an alert of a resource bears, no more: whatever tells the replicas apart is gone.
fn of_resource(scene: &Scene, alert: &str, severity: &str, name: &str) -> Value {
    json!({"alertname": alert, "severity": severity, "namespace": scene.namespace, "name": name})
}

/// What an alert of the operator bears.
fn of_operator(alert: &str) -> Value {
    json!({"alertname": alert, "severity": "critical", "namespace": NAMESPACE, "job": JOB})
}

impl World {
    /// Waits until an alert fires for exactly this.
    async fn until_it_fires(&self, alert: &str, expected: &[Value]) {
        eventually(&format!("{alert} fires for {expected:?}"), async || {
            (self.api.firing(alert).await == expected).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn every_alert_is_loaded_and_healthy_and_a_fleet_that_is_well_fires_none() {
    let world = World::new(Duration::from_secs(1800), &impatient_rules()).await;
    world.scene.create("itsm", world.scene.spec()).await;
    world.scene.await_synced("itsm").await;
    let rules = eventually("every rule has been evaluated", async || {
        let rules = world.api.rules().await;
        let evaluated = rules.iter().all(|rule| rule["health"] != "unknown");
        (evaluated && !rules.is_empty()).then_some(rules)
    })
    .await;
    let loaded: BTreeSet<_> = rules.iter().map(|rule| text(&rule["name"])).collect();
    assert_eq!(loaded, names());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    eventually("both replicas show the resource as synced", async || {
        let synced = world.api.query("sum(snowcred_synced)").await;
        (synced.first()?.1 == 2.0).then_some(())
    })
    .await;
    for alert in names() {
        world.until_it_fires(&alert, &[]).await;
    }
}

#[tokio::test]
async fn a_token_that_is_not_renewed_is_told_before_it_expires_and_after() {
    let world = World::new(Duration::from_secs(30), &impatient_rules()).await;
    let scene = &world.scene;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    scene.instance.set_fault(Some(Fault::Maintenance));
    for (alert, severity) in [
        ("SnowcredNotSynced", "warning"),
        ("SnowcredRenewalOverdue", "warning"),
        ("SnowcredTokenExpired", "critical"),
    ] {
        let expected = [of_resource(scene, alert, severity, "itsm")];
        world.until_it_fires(alert, &expected).await;
    }
    // Each alert has its own time: that of before is over, and the Secret still holds the token.
    world.until_it_fires("SnowcredRenewalOverdue", &[]).await;
    world.until_it_fires("SnowcredTokenMissing", &[]).await;
    scene.instance.set_fault(None);
    for alert in ["SnowcredTokenExpired", "SnowcredNotSynced"] {
        world.until_it_fires(alert, &[]).await;
    }
}

#[tokio::test]
async fn a_token_that_is_renewed_in_time_or_kept_until_it_expires_is_never_overdue() {
    let renewed = World::new(Duration::from_secs(20), &rules()).await;
    let kept = World::new(Duration::from_secs(20), &rules()).await;
    kept.scene.instance.set_mode(TokenMode::ReuseRemaining);
    for world in [&renewed, &kept] {
        world.scene.create("itsm", world.scene.spec()).await;
    }
    eventually("the renewal is at the expiry", async || {
        let at_expiry =
            "snowcred_token_renewal_timestamp_seconds == snowcred_token_expiry_timestamp_seconds";
        let answer = kept.api.query(at_expiry).await;
        (!answer.is_empty()).then_some(())
    })
    .await;
    for world in [&renewed, &kept] {
        eventually("three tokens were issued", async || {
            (world.scene.instance.issued_tokens() >= 3).then_some(())
        })
        .await;
        // Every moment since the beginning, pending or firing.
        let ever = "count_over_time(ALERTS{alertname=\"SnowcredRenewalOverdue\"}[10m])";
        assert_eq!(world.api.query(ever).await, []);
    }
}

#[tokio::test]
async fn a_suspended_resource_is_not_synced_and_its_token_expires_like_any_other() {
    let world = World::new(Duration::from_secs(10), &impatient_rules()).await;
    let scene = &world.scene;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    scene
        .change("itsm", json!({"spec": {"suspend": true}}))
        .await;
    for (alert, severity) in [
        ("SnowcredNotSynced", "warning"),
        ("SnowcredTokenExpired", "critical"),
    ] {
        let expected = [of_resource(scene, alert, severity, "itsm")];
        world.until_it_fires(alert, &expected).await;
    }
    scene.delete("itsm").await;
    for alert in ["SnowcredTokenExpired", "SnowcredNotSynced"] {
        world.until_it_fires(alert, &[]).await;
    }
}

#[tokio::test]
async fn a_token_whose_secret_was_taken_is_told() {
    let world = World::new(Duration::from_secs(1800), &impatient_rules()).await;
    let scene = &world.scene;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    // Suspended, it does not put its Secret back before somebody else is there.
    scene
        .change("itsm", json!({"spec": {"suspend": true}}))
        .await;
    scene
        .await_condition("itsm", "Synced", "Unknown", "Suspended")
        .await;
    scene.delete_secret("itsm").await;
    let somebodys = json!({"stringData": {"token": "somebody's"}});
    scene.put_secret("itsm", somebodys).await;
    scene
        .change("itsm", json!({"spec": {"suspend": false}}))
        .await;
    scene.await_failure("itsm", "TargetConflict").await;
    let alert = "SnowcredTokenMissing";
    let expected = [of_resource(scene, alert, "critical", "itsm")];
    world.until_it_fires(alert, &expected).await;
    world.until_it_fires("SnowcredTokenExpired", &[]).await;
    scene.delete_secret("itsm").await;
    scene.await_synced("itsm").await;
    world.until_it_fires(alert, &[]).await;
}

#[tokio::test]
async fn an_operator_without_a_leader_is_told_and_so_is_one_that_is_away() {
    let mut world = World::new(Duration::from_secs(1800), &impatient_rules()).await;
    eventually("both replicas are watched", async || {
        let replicas = world.api.query("count(snowcred_leader)").await;
        (replicas.first()?.1 == 2.0).then_some(())
    })
    .await;
    // Killed, and not stopped: the Lease is held until its time is over.
    world.leader.kill();
    let alert = "SnowcredNoLeader";
    world.until_it_fires(alert, &[of_operator(alert)]).await;
    world.until_it_fires(alert, &[]).await;
    world.standby.kill();
    let alert = "SnowcredOperatorDown";
    world.until_it_fires(alert, &[of_operator(alert)]).await;
    world.until_it_fires("SnowcredNoLeader", &[]).await;
}
