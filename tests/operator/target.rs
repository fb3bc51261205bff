//! The target Secret: put back, moved, shared with nobody.

use std::time::Duration;

use k8s_openapi::ByteString;
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::support::{Scene, data, eventually, version};

const LONG: Duration = Duration::from_secs(1800);

#[tokio::test]
async fn a_deleted_secret_comes_back_without_a_new_token() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let token = scene.await_synced("itsm").await;
    scene.delete_secret("itsm").await;
    let restored = eventually("it is back", async || scene.token("itsm").await).await;
    assert_eq!(restored, token);
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn an_edited_secret_is_put_back_at_once_and_what_others_add_stays() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let token = scene.await_synced("itsm").await;
    let edit = json!({"stringData": {"token": "nonsense", "more": "stays"}, "metadata": {"labels": {"theirs": "x"}}});
    let params = PatchParams::default();
    scene
        .secrets()
        .patch("itsm", &params, &Patch::Merge(edit))
        .await
        .unwrap();
    eventually("the token is back", async || {
        (scene.token("itsm").await.as_ref() == Some(&token)).then_some(())
    })
    .await;
    let secret = scene.secret("itsm").await.unwrap();
    assert_eq!(data(&secret)["more"], "stays");
    assert_eq!(secret.labels()["theirs"], "x");
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn a_change_beside_ours_is_noted_and_nothing_is_written() {
    let scene = Scene::new(LONG).await;
    let operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let edit = json!({"metadata": {"annotations": {"example.com/note": "hello"}}});
    let edited = scene
        .secrets()
        .patch("itsm", &PatchParams::default(), &Patch::Merge(edit))
        .await
        .unwrap();
    eventually("the new version is recorded", async || {
        let target = scene.get("itsm").await.status?.target?;
        (target.resource_version == version(&edited)).then_some(())
    })
    .await;
    assert_eq!(scene.secret("itsm").await.unwrap(), edited);
    assert!(
        operator
            .metrics()
            .contains("snowcred_secret_writes_total 1\n")
    );
}

#[tokio::test]
async fn a_foreign_secret_is_never_touched_and_the_conflict_heals_when_it_goes() {
    let scene = Scene::new(LONG).await;
    scene
        .put_secret("itsm", json!({"stringData": {"token": "precious"}}))
        .await;
    let before = scene.secret("itsm").await.unwrap();
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "TargetConflict").await;
    assert!(
        message.contains("\"itsm\"") && message.contains("somebody"),
        "{message}"
    );
    scene
        .await_condition("itsm", "Ready", "False", "TargetConflict")
        .await;
    assert_eq!(scene.secret("itsm").await.unwrap(), before);
    scene.delete_secret("itsm").await;
    let token = scene.await_synced("itsm").await;
    assert!(scene.instance.is_valid(&token));
    let told = [("Warning", "TargetConflict"), ("Normal", "TokenSynced")];
    scene.await_events("itsm", &told).await;
}

#[tokio::test]
async fn of_two_resources_with_one_target_the_first_keeps_it_and_the_other_wakes_when_it_goes() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    let mut spec = scene.spec();
    spec["target"] = json!({"name": "shared"});
    scene.create("first", spec.clone()).await;
    let token = scene.await_synced("first").await;
    scene.create("second", spec).await;
    let message = scene.await_failure("second", "TargetConflict").await;
    assert!(message.contains("\"first\""), "{message}");
    assert_eq!(scene.token("shared").await.unwrap(), token);
    let uid = async || scene.secret("shared").await?.metadata.uid;
    let firsts = uid().await;
    scene.delete("first").await;
    eventually("the first one's Secret goes with it", async || {
        (uid().await != firsts).then_some(())
    })
    .await;
    scene
        .await_condition("second", "Ready", "True", "TokenValid")
        .await;
}

