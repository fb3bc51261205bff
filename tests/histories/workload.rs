//! The workload that is restarted for a new token.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::support::Scene;

/// The name of the Deployment.
pub(crate) const WORKLOAD: &str = "itsm-sync";

fn deployments(scene: &Scene) -> Api<Deployment> {
    Api::namespaced(scene.client.clone(), &scene.namespace)
}

/// Creates it.
pub(crate) async fn put(scene: &Scene) {
    let labels = json!({"app": WORKLOAD});
    let container = json!({"name": "sync", "image": "example.com/sync:1"});
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": WORKLOAD},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    });
    let somebody = PatchParams::apply("somebody");
    let put = deployments(scene)
        .patch(WORKLOAD, &somebody, &Patch::Apply(body))
        .await;
    put.unwrap();
}

/// What its pod template says of its last restart.
pub(crate) async fn restarted_at(scene: &Scene) -> Value {
    let workload = deployments(scene).get_opt(WORKLOAD).await.unwrap();
    let template = workload.and_then(|workload| Some(workload.spec?.template));
    let annotations = template.and_then(|template| template.metadata?.annotations);
    json!(annotations.and_then(|all| all.get("snowcred.dev/restarted-at").cloned()))
}
