//! The promise of `examples/`: what people copy works as it stands.

#[path = "support/mod.rs"]
mod support;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde_json::{Value, json};
use testkit::servicenow::{Client, Simulator};

use crate::support::{Scene, data};

/// The documents of all examples.
fn examples() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the examples")
        .map(|entry| entry.expect("an example").path())
        .collect();
    files.sort();
    files.iter().flat_map(|file| documents(file)).collect()
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("a readable file");
    serde_saphyr::from_multiple(&text).expect("a file of valid YAML")
}

fn of_kind(kind: &str) -> Vec<Value> {
    let mut examples = examples();
    examples.retain(|document| document["kind"] == kind);
    assert!(!examples.is_empty(), "there is no example of a {kind}");
    examples
}

/// The name of the Secret that a ServiceNowCredential writes.
fn target(credential: &Value) -> &str {
    let target = credential["spec"]["target"]["name"].as_str();
    let name = credential["metadata"]["name"].as_str();
    target.or(name).expect("a name")
}

/// Applies a document as people do.
async fn apply(scene: &Scene, document: &Value) {
    let apply = [
        "-n",
        &scene.namespace,
        "apply",
        "--validate=strict",
        "-f",
        "-",
    ];
    let document = document.to_string();
    let output = scene.cluster.kubectl_stdin(&apply, &document).await;
    output.expect_success();
}

/// What the examples' comments tell people to create: a CA and a certificate, by their names.
async fn certificates() -> [Value; 2] {
    let another = Simulator::start_tls().await;
    let ca = another.ca_pem().expect("an authority");
    let identity = another.issue_client_certificate("operator");
    let identity = identity.expect("a certificate").expect("of the authority");
    [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "corp-ca"}, "data": {"ca.crt": ca},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "itsm-mtls"},
            "stringData": {"tls.crt": identity.certificate_pem, "tls.key": identity.key_pem},
        }),
    ]
}

#[tokio::test]
async fn every_example_is_accepted_and_every_credential_becomes_ready() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let credentials = of_kind("ServiceNowCredential");
    let secrets = of_kind("Secret");
    let part = |key: &str| {
        let mut values = secrets.iter().filter_map(|s| s["stringData"][key].as_str());
        values.next().expect("a value").to_owned()
    };
    let scopes = credentials
        .iter()
        .flat_map(|c| c["spec"]["scopes"].as_array().into_iter().flatten())
        .map(|scope| scope.as_str().expect("a scope").to_owned());
    let client = Client::new(part("client-id"), part("client-secret"));
    scene.instance.add_client(client.with_scopes(scopes));
    scene.instance.add_user(part("username"), part("password"));

    for document in certificates().await {
        apply(&scene, &document).await;
    }
    for mut document in examples() {
        if document["kind"] == "ServiceNowCredential" {
            document["spec"]["instance"] = json!(scene.instance.origin());
        }
        apply(&scene, &document).await;
    }

    let _operator = scene.operator().await;
    for credential in credentials {
        let name = credential["metadata"]["name"].as_str().expect("a name");
        for (kind, reason) in [("Ready", "TokenValid"), ("Synced", "TokenSynced")] {
            scene.await_condition(name, kind, "True", reason).await;
        }
        if credential["spec"]["verify"].is_object() {
            scene
                .await_condition(name, "Verified", "True", "ProbeSucceeded")
                .await;
        }
        let held = data(&scene.secret(target(&credential)).await.expect("a target"));
        let wanted = credential["spec"]["target"]["data"].as_object();
        let keys = wanted.map_or_else(|| vec!["token"], |d| d.keys().map(String::as_str).collect());
        for key in keys {
            assert!(!held[key].is_empty(), "{name}: {key}");
        }
        let token = held.get("token").or_else(|| held.get("servicenow-token"));
        assert!(scene.instance.is_valid(token.expect("a token")), "{name}");
    }
}

#[test]
fn the_deployment_mounts_a_whole_secret_that_an_example_writes() {
    let written: BTreeSet<_> = of_kind("ServiceNowCredential")
        .iter()
        .map(|credential| target(credential).to_owned())
        .collect();
    for deployment in of_kind("Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("volumes");
        assert!(volumes.iter().all(|volume| {
            let name = volume["secret"]["secretName"].as_str();
            name.is_some_and(|name| written.contains(name))
        }));
        for container in pod["containers"].as_array().expect("containers") {
            for mount in container["volumeMounts"].as_array().expect("mounts") {
                assert_eq!(mount["subPath"], Value::Null);
            }
        }
    }
}
