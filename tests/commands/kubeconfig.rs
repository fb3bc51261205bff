//! The commands reach the API server as kubectl does with the same kubeconfig.

use std::{fs, path::Path, sync::atomic::Ordering};

use serde_json::{Value, json};
use testkit::servicenow::TokenMode;

use crate::{
    HALF_AN_HOUR, PROGRAM, command, run,
    support::{Scene, rights::rules, tunnel::proxy},
    synced,
};

/// A kubeconfig of a ServiceAccount, to be changed.
async fn kubeconfig(scene: &Scene) -> Value {
    let account = scene
        .cluster
        .service_account(&scene.namespace, "person", rules());
    let text = fs::read_to_string(account.await).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// Runs `status` with this kubeconfig; returns what it prints.
async fn status(scene: &Scene, kubeconfig: &Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    fs::write(&file, kubeconfig.to_string()).unwrap();
    let arguments = ["status", "-n", &scene.namespace];
    let mut command = command(scene, Path::new(PROGRAM), &arguments);
    command.env("KUBECONFIG", file);
    let came = run(command).await;
    came.stdout + &came.stderr
}

#[tokio::test]
async fn a_credential_plugin_is_asked_for_the_token() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let mut config = kubeconfig(&scene).await;
    let token = config["users"][0]["user"]["token"].take();
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token},
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credential.json");
    fs::write(&file, credential.to_string()).unwrap();
    config["users"][0]["user"] = json!({
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "cat",
            "args": [file],
            "interactiveMode": "Never",
        },
    });
    let shown = status(&scene, &config).await;
    assert!(shown.contains("itsm "), "{shown}");
    config["users"][0]["user"]["exec"]["command"] = json!("no-such-plugin");
    let shown = status(&scene, &config).await;
    assert!(
        shown.starts_with("error: ") && shown.contains("no-such-plugin"),
        "{shown}"
    );
}

#[tokio::test]
async fn the_proxy_of_the_kubeconfig_is_used() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let mut config = kubeconfig(&scene).await;
    let (address, tunnels) = proxy().await;
    config["clusters"][0]["cluster"]["proxy-url"] = json!(format!("http://{address}"));
    let shown = status(&scene, &config).await;
    assert!(shown.contains("itsm "), "{shown}");
    assert!(tunnels.load(Ordering::SeqCst) > 0);
}
