//! Alerts, dashboard and runbooks: each query is answered by a real operator, each alert really fires,
//! and each has a page that says what to do.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod dashboard;
mod files;
mod queries;
mod runbooks;

use std::time::Duration;

use support::{Scene, eventually, rights::LEASE};
use testkit::{operator::Operator, prometheus::Prometheus};

use queries::Api;

/// An operator of two replicas, and a Prometheus that watches both.
struct World {
    scene: Scene,
    leader: Operator,
    standby: Operator,
    api: Api,
    // It runs for as long as it is held.
    _prometheus: Prometheus,
}

impl World {
    /// With tokens of this lifetime, and these rules.
    async fn new(lifetime: Duration, rules: &str) -> Self {
        let scene = Scene::new(lifetime).await;
        let namespace = format!("--lease-namespace={}", scene.namespace);
        let lease = format!("--lease-name={LEASE}");
        let options = scene.options(&["--leader-elect", &namespace, &lease]);
        let leader = Operator::start(&options).await;
        eventually("it leads", async || {
            leader.metrics().contains("snowcred_leader 1").then_some(())
        })
        .await;
        let standby = Operator::start(&options).await;
        let replicas = [&leader, &standby].map(|replica| replica.address().unwrap());
        let prometheus = Prometheus::start(&replicas, rules).await;
        let api = Api::of(&prometheus);
        Self {
            scene,
            leader,
            standby,
            api,
            _prometheus: prometheus,
        }
    }
}