#[tokio::test]
async fn a_renamed_target_is_moved_and_the_old_secret_goes() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let token = scene.await_synced("itsm").await;
    scene
        .change("itsm", json!({"spec": {"target": {"name": "renamed"}}}))
        .await;
    eventually("the old one is gone", async || {
        scene.secret("itsm").await.is_none().then_some(())
    })
    .await;
    assert_eq!(
        scene.token("renamed").await.unwrap(),
        token,
        "no new token is needed for that"
    );
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn the_old_secret_stays_while_the_new_name_is_taken() {
    let scene = Scene::new(LONG).await;
    scene
        .put_secret("taken", json!({"stringData": {"a": "b"}}))
        .await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let token = scene.await_synced("itsm").await;
    scene
        .change("itsm", json!({"spec": {"target": {"name": "taken"}}}))
        .await;
    scene.await_failure("itsm", "TargetConflict").await;
    scene
        .await_condition("itsm", "Ready", "True", "TokenValid")
        .await;
    assert_eq!(scene.token("itsm").await.unwrap(), token);
}

#[tokio::test]
async fn a_key_and_a_label_that_leave_the_spec_leave_the_secret() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    let mut spec = scene.spec();
    spec["target"] = json!({
        "labels": {"keep": "x", "drop": "x"},
        "data": {"token": "{{ token }}", "extra": "Bearer {{ token }}"},
    });
    scene.create("itsm", spec).await;
    let token = scene.await_synced("itsm").await;
    scene
        .change(
            "itsm",
            json!({"spec": {"target": {"labels": {"drop": null}, "data": {"extra": null}}}}),
        )
        .await;
    let secret = eventually("the key is gone", async || {
        scene
            .secret("itsm")
            .await
            .filter(|s| !data(s).contains_key("extra"))
    })
    .await;
    assert_eq!(
        data(&secret).into_iter().collect::<Vec<_>>(),
        [("token".to_owned(), token)]
    );
    assert!(secret.labels().contains_key("keep") && !secret.labels().contains_key("drop"));
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn a_resource_that_is_deleted_takes_its_secret_along_and_its_metrics() {
    let scene = Scene::new(LONG).await;
    let operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    eventually("it has metrics", async || {
        operator.metrics().contains("snowcred_ready{").then_some(())
    })
    .await;
    scene.delete("itsm").await;
    eventually("the Secret is garbage-collected", async || {
        scene.secret("itsm").await.is_none().then_some(())
    })
    .await;
    eventually("its metrics are gone", async || {
        (!operator.metrics().contains("snowcred_ready{")).then_some(())
    })
    .await;
    assert_eq!(
        scene.instance.revocations(),
        0,
        "other consumers may share the token"
    );
}

#[tokio::test]
async fn somebody_who_deletes_the_secret_again_and_again_is_not_fought() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    for _ in 0..3 {
        scene.delete_secret("itsm").await;
        eventually("it is back", async || scene.secret("itsm").await).await;
    }
    scene.delete_secret("itsm").await;
    let message = scene.await_failure("itsm", "TargetConflict").await;
    assert!(message.contains("put back 3 times"), "{message}");
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn a_secret_that_only_a_person_can_put_right_is_said_with_what_to_do() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    let mut login = scene.spec();
    login["target"] = json!({"type": "kubernetes.io/basic-auth"});
    scene.create("login", login).await;
    let message = scene.await_failure("login", "InternalError").await;
    assert!(message.contains("Correct spec.target"), "{message}");
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let mut secret = scene.secret("itsm").await.unwrap();
    secret.immutable = Some(true);
    let (secrets, params) = (scene.secrets(), Default::default());
    secrets.replace("itsm", &params, &secret).await.unwrap();
    let other = json!({"spec": {"target": {"data": {"token": "Bearer {{ token }}"}}}});
    scene.change("itsm", other).await;
    let message = scene.await_failure("itsm", "InternalError").await;
    assert!(message.contains("delete it"), "{message}");
    scene.delete_secret("itsm").await;
    eventually("it is created anew", async || scene.secret("itsm").await).await;
}

#[tokio::test]
async fn a_secret_that_is_not_text_is_put_back_too() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let token = scene.await_synced("itsm").await;
    let mut secret = scene.secret("itsm").await.unwrap();
    let garbage = ByteString(vec![0xff, 0xfe, 0x00]);
    secret
        .data
        .as_mut()
        .unwrap()
        .insert("token".to_owned(), garbage);
    scene
        .secrets()
        .replace("itsm", &Default::default(), &secret)
        .await
        .unwrap();
    eventually("the token is back", async || {
        let bytes = scene.secret("itsm").await?.data?.remove("token")?;
        (bytes.0 == token.as_bytes()).then_some(())
    })
    .await;
}
