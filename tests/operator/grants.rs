//! The password grant: the same renewal, the same failures, the same secrecy.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use testkit::{operator::Operator, servicenow::RecordedRequest};

use crate::support::{Scene, data, eventually};

const LONG: Duration = Duration::from_secs(1800);
const USER: &str = "marked.user.77aa";
const PASSWORD: &str = "marked password&31d0 ";

fn with_password(scene: &Scene) -> Value {
    let mut spec = scene.spec();
    spec["grant"] = json!({"password": {"secretRef": {"name": "itsm-user"}}});
    spec
}

async fn put_user(scene: &Scene, password: &str) {
    let user = json!({"username": format!("{USER}\n"), "password": format!("{password}\n")});
    let body = json!({"stringData": user});
    scene.put_secret("itsm-user", body).await;
}

/// Everything that the API holds in the scene's namespace, with the data of Secrets as text, too.
async fn objects(scene: &Scene) -> String {
    let kinds = "servicenowcredentials,secrets,configmaps,events.events.k8s.io";
    let get = ["-n", &scene.namespace, "get", kinds, "-o", "json"];
    let mut text = scene.cluster.kubectl(&get).await.expect_success();
    let secrets = scene.secrets().list(&Default::default()).await.unwrap();
    for secret in &secrets.items {
        text.extend(data(secret).into_values());
    }
    text
}

#[tokio::test]
async fn a_users_token_is_fetched_and_renewed_and_its_refresh_token_neither_used_nor_kept() {
    let scene = Scene::new(Duration::from_secs(6)).await;
    scene.instance.add_user(USER, PASSWORD);
    put_user(&scene, PASSWORD).await;
    let operator = Operator::start(&scene.options(&["--log-level=trace"])).await;
    let mut spec = with_password(&scene);
    spec["verify"] = json!({"path": "/api/now/table/sys_user"});
    scene.create("itsm", spec).await;
    let first = scene.await_synced("itsm").await;
    eventually("it is renewed", async || {
        let token = scene.token("itsm").await?;
        (token != first && scene.instance.is_valid(&token)).then_some(())
    })
    .await;
    let observed = scene.get("itsm").await.status.unwrap().observed;
    let names: Vec<_> = observed.iter().map(|o| (&*o.kind, &*o.name)).collect();
    assert_eq!(
        names,
        [("Secret", "itsm-oauth-client"), ("Secret", "itsm-user")]
    );
    let mut asked = scene.instance.requests();
    asked.retain(RecordedRequest::is_token_request);
    assert!(asked.iter().all(|r| r.grant.as_deref() == Some("password")));
    assert_eq!(scene.instance.revocations(), 0);
    // A refusal is told by an Event.
    scene.instance.add_user(USER, "changed");
    scene.renew("itsm", "now").await;
    scene
        .await_events("itsm", &[("Warning", "AccessDenied")])
        .await;
    let seen = operator.log() + &operator.metrics();
    for secret in [USER, PASSWORD.trim()] {
        assert!(!seen.contains(secret));
    }
    assert_eq!(scene.instance.refresh_tokens_returned(), 0);
    let refresh_tokens = scene.instance.refresh_tokens();
    assert!(refresh_tokens.len() > 1, "{}", refresh_tokens.len());
    let objects = objects(&scene).await;
    assert!(objects.contains("AccessDenied"), "the Event is there");
    for token in refresh_tokens {
        for spelling in [STANDARD.encode(&token), token] {
            assert!(!seen.contains(&spelling), "in the log or the metrics");
            assert!(!objects.contains(&spelling), "in an object of the API");
        }
    }
}

#[tokio::test]
async fn a_user_that_is_missing_wrong_or_changed_is_told_and_acted_on_at_once() {
    let scene = Scene::new(LONG).await;
    scene.instance.add_user(USER, PASSWORD);
    let _operator = scene.operator().await;
    scene.create("itsm", with_password(&scene)).await;
    let message = scene.await_failure("itsm", "ReferenceMissing").await;
    assert!(
        message.contains("\"itsm-user\"") && message.contains("spec.grant.password.secretRef"),
        "{message}"
    );
    scene
        .put_secret("itsm-user", json!({"stringData": {"username": USER}}))
        .await;
    let message = scene.await_failure("itsm", "ReferenceInvalid").await;
    assert!(message.contains("no key \"password\""), "{message}");
    assert_eq!(scene.instance.token_requests(), 0);
    put_user(&scene, "another").await;
    let message = scene.await_failure("itsm", "AccessDenied").await;
    assert!(
        message.contains("1) the user's name or password is wrong"),
        "{message}"
    );
    put_user(&scene, PASSWORD).await;
    let token = scene.await_synced("itsm").await;
    assert!(scene.instance.is_valid(&token));
    // A change of the user asks anew, though the token is valid for long.
    let requests = scene.instance.token_requests();
    scene.instance.add_user(USER, "changed");
    put_user(&scene, "changed").await;
    scene.instance.wait_for_token_requests(requests + 1).await;
}

#[tokio::test]
async fn two_users_of_one_client_share_no_token() {
    let scene = Scene::new(LONG).await;
    scene.instance.add_user(USER, PASSWORD);
    put_user(&scene, PASSWORD).await;
    let _operator = scene.operator().await;
    scene.create("machine", scene.spec()).await;
    scene.create("human", with_password(&scene)).await;
    let machine = scene.await_synced("machine").await;
    let human = scene.await_synced("human").await;
    assert_ne!(machine, human);
    assert_eq!(scene.instance.token_requests(), 2);
}
