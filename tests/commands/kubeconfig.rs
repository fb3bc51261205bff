//! The commands reach the API server as kubectl does with the same kubeconfig.

use std::{ffi::OsStr, fs, process::Stdio, sync::atomic::Ordering};

use axum::{Router, http::StatusCode};
use serde_json::{Value, json};
use testkit::servicenow::TokenMode;
use tokio::{net::TcpListener, process::Command};

use crate::{
    HALF_AN_HOUR, PROGRAM, run,
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
    status_by(&file, &["-n", &scene.namespace]).await
}

/// Runs `status` as if in a pod; returns what it prints.
async fn status_by(kubeconfig: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    command
        .arg("status")
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", "1")
        .stdin(Stdio::null());
    let came = run(command).await;
    came.stdout + &came.stderr
}

/// Runs `status`, which fails with one sentence that has these words and nothing secret.
async fn refused_by(kubeconfig: impl AsRef<OsStr>, arguments: &[&str], words: &[&str]) {
    let shown = status_by(kubeconfig, arguments).await;
    assert!(shown.starts_with("error: "), "{shown}");
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(!shown.contains("SECRET"), "{shown}");
    for word in words {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

async fn refused(kubeconfig: &Value, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    fs::write(&file, kubeconfig.to_string()).unwrap();
    refused_by(&file, &[], words).await;
}

/// A kubeconfig of a server and a user.
fn of(server: &str, user: &Value) -> Value {
    json!({
        "clusters": [{"name": "there", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "it", "context": {"cluster": "there", "user": "me"}}],
        "current-context": "it",
    })
}

/// A user with a credential plugin that is this script.
fn plugin(script: &str) -> Value {
    json!({
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", script, "SECRET"],
            "env": [{"name": "PASSWORD", "value": "SECRET"}],
            "interactiveMode": "Never",
        },
    })
}

const NOBODY: &str = "https://127.0.0.1:1";

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

#[tokio::test]
async fn a_broken_kubeconfig_is_named_and_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let text = "users:\n- name: me\n  user:\n    token: SECRET\n    exec: 5\n    as: SECRET\n";
    fs::write(&file, text).unwrap();
    let words = [file.to_str().unwrap(), "line 5", "correct it"];
    refused_by(&file, &[], &words).await;
    fs::write(&file, "token: SECRET\n\t- {").unwrap();
    refused_by(&file, &[], &[file.to_str().unwrap(), "line "]).await;
    let key = json!({"client-certificate-data": "U0VDUkVU", "client-key-data": "SECRET!"});
    refused(&of(NOBODY, &key), &["client-key-data", "base64"]).await;
}

#[tokio::test]
async fn a_plugin_that_fails_is_named_and_not_quoted() {
    let script = "echo SECRET; echo SECRET >&2; exit 3";
    refused(
        &of(NOBODY, &plugin(script)),
        &["\"sh\"", "exit status: 3", "by hand"],
    )
    .await;
    for script in ["echo SECRET", r#"echo '{"status": ["SECRET"]}'"#] {
        refused(&of(NOBODY, &plugin(script)), &["\"sh\"", "ExecCredential"]).await;
    }
}

#[tokio::test]
async fn a_plugin_whose_token_cannot_be_sent_is_named() {
    for expiry in [Value::Null, json!("2999-01-01T00:00:00Z")] {
        let credential = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": "SECRET\n", "expirationTimestamp": expiry},
        });
        let script = format!("cat <<'END'\n{credential}\nEND");
        refused(&of(NOBODY, &plugin(&script)), &["\"sh\"", "line break"]).await;
    }
}

#[tokio::test]
async fn a_plugin_that_fails_later_is_not_quoted_either() {
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "SECRET", "expirationTimestamp": "2001-01-01T00:00:00Z"},
    });
    let script = format!(
        "if [ -e {0} ]; then echo SECRET; exit 3; fi; touch {0}; echo '{credential}'",
        asked.display()
    );
    refused(&of(NOBODY, &plugin(&script)), &["\"sh\"", "exit status: 3"]).await;
}

