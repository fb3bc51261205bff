//! The password grant: the same renewal, the same failures, the same secrecy.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Scene, eventually};

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

#[tokio::test]
async fn a_users_token_is_fetched_renewed_and_its_refresh_token_left_alone() {
    let scene = Scene::new(Duration::from_secs(6)).await;
    scene.instance.add_user(USER, PASSWORD);
    put_user(&scene, PASSWORD).await;
    let operator = scene.operator().await;
    scene.create("itsm", with_password(&scene)).await;
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
    let grants = scene.instance.requests();
    assert!(
        grants
            .iter()
            .all(|r| r.grant.as_deref() == Some("password"))
    );
    assert_eq!(scene.instance.revocations(), 0);
    let seen = operator.log() + &operator.metrics();
    for secret in [USER, PASSWORD.trim()] {
        assert!(!seen.contains(secret));
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
