//! The client Secret: rotated, missing, malformed, refused.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::json;
use testkit::{
    operator::Operator,
    servicenow::{self, AuthMethod},
};

use crate::support::{CLIENT, CLIENT_ID, CLIENT_SECRET, Scene, eventually, rights, version};

const LONG: Duration = Duration::from_secs(1800);

#[tokio::test]
async fn a_rotated_client_secret_is_used_at_once() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let first = scene.await_synced("itsm").await;
    scene
        .instance
        .add_client(servicenow::Client::new("other", "rotated"));
    scene.put_client_secret("other", "rotated").await;
    eventually("there is a token of the new client", async || {
        scene.token("itsm").await.filter(|token| *token != first)
    })
    .await;
    assert_eq!(
        scene
            .instance
            .requests()
            .last()
            .unwrap()
            .client_id
            .as_deref(),
        Some("other")
    );
    assert_eq!(scene.instance.token_requests(), 2);
}

#[tokio::test]
async fn a_client_secret_that_was_rotated_while_the_operator_was_down_is_used_at_its_start() {
    let scene = Scene::new(LONG).await;
    let mut operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let first = scene.await_synced("itsm").await;
    operator.kill();
    scene
        .instance
        .add_client(servicenow::Client::new("other", "rotated"));
    scene.put_client_secret("other", "rotated").await;
    let _operator = scene.operator().await;
    eventually("there is a token of the new client", async || {
        scene.token("itsm").await.filter(|token| *token != first)
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_sent_in_the_wrong_way_is_refused_until_the_spec_says_the_other() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    for (name, wrong, right) in [
        ("itsm", AuthMethod::Basic, AuthMethod::Body),
        ("crm", AuthMethod::Body, AuthMethod::Basic),
    ] {
        let words = [wrong, right].map(|way| format!("{way:?}"));
        let only = |client: &mut servicenow::Client| client.authentication = Some(right);
        scene.instance.update_client(CLIENT_ID, only);
        let mut spec = scene.spec();
        spec["client"]["authentication"] = json!(words[0]);
        // Another sharing key than that of the resource before.
        spec["scopes"] = json!([format!("of_{name}")]);
        let scopes = vec![format!("of_{name}")];
        scene
            .instance
            .update_client(CLIENT_ID, |client| client.scopes = scopes);
        scene.create(name, spec).await;
        let message = scene.await_failure(name, "AccessDenied").await;
        let expected = format!(
            "{} refused the client with HTTP 401 (server_error: access_denied). The instance does not \
             say why; check in this order: 1) ",
            scene.instance.origin()
        );
        assert!(message.starts_with(&expected), "{message}");
        let other = json!({"spec": {"client": {"authentication": words[1]}}});
        scene.change(name, other).await;
        let token = scene.await_synced(name).await;
        assert!(scene.instance.is_valid(&token));
        let requests = scene.instance.requests();
        assert_eq!(requests.last().unwrap().auth, Some(right));
    }
}

#[tokio::test]
async fn the_same_bytes_under_a_new_version_cost_no_request() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    scene
        .put_secret(
            CLIENT,
            json!({
                "metadata": {"labels": {"touched": "yes"}},
                "stringData": {"client-id": CLIENT_ID, "client-secret": CLIENT_SECRET},
            }),
        )
        .await;
    let now = version(&scene.secret(CLIENT).await.unwrap());
    eventually("its new version is recorded", async || {
        let observed = scene.get("itsm").await.status?.observed;
        (observed[0].resource_version == now).then_some(())
    })
    .await;
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn a_missing_client_secret_is_named_and_used_as_soon_as_it_appears() {
    let scene = Scene::new(LONG).await;
    scene.delete_secret(CLIENT).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "ClientSecretMissing").await;
    assert!(
        message.contains(CLIENT) && message.contains("client-id"),
        "{message}"
    );
    scene.put_client_secret(CLIENT_ID, CLIENT_SECRET).await;
    scene.await_synced("itsm").await;
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn a_client_secret_that_holds_no_client_is_refused_by_secret_and_key() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let token = scene.token("itsm").await.unwrap();
    for (id, secret, key, problem) in [
        (json!(null), json!("eHl6"), "client-id", "has no key"),
        (json!("eHl6"), json!(""), "client-secret", "is empty"),
        (json!("eHl6"), json!("IAoJ"), "client-secret", "is empty"),
        (json!("//4="), json!("eHl6"), "client-id", "is not UTF-8"),
        (json!("YQpi"), json!("eHl6"), "client-id", "line break"),
    ] {
        let mut data = serde_json::Map::new();
        for (key, value) in [("client-id", id), ("client-secret", secret)] {
            if !value.is_null() {
                data.insert(key.to_owned(), value);
            }
        }
        replace(&scene, json!({"data": data})).await;
        let message = eventually("the problem is named", async || {
            let message = scene.await_failure("itsm", "ClientSecretInvalid").await;
            (message.contains(key) && message.contains(problem)).then_some(message)
        })
        .await;
        assert!(message.contains(CLIENT), "{message}");
        assert_eq!(
            scene.token("itsm").await.unwrap(),
            token,
            "the last good token stays"
        );
    }
    assert_eq!(
        scene.instance.token_requests(),
        1,
        "nothing is sent for a local cause"
    );
}

#[tokio::test]
async fn secrets_of_other_trades_are_never_sent_anywhere() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    for type_ in ["bootstrap.kubernetes.io/token", "helm.sh/release.v1"] {
        replace(
            &scene,
            json!({"type": type_, "stringData": {"client-id": "a", "client-secret": "b"}}),
        )
        .await;
        eventually("the type is refused", async || {
            let message = scene.await_failure("itsm", "ClientSecretInvalid").await;
            message.contains(type_).then_some(())
        })
        .await;
    }
    assert_eq!(scene.instance.token_requests(), 1);
}