#[tokio::test]
async fn a_token_may_end_in_a_line_break() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let mut config = kubeconfig(&scene).await;
    let token = config["users"][0]["user"]["token"].take();
    let token = format!("{}\n", token.as_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, &token).unwrap();
    for user in [json!({"token": token}), json!({"tokenFile": file})] {
        config["users"][0]["user"] = user;
        let shown = status(&scene, &config).await;
        assert!(shown.contains("itsm "), "{shown}");
    }
    let broken = json!({"token": "SECRET\nSECRET"});
    refused(&of(NOBODY, &broken), &["the token", "line break"]).await;
    fs::write(&file, "SECRET\nSECRET").unwrap();
    let broken = json!({"tokenFile": file});
    refused(&of(NOBODY, &broken), &[file.to_str().unwrap()]).await;
}

#[tokio::test]
async fn a_server_out_of_reach_is_named_with_the_cause() {
    let user = json!({"token": "SECRET"});
    let refuses = "https://SECRET:SECRET@127.0.0.1:1";
    refused(
        &of(refuses, &user),
        &["https://127.0.0.1:1 ", "refused", "check that server"],
    )
    .await;
    refused(
        &of("https://nobody.invalid:6443", &user),
        &["https://nobody.invalid:6443 ", "lookup"],
    )
    .await;
    let mut proxied = of("https://127.0.0.1:2", &user);
    for (proxy, words) in [
        (
            "http://SECRET:SECRET@127.0.0.1:1",
            ["https://127.0.0.1:2 ", "http://127.0.0.1:1:", "refused"],
        ),
        (
            "ftp://SECRET:SECRET@127.0.0.1:1",
            ["proxy-url", "socks5", "correct it"],
        ),
    ] {
        proxied["clusters"][0]["cluster"]["proxy-url"] = json!(proxy);
        refused(&proxied, &words).await;
    }
    let scene = Scene::new(HALF_AN_HOUR).await;
    let mut untrusted = kubeconfig(&scene).await;
    let cluster = &mut untrusted["clusters"][0]["cluster"];
    cluster["certificate-authority-data"] = Value::Null;
    let server = cluster["server"].as_str().unwrap().to_owned();
    let words = [&server[..], "UnknownIssuer", "certificate-authority"];
    refused(&untrusted, &words).await;
}

#[tokio::test]
async fn files_that_do_not_exist_are_skipped_as_kubectl_does() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let file = scene.cluster.kubeconfig().display().to_string();
    let listed = format!("/nope:{file}:/none");
    let shown = status_by(listed, &["-n", &scene.namespace]).await;
    assert!(shown.contains("itsm "), "{shown}");
    refused_by("/nope:/none", &[], &["\"/nope\"", "\"/none\""]).await;
}

#[tokio::test]
async fn a_context_is_not_looked_for_in_the_cluster_around() {
    refused_by("/nope", &["--context", "mine"], &["\"mine\"", "\"/nope\""]).await;
    let folder = tempfile::tempdir().unwrap();
    refused_by(folder.path(), &[], &[folder.path().to_str().unwrap()]).await;
}

#[tokio::test]
async fn credentials_that_the_cluster_does_not_know_are_no_missing_right() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    let mut config = kubeconfig(&scene).await;
    config["users"][0]["user"]["token"] = json!("SECRET");
    refused(&config, &["401", "log in again"]).await;
    let nobody = scene
        .cluster
        .service_account(&scene.namespace, "nobody", Vec::new());
    let file = nobody.await;
    refused_by(&file, &[], &["forbidden", "for that right"]).await;
}

#[tokio::test]
async fn a_server_that_is_no_kubernetes_is_told_apart_from_a_missing_crd() {
    for (code, body) in [
        (StatusCode::NOT_FOUND, "<html>\nSECRET</html>"),
        (StatusCode::NOT_FOUND, "{}"),
        (StatusCode::BAD_GATEWAY, "<html>\nSECRET</html>"),
        (StatusCode::OK, "<html>\nSECRET</html>"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let answers = Router::new().fallback(move || async move { (code, body) });
        tokio::spawn(async move { axum::serve(listener, answers).await });
        refused(&of(&server, &json!({})), &["Kubernetes API is none"]).await;
    }
}
