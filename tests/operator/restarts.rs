//! Workloads are restarted when the token's value has changed, and for nothing else.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use testkit::servicenow::TokenMode;

use crate::support::{Scene, until_it_has_looked};

const LONG: Duration = Duration::from_secs(1800);
const KINDS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];

/// Applies a workload as a GitOps tool would, again and again with the same manifest.
async fn apply(scene: &Scene, kind: &str) -> Value {
    let namespace = &scene.namespace;
    let labels = json!({"app": "sync"});
    let container = json!({"name": "sync", "image": "example.com/sync:1"});
    let mut body = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "sync"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    });
    if kind == "StatefulSet" {
        body["spec"]["serviceName"] = json!("sync");
    }
    let tool = PatchParams::apply("gitops");
    let (client, patch) = (scene.client.clone(), Patch::Apply(body));
    let applied = match kind {
        "Deployment" => {
            let api: Api<Deployment> = Api::namespaced(client, namespace);
            serde_json::to_value(api.patch("sync", &tool, &patch).await.unwrap())
        }
        "StatefulSet" => {
            let api: Api<StatefulSet> = Api::namespaced(client, namespace);
            serde_json::to_value(api.patch("sync", &tool, &patch).await.unwrap())
        }
        _ => {
            let api: Api<DaemonSet> = Api::namespaced(client, namespace);
            serde_json::to_value(api.patch("sync", &tool, &patch).await.unwrap())
        }
    };
    applied.unwrap()
}

/// What the pod template says, and how often the workload's spec was changed.
fn restarts(workload: &Value) -> (Value, Value) {
    let annotations = &workload["spec"]["template"]["metadata"]["annotations"];
    (
        annotations["snowcred.dev/restarted-at"].clone(),
        workload["metadata"]["generation"].clone(),
    )
}

fn restarting(scene: &Scene, kinds: &[&str]) -> Value {
    let mut spec = scene.spec();
    let entry = |kind: &&str| json!({"kind": kind, "name": "sync"});
    spec["restart"] = kinds.iter().map(entry).collect();
    spec
}

#[tokio::test]
async fn a_new_token_restarts_each_workload_once_and_the_first_one_none() {
    let scene = Scene::new(LONG).await;
    for kind in KINDS {
        apply(&scene, kind).await;
    }
    let operator = scene.operator().await;
    scene.create("itsm", restarting(&scene, &KINDS)).await;
    scene.await_synced("itsm").await;
    for kind in KINDS {
        assert_eq!(
            restarts(&apply(&scene, kind).await),
            (Value::Null, json!(1))
        );
    }
    assert_eq!(scene.get("itsm").await.status.unwrap().restarted, None);
    scene.renew("itsm", "now").await;
    let status = scene.get("itsm").await.status.unwrap();
    let token = status.token.unwrap();
    assert_eq!(status.restarted.unwrap().sha256, token.sha256.unwrap());
    for kind in KINDS {
        // The tool that applies them has nothing to put back.
        let (at, generation) = restarts(&apply(&scene, kind).await);
        let at: jiff::Timestamp = at.as_str().unwrap().parse().unwrap();
        assert_eq!((at, generation), (token.issued_at.0, json!(2)));
    }
    assert!(
        operator
            .metrics()
            .contains("snowcred_workload_restarts_total 3\n")
    );
    // Neither does a restart of the operator restart anything.
    drop(operator);
    let operator = scene.operator().await;
    until_it_has_looked(&operator).await;
    for kind in KINDS {
        assert_eq!(restarts(&apply(&scene, kind).await).1, json!(2));
    }
}

#[tokio::test]
async fn the_same_token_and_a_new_entry_restart_nothing() {
    let scene = Scene::new(LONG).await;
    apply(&scene, "Deployment").await;
    let _operator = scene.operator().await;
    scene.instance.set_mode(TokenMode::ReuseSlide);
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let entry = restarting(&scene, &["Deployment"])["restart"].clone();
    scene
        .change("itsm", json!({"spec": {"restart": entry}}))
        .await;
    scene.renew("itsm", "now").await;
    assert_eq!(
        restarts(&apply(&scene, "Deployment").await),
        (Value::Null, json!(1))
    );
}

#[tokio::test]
async fn a_missing_workload_is_told_and_holds_nothing_up() {
    let scene = Scene::new(LONG).await;
    apply(&scene, "Deployment").await;
    let _operator = scene.operator().await;
    scene
        .create("itsm", restarting(&scene, &["StatefulSet", "Deployment"]))
        .await;
    let first = scene.await_synced("itsm").await;
    scene.renew("itsm", "now").await;
    let message = scene
        .await_condition("itsm", "Synced", "True", "TokenSynced")
        .await;
    assert!(
        message.contains("StatefulSet \"sync\": it does not exist"),
        "{message}"
    );
    assert_ne!(scene.await_synced("itsm").await, first);
    assert_eq!(restarts(&apply(&scene, "Deployment").await).1, json!(2));
    scene
        .await_events("itsm", &[("Warning", "ReferenceMissing")])
        .await;
}