/// Replaces the client Secret by another of this name.
async fn replace(scene: &Scene, mut body: serde_json::Value) {
    scene.delete_secret(CLIENT).await;
    body["metadata"] = json!({"name": CLIENT});
    let secret: Secret = serde_json::from_value(body).unwrap();
    scene
        .secrets()
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
}

#[tokio::test]
async fn whitespace_around_a_stored_client_is_taken_off_and_mentioned() {
    let scene = Scene::new(LONG).await;
    scene
        .put_client_secret(&format!("  {CLIENT_ID}\n"), &format!("{CLIENT_SECRET}\r\n"))
        .await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let message = scene
        .await_condition("itsm", "Synced", "True", "TokenSynced")
        .await;
    assert!(message.contains("whitespace around it"), "{message}");
}

#[tokio::test]
async fn a_refused_client_is_refused_once_for_all_who_share_it() {
    let scene = Scene::new(LONG).await;
    scene.put_client_secret(CLIENT_ID, "wrong").await;
    let operator = scene.operator().await;
    for n in 0..5 {
        scene.create(&format!("itsm-{n}"), scene.spec()).await;
    }
    for n in 0..5 {
        let message = scene
            .await_failure(&format!("itsm-{n}"), "AccessDenied")
            .await;
        assert!(
            message.contains("client.credential.grant_type.enabled"),
            "{message}"
        );
        assert!(message.contains("KB1645212"), "{message}");
    }
    assert_eq!(scene.instance.token_requests(), 1);
    assert!(
        operator.metrics().contains("result=\"AccessDenied\"} 1\n"),
        "{}",
        operator.metrics()
    );
    scene
        .await_events("itsm-0", &[("Warning", "AccessDenied")])
        .await;
    // A changed client ends the wait at once.
    scene.put_client_secret(CLIENT_ID, CLIENT_SECRET).await;
    for n in 0..5 {
        scene.await_synced(&format!("itsm-{n}")).await;
    }
    assert_eq!(scene.instance.token_requests(), 2);
}

#[tokio::test]
async fn a_refusal_is_remembered_across_a_restart() {
    let scene = Scene::new(LONG).await;
    scene.put_client_secret(CLIENT_ID, "wrong").await;
    let mut operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_failure("itsm", "AccessDenied").await;
    operator.kill();
    let operator = scene.operator().await;
    eventually("it has been looked at", async || {
        operator
            .metrics()
            .contains("outcome=\"AccessDenied\"} 1\n")
            .then_some(())
    })
    .await;
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn a_namespace_that_knows_a_clients_id_but_not_its_secret_gets_nothing_and_harms_nobody() {
    let (owner, stranger) = (Scene::new(LONG).await, Scene::new(LONG).await);
    let mut options = owner.options(&[]);
    options
        .arguments
        .retain(|argument| !argument.starts_with("--watch-namespaces"));
    let both = format!("{},{}", owner.namespace, stranger.namespace);
    options.arguments.push(format!("--watch-namespaces={both}"));
    // It has rights in its own namespace already.
    rights::operator(owner.cluster, &owner.namespace, &stranger.namespace).await;
    let _operator = Operator::start(&options).await;
    owner.create("itsm", owner.spec()).await;
    let first = owner.await_synced("itsm").await;
    stranger.put_client_secret(CLIENT_ID, "guessed").await;
    stranger.create("itsm", owner.spec()).await;
    stranger.await_failure("itsm", "AccessDenied").await;
    assert_eq!(stranger.secret("itsm").await, None);
    // The refusal is the stranger's own: the owner is served as before.
    owner.renew("itsm", "now").await;
    assert_ne!(owner.await_synced("itsm").await, first);
    assert_eq!(stranger.secret("itsm").await, None);
}
