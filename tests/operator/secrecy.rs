//! No secret appears anywhere but in the Secret.

use std::time::Duration;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use serde_json::json;
use testkit::{
    operator::Operator,
    servicenow::{Fault, TokenMode},
};

use crate::support::{CLIENT, CLIENT_ID, CLIENT_SECRET, Scene, eventually};

/// Every spelling in which a secret could show.
fn spellings(secret: &str) -> Vec<String> {
    let mut encoded = String::new();
    for byte in secret.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    vec![
        secret.to_owned(),
        STANDARD.encode(secret),
        STANDARD_NO_PAD.encode(secret),
        encoded.to_lowercase(),
        encoded,
    ]
}

#[tokio::test]
async fn logs_events_conditions_and_metrics_hold_no_secret_at_any_log_level() {
    let scene = Scene::new(Duration::from_secs(4)).await;
    let arguments = [
        "--log-level=trace",
        "--min-renew-interval=1ms",
        "--request-timeout=1s",
    ];
    let mut options = scene.options(&arguments);
    options
        .environment
        .push(("RUST_BACKTRACE".to_owned(), "full".to_owned()));
    options
        .environment
        .push(("RUST_LOG".to_owned(), "trace".to_owned()));
    let mut operator = Operator::start(&options).await;
    let mut secrets = vec![
        CLIENT_ID.to_owned(),
        CLIENT_SECRET.to_owned(),
        format!("{CLIENT_ID}:{CLIENT_SECRET}"),
    ];
    scene.create("itsm", scene.spec()).await;
    let mut body = scene.spec();
    body["client"]["authentication"] = json!("Body");
    body["target"] =
        json!({"data": {"authorization": "Bearer {{ token }}", "me": "{{ client_id }}"}});
    scene.create("body", body).await;
    let (user, password) = ("marked.user.4be2", "marked password&c07f");
    secrets.extend([user.to_owned(), password.to_owned()]);
    scene.instance.add_user(user, password);
    let held = json!({"username": user, "password": password});
    scene
        .put_secret("itsm-user", json!({"stringData": held}))
        .await;
    let mut as_user = scene.spec();
    as_user["grant"] = json!({"password": {"secretRef": {"name": "itsm-user"}}});
    as_user["verify"] = json!({"path": "/api/now/table/sys_user"});
    scene.create("user", as_user).await;
    secrets.push(scene.await_synced("user").await);
    let first = scene.await_synced("itsm").await;
    secrets.push(first.clone());
    scene
        .await_condition("body", "Synced", "True", "TokenSynced")
        .await;
    // A few renewals, in another mode too.
    for mode in [
        TokenMode::AlwaysNew,
        TokenMode::ReuseRemaining,
        TokenMode::ReuseSlide,
    ] {
        scene.instance.set_mode(mode);
        let old = secrets.last().cloned();
        let new = eventually("there is another token", async || {
            scene
                .token("itsm")
                .await
                .filter(|token| Some(token) != old.as_ref())
        });
        if mode != TokenMode::ReuseSlide {
            secrets.push(new.await);
        }
    }
    // An instance that says back what it gave, lately and before.
    let given = scene.token("itsm").await.expect("there is a token");
    let told =
        json!({"error": "server_error", "error_description": format!("{given}, not {first}")});
    scene
        .instance
        .set_fault(Some(Fault::InvalidRequest(400, told.to_string())));
    scene.renew("itsm", "given").await;
    // One that says back what it was told, and others that are out of order.
    for (number, fault) in [
        Fault::EchoAuthorization,
        Fault::AccessToken("marked token 7a1d with spaces".to_owned()),
        Fault::TruncatedJson,
        Fault::LoginPage,
        Fault::Hang,
    ]
    .into_iter()
    .enumerate()
    {
        scene.instance.set_fault(Some(fault));
        for name in ["itsm", "body", "user"] {
            scene.renew(name, &number.to_string()).await;
        }
    }
    secrets.extend([given, "marked token 7a1d with spaces".to_owned()]);
    // A client Secret that is no text, and one whose values stand under the wrong keys.
    for data in [
        json!({"client-id": "/w==", "client-secret": STANDARD.encode(CLIENT_SECRET)}),
        json!({"wrong": STANDARD.encode(CLIENT_SECRET), "client-id": STANDARD.encode(CLIENT_ID)}),
    ] {
        scene.delete_secret(CLIENT).await;
        scene.put_secret(CLIENT, json!({"data": data})).await;
        scene.await_failure("itsm", "ClientSecretInvalid").await;
    }
    let metrics = operator.metrics();
    operator.stop().await;
    let show = async |what: &[&str]| scene.cluster.kubectl(what).await.expect_success();
    let ns = scene.namespace.as_str();
    let resources = show(&["-n", ns, "get", "snc", "-o", "json"]).await;
    let events = show(&["-n", ns, "get", "events.events.k8s.io", "-o", "json"]).await;
    assert!(events.contains("AccessDenied"), "the events are there");
    let log = operator.log();
    assert!(
        log.contains("AccessDenied") && log.lines().count() > 20,
        "the log is there"
    );
    for (place, text) in [
        ("the metrics", &metrics),
        ("the resources", &resources),
        ("the events", &events),
        ("the log", &log),
    ] {
        for secret in &secrets {
            for spelling in spellings(secret) {
                assert!(!text.contains(&spelling), "{place}: {spelling}");
            }
        }
    }
}
