//! The dashboard: each of its queries is answered by a real operator.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    World,
    files::{alerts, dashboard, metrics, rules, text},
    support::{Scene, eventually},
};

/// The panels, but for the titles of rows.
fn panels() -> Vec<Value> {
    let mut panels = dashboard()["panels"].as_array().unwrap().clone();
    panels.retain(|panel| panel["type"] != "row");
    assert!(panels.len() > 10);
    panels
}

/// Every query, as the panel has it.
fn queries() -> Vec<String> {
    let targets = panels().into_iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().cloned();
        targets.unwrap_or_else(|| panic!("{} asks nothing", panel["title"]))
    });
    targets.map(|target| text(&target["expr"])).collect()
}

/// As Grafana asks it for one namespace.
fn filled_in(query: &str, namespace: &str) -> String {
    let filled = query
        .replace("$namespace", namespace)
        .replace("$__rate_interval", "1m");
    assert!(!filled.contains('$'), "{query} has another variable");
    filled
}

/// A workload that is restarted for each new token.
async fn deploy(scene: &Scene) {
    let labels = json!({"app": "sync"});
    let container = json!({"name": "sync", "image": "example.com/sync:1"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "sync"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    });
    let api: Api<Deployment> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let somebody = PatchParams::apply("somebody");
    let patch = Patch::Apply(deployment);
    api.patch("sync", &somebody, &patch).await.unwrap();
}

/// One that is well and restarts a workload, one that had a token and fails, one that never had one.
async fn fleet() -> World {
    let world = World::new(Duration::from_secs(20), &rules()).await;
    let scene = &world.scene;
    deploy(scene).await;
    let mut restarts = scene.spec();
    restarts["restart"] = json!([{"kind": "Deployment", "name": "sync"}]);
    scene.create("itsm", restarts).await;
    scene.create("fails", scene.spec()).await;
    scene.await_synced("itsm").await;
    scene.await_synced("fails").await;
    let absent = json!({"secretRef": {"name": "absent"}});
    scene
        .change("fails", json!({"spec": {"client": absent}}))
        .await;
    scene
        .create(
            "new",
            json!({"instance": scene.instance.origin(), "client": absent}),
        )
        .await;
    scene.await_failure("fails", "ClientSecretMissing").await;
    scene.await_failure("new", "ClientSecretMissing").await;
    world
}

#[tokio::test]
async fn every_query_is_answered_by_a_real_operator() {
    let world = fleet().await;
    let (api, namespace) = (&world.api, &world.scene.namespace);
    for query in queries() {
        let query = filled_in(&query, namespace);
        // A quantile of nothing is no number.
        eventually(&format!("{query} has an answer"), async || {
            let answer = api.query(&query).await;
            let is_whole = !answer.is_empty() && answer.iter().all(|(_, value)| !value.is_nan());
            is_whole.then_some(())
        })
        .await;
    }
    let exposed = api.values("__name__", None).await;
    let alerts = alerts().into_iter().map(|alert| text(&alert["expr"]));
    for query in queries().into_iter().chain(alerts) {
        let metrics = metrics(&query);
        assert!(!metrics.is_empty(), "{query} names no metric");
        let unknown: Vec<_> = metrics.difference(&exposed).collect();
        assert!(unknown.is_empty(), "{query}: nobody exposes {unknown:?}");
    }
    // The choices of the variable.
    let variables = dashboard()["templating"]["list"].clone();
    let variables = variables.as_array().unwrap().iter();
    let choice = variables
        .clone()
        .find(|v| v["name"] == "namespace")
        .unwrap();
    assert_eq!(
        choice["query"]["query"],
        "label_values(snowcred_ready, namespace)"
    );
    let namespaces = api.values("namespace", Some("snowcred_ready")).await;
    assert_eq!(namespaces, BTreeSet::from([namespace.clone()]));
    assert_eq!(choice["allValue"], ".*");
}

#[tokio::test]
async fn two_replicas_do_not_count_a_resource_twice() {
    let world = fleet().await;
    let ask = |title: &str| {
        let panel = panels().into_iter().find(|panel| panel["title"] == title);
        let panel = panel.unwrap_or_else(|| panic!("no panel {title}"));
        let query = text(&panel["targets"][0]["expr"]);
        filled_in(&query, &world.scene.namespace)
    };
    eventually("both replicas show all resources", async || {
        let series = world.api.query("count(snowcred_synced)").await;
        series
            .first()
            .is_some_and(|(_, count)| *count == 6.0)
            .then_some(())
    })
    .await;
    for (title, expected) in [("Resources", 3.0), ("Not synced", 2.0)] {
        let query = ask(title);
        eventually(&format!("{title} is {expected}"), async || {
            let answer = world.api.query(&query).await;
            (answer.len() == 1 && answer[0].1 == expected).then_some(())
        })
        .await;
    }
    let query = ask("Failing resources");
    eventually("each failing resource is a row", async || {
        let rows = world.api.query(&query).await;
        let names: BTreeSet<_> = rows
            .iter()
            .map(|(labels, _)| text(&labels["name"]))
            .collect();
        let expected = BTreeSet::from(["fails".to_owned(), "new".to_owned()]);
        (rows.len() == 2 && names == expected).then_some(())
    })
    .await;
}

#[test]
fn every_panel_has_its_own_place_and_asks_the_chosen_data_source() {
    let panels = dashboard()["panels"].as_array().unwrap().clone();
    let ids: BTreeSet<_> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in &panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                let is_free = x < 24 && taken.insert((x, y));
                assert!(is_free, "{} lies over another", panel["title"]);
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
        }
    }
}
