//! The real API server with our CustomResourceDefinition, and ways to speak to it.

use serde_json::{Value, json};
use servicenow_credential_operator::api::crd_yaml;
use testkit::cluster::{ControlPlane, shared};
use tokio::sync::OnceCell;

/// The control plane with our CustomResourceDefinition, and a namespace of this file's own.
pub(crate) async fn cluster() -> &'static ControlPlane {
    static READY: OnceCell<()> = OnceCell::const_new();
    let cluster = shared().await;
    READY
        .get_or_init(async || {
            apply(cluster, &crd_yaml()).await;
            let crd = "crd/servicenowcredentials.snowcred.dev";
            ok(
                cluster,
                &["wait", "--for=condition=Established", "--timeout=60s", crd],
            )
            .await;
            apply(
                cluster,
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
                    .to_string(),
            )
            .await;
            // Discovery follows a moment after.
            for _ in 0..300 {
                let listed = cluster.kubectl(&["-n", NAMESPACE, "get", "snc"]).await;
                if listed.status.success() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            panic!("the API server has not begun to serve the resource within 30 s");
        })
        .await;
    cluster
}

pub(crate) const NAMESPACE: &str = "admission";

pub(crate) async fn apply(cluster: &ControlPlane, document: &str) {
    let output = cluster.kubectl_stdin(&["apply", "-f", "-"], document).await;
    assert!(output.status.success(), "{}", output.stderr);
}

pub(crate) async fn ok(cluster: &ControlPlane, arguments: &[&str]) -> String {
    let output = cluster.kubectl(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", output.stderr);
    output.stdout
}

pub(crate) fn resource(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "snowcred.dev/v1alpha1",
        "kind": "ServiceNowCredential",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

/// Documents of one stream, so that a table costs one call.
pub(crate) fn documents(specs: impl Iterator<Item = Value>) -> String {
    specs
        .enumerate()
        .map(|(index, spec)| format!("---\n{}\n", resource(&format!("case-{index}"), &spec)))
        .collect()
}

pub(crate) const CREATE: [&str; 4] = ["create", "--dry-run=server", "-f", "-"];
