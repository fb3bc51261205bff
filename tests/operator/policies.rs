//! Secrets that are left behind, and Secrets of others that some keys are merged into.

use std::time::Duration;

use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Scene, data, eventually, rights::rules, until_it_has_looked, version};

const LONG: Duration = Duration::from_secs(1800);

fn with_target(scene: &Scene, target: Value) -> Value {
    let mut spec = scene.spec();
    spec["target"] = target;
    spec
}

/// Somebody's Secret, which the resource "itsm" may merge into.
async fn put_open(scene: &Scene, name: &str, allowed: &str) {
    let body = json!({
        "metadata": {"annotations": {"snowcred.dev/allow-merge": allowed}},
        "stringData": {"url": "https://example.com"},
    });
    scene.put_secret(name, body).await;
}

/// Somebody edits that Secret.
async fn patch(scene: &Scene, manager: &str, body: Value) {
    let params = PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    };
    let secrets = scene.secrets();
    secrets
        .patch("app", &params, &Patch::Merge(body))
        .await
        .unwrap();
}

fn merging(scene: &Scene) -> Value {
    with_target(
        scene,
        json!({"name": "app", "creationPolicy": "Merge", "data": {"token": "{{ token }}"}}),
    )
}

async fn until_it_is_gone(scene: &Scene, name: &str) {
    eventually("the resource is gone", async || {
        let found = scene.credentials().get_opt(name).await.unwrap();
        found.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_orphan_has_no_owner_outlives_its_resource_and_is_taken_over_by_the_next() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    let spec = with_target(&scene, json!({"creationPolicy": "Orphan"}));
    scene.create("itsm", spec.clone()).await;
    let token = scene.await_synced("itsm").await;
    let orphan = scene.secret("itsm").await.unwrap();
    assert_eq!(orphan.owner_references(), []);
    scene.delete("itsm").await;
    until_it_is_gone(&scene, "itsm").await;
    assert_eq!(scene.secret("itsm").await.unwrap(), orphan);
    scene.create("itsm", spec).await;
    scene.await_synced("itsm").await;
    // A resource of the same name that owns what it writes takes it over, too.
    scene.delete("itsm").await;
    until_it_is_gone(&scene, "itsm").await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let owned = scene.secret("itsm").await.unwrap();
    assert_eq!(owned.owner_references().len(), 1);
    assert_eq!(owned.uid(), orphan.uid());
    assert!(scene.instance.is_valid(&token));
}

#[tokio::test]
async fn a_renamed_orphan_is_left_where_it_was() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    let spec = with_target(&scene, json!({"name": "old", "creationPolicy": "Orphan"}));
    scene.create("itsm", spec).await;
    scene.await_synced("itsm").await;
    let old = scene.secret("old").await.unwrap();
    scene
        .change("itsm", json!({"spec": {"target": {"name": "new"}}}))
        .await;
    eventually("it has moved", async || {
        let target = scene.get("itsm").await.status?.target?;
        (target.name == "new").then_some(())
    })
    .await;
    assert_eq!(scene.secret("old").await.unwrap(), old);
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn keys_are_merged_into_an_open_secret_and_taken_out_again_with_the_resource() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    scene.create("itsm", merging(&scene)).await;
    let message = scene.await_failure("itsm", "TargetMissing").await;
    assert!(
        message.contains("snowcred.dev/allow-merge: itsm"),
        "{message}"
    );
    put_open(&scene, "app", "crm").await;
    let message = scene.await_failure("itsm", "TargetConflict").await;
    assert!(
        message.contains("snowcred.dev/allow-merge: itsm"),
        "{message}"
    );
    assert_eq!(scene.instance.token_requests(), 0);
    put_open(&scene, "app", "crm, itsm").await;
    let token = scene.await_synced("itsm").await;
    let merged = scene.secret("app").await.unwrap();
    assert_eq!(merged.owner_references(), []);
    assert_eq!(merged.labels().len(), 0);
    assert_eq!(merged.annotations().len(), 1);
    let held = data(&merged);
    assert_eq!(held["url"], "https://example.com");
    assert_eq!((held["token"].clone(), held.len()), (token, 2));
    assert_eq!(scene.get("itsm").await.finalizers().len(), 1);
    // Its owner goes on, and what is ours stays.
    let edit = json!({"stringData": {"more": "theirs"}});
    patch(&scene, "somebody-else", edit).await;
    scene.renew("itsm", "now").await;
    scene.delete("itsm").await;
    until_it_is_gone(&scene, "itsm").await;
    let left = data(&scene.secret("app").await.unwrap());
    let keys: Vec<_> = left.keys().map(String::as_str).collect();
    assert_eq!(keys, ["more", "url"]);
}

#[tokio::test]
async fn a_removed_key_is_put_back_and_one_that_somebody_edited_is_left_to_them() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "itsm").await;
    let _operator = scene.operator().await;
    scene.create("itsm", merging(&scene)).await;
    let token = scene.await_synced("itsm").await;
    let patch = async |body| patch(&scene, "kubectl-edit", body).await;
    patch(json!({"data": {"token": null}})).await;
    eventually("the key is back", async || {
        (scene.token("app").await? == token).then_some(())
    })
    .await;
    assert_eq!(scene.instance.token_requests(), 1);
    patch(json!({"stringData": {"token": "mine"}})).await;
    let message = scene.await_failure("itsm", "TargetConflict").await;
    assert!(
        message.contains("\"kubectl-edit\"") && message.contains("\"token\""),
        "{message}"
    );
    assert_eq!(scene.token("app").await.unwrap(), "mine");
    // Given up, it is ours again.
    patch(json!({"data": {"token": null}})).await;
    scene.await_synced("itsm").await;
    // And with the resource, only what is ours goes.
    patch(json!({"stringData": {"token": "mine again"}})).await;
    scene.await_failure("itsm", "TargetConflict").await;
    scene.delete("itsm").await;
    until_it_is_gone(&scene, "itsm").await;
    assert_eq!(scene.token("app").await.unwrap(), "mine again");
}

#[tokio::test]
async fn two_resources_merge_into_one_secret_and_neither_touches_the_other() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "one,two").await;
    let _operator = scene.operator().await;
    for name in ["one", "two"] {
        let mut spec = merging(&scene);
        spec["target"]["data"] = json!({name: "{{ token }}"});
        scene.create(name, spec).await;
        scene
            .await_condition(name, "Synced", "True", "TokenSynced")
            .await;
    }
    let both = data(&scene.secret("app").await.unwrap());
    assert_eq!(both["one"], both["two"]);
    scene.delete("one").await;
    until_it_is_gone(&scene, "one").await;
    let left = data(&scene.secret("app").await.unwrap());
    assert!(!left.contains_key("one") && left["two"] == both["two"]);
}

#[tokio::test]
async fn a_key_that_another_resource_has_merged_is_left_to_it_until_it_goes() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "one,two").await;
    let _operator = scene.operator().await;
    scene.create("one", merging(&scene)).await;
    let token = scene.await_synced("one").await;
    let before = scene.secret("app").await.unwrap();
    scene.create("two", merging(&scene)).await;
    let message = scene.await_failure("two", "TargetConflict").await;
    assert_eq!(
        message,
        "The key \"token\" of the Secret \"app\" is \"servicenow-credential-operator/one\"'s, who wrote \
         it or has edited it. It is left untouched. Take that key out of the Secret, or name another \
         one in spec.target.data."
    );
    assert_eq!(scene.secret("app").await.unwrap(), before);
    assert_eq!(scene.token("app").await.unwrap(), token);
    scene.delete("one").await;
    until_it_is_gone(&scene, "one").await;
    assert_eq!(scene.await_synced("two").await, token);
}

#[tokio::test]
async fn a_key_is_merged_into_another_resources_secret_that_is_open_and_both_go_on() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    let owning = with_target(&scene, json!({"name": "app"}));
    scene.create("owner", owning.clone()).await;
    scene.await_synced("owner").await;
    let mut spec = merging(&scene);
    spec["target"]["data"] = json!({"other": "{{ token }}"});
    scene.create("itsm", spec).await;
    let message = scene.await_failure("itsm", "TargetConflict").await;
    let whose = "its owner, ServiceNowCredential \"owner\", has not opened it";
    assert!(message.contains(whose), "{message}");
    let open = json!({"metadata": {"annotations": {"snowcred.dev/allow-merge": "itsm"}}});
    patch(&scene, "kubectl-annotate", open).await;
    scene
        .await_condition("itsm", "Synced", "True", "TokenSynced")
        .await;
    // Each renews, and leaves the other's key alone.
    for name in ["owner", "itsm"] {
        let before = data(&scene.secret("app").await.unwrap());
        scene.renew(name, "now").await;
        eventually("both keys are there, and one is new", async || {
            let held = data(&scene.secret("app").await?);
            let keys: Vec<_> = held.keys().map(String::as_str).collect();
            (keys == ["other", "token"] && held != before).then_some(())
        })
        .await;
        scene
            .await_condition(name, "Synced", "True", "TokenSynced")
            .await;
    }
    // Nothing goes on between them.
    let left = scene.secret("app").await.unwrap();
    scene.create("younger", owning).await;
    let message = scene.await_failure("younger", "TargetConflict").await;
    assert!(
        message.contains("ServiceNowCredential \"owner\""),
        "{message}"
    );
    assert_eq!(scene.secret("app").await.unwrap(), left);
}

#[tokio::test]
async fn a_secret_that_keys_were_merged_into_is_never_taken_over() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "itsm").await;
    put_open(&scene, "taken", "nobody").await;
    let _operator = scene.operator().await;
    scene.create("itsm", merging(&scene)).await;
    scene.await_synced("itsm").await;
    let merged = scene.secret("app").await.unwrap();
    // By way of another name, which is taken.
    for (name, policy) in [("taken", "Owner"), ("app", "Orphan")] {
        let target = json!({"name": name, "creationPolicy": policy});
        scene
            .change("itsm", json!({"spec": {"target": target}}))
            .await;
        eventually("it is told that this one is somebody's", async || {
            let message = scene.await_failure("itsm", "TargetConflict").await;
            message.contains(&format!("{name:?}")).then_some(())
        })
        .await;
    }
    assert_eq!(scene.secret("app").await.unwrap(), merged);
}

#[tokio::test]
async fn only_a_resource_that_merges_carries_a_finalizer() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "merge").await;
    let _operator = scene.operator().await;
    let orphan = json!({"creationPolicy": "Orphan"});
    let specs = [
        ("owner", scene.spec(), vec![]),
        ("orphan", with_target(&scene, orphan), vec![]),
        ("merge", merging(&scene), vec!["snowcred.dev/merged-keys"]),
    ];
    for (name, spec, finalizers) in specs {
        scene.create(name, spec).await;
        scene.await_synced(name).await;
        assert_eq!(scene.get(name).await.finalizers(), finalizers, "{name}");
    }
}

/// Runs the line of the README that lets a resource go without the operator; says whether it worked.
async fn run_the_readmes_line(scene: &Scene) -> bool {
    let readme = include_str!("../../README.md");
    let mut lines = readme.lines();
    let line = lines.find(|line| line.starts_with("kubectl patch snc "));
    let kubectl = format!(
        "kubectl() {{ '{}' --namespace '{}' \"$@\"; }}\n",
        scene.cluster.kubectl_path().display(),
        scene.namespace
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &(kubectl + line.unwrap())]);
    shell.env("KUBECONFIG", scene.cluster.kubeconfig());
    shell.output().await.unwrap().status.success()
}

#[tokio::test]
async fn the_line_that_lets_a_resource_go_without_the_operator_takes_nobody_elses_finalizer_off() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "itsm").await;
    let operator = scene.operator().await;
    scene.create("itsm", merging(&scene)).await;
    scene.await_synced("itsm").await;
    drop(operator);
    let (ours, theirs) = ("snowcred.dev/merged-keys", "example.com/theirs");
    let put = async |finalizers: &[&str]| {
        let body = json!({"metadata": {"finalizers": finalizers}});
        scene.change("itsm", body).await;
    };
    put(&[theirs, ours]).await;
    scene.delete("itsm").await;
    assert!(!run_the_readmes_line(&scene).await);
    assert_eq!(scene.get("itsm").await.finalizers(), [theirs, ours]);
    put(&[ours, theirs]).await;
    assert!(run_the_readmes_line(&scene).await);
    assert_eq!(scene.get("itsm").await.finalizers(), [theirs]);
    put(&[]).await;
    until_it_is_gone(&scene, "itsm").await;
}

#[tokio::test]
async fn a_merge_that_is_renamed_to_a_secret_of_its_own_leaves_nothing_behind() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "itsm").await;
    let _operator = scene.operator().await;
    scene.create("itsm", merging(&scene)).await;
    scene.await_synced("itsm").await;
    let target = json!({"name": "own", "creationPolicy": "Owner"});
    scene
        .change("itsm", json!({"spec": {"target": target}}))
        .await;
    eventually("it has moved and holds no finalizer", async || {
        let resource = scene.get("itsm").await;
        let moved = resource.status.as_ref()?.target.as_ref()?.name == "own";
        (moved && resource.finalizers().is_empty()).then_some(())
    })
    .await;
    let left = data(&scene.secret("app").await.unwrap());
    assert_eq!(left.into_keys().collect::<Vec<_>>(), ["url"]);
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn a_resource_goes_even_when_its_keys_cannot_be_taken_out() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "itsm").await;
    let operator = scene.operator().await;
    scene.create("itsm", merging(&scene)).await;
    let token = scene.await_synced("itsm").await;
    // Without the operator, it waits.
    drop(operator);
    scene.delete("itsm").await;
    assert!(
        scene
            .get("itsm")
            .await
            .metadata
            .deletion_timestamp
            .is_some()
    );
    let mut fewer = rules();
    let secrets = fewer.iter_mut().find(|rule| {
        let resources = rule.resources.as_deref().unwrap_or_default();
        resources.iter().any(|resource| resource == "secrets")
    });
    secrets.unwrap().verbs = ["get", "list", "watch"].map(ToOwned::to_owned).to_vec();
    let mut options = scene.options(&[]);
    options.kubeconfig = scene
        .cluster
        .service_account(&scene.namespace, "reader", fewer)
        .await;
    let _operator = testkit::operator::Operator::start(&options).await;
    until_it_is_gone(&scene, "itsm").await;
    assert_eq!(scene.token("app").await.unwrap(), token);
    eventually("it is told", async || {
        let events = scene.events("itsm").await;
        events
            .contains(&("Warning".to_owned(), "PermissionDenied".to_owned()))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_merge_is_renewed_in_one_write_and_survives_a_restart_without_any() {
    let scene = Scene::new(LONG).await;
    put_open(&scene, "app", "itsm").await;
    let operator = scene.operator().await;
    scene.create("itsm", merging(&scene)).await;
    let first = scene.await_synced("itsm").await;
    scene.renew("itsm", "now").await;
    let second = scene.await_synced("itsm").await;
    assert_ne!(first, second);
    let metrics = operator.metrics();
    assert!(
        metrics.contains("snowcred_secret_writes_total 2\n"),
        "{metrics}"
    );
    let before = version(&scene.secret("app").await.unwrap());
    drop(operator);
    let operator = scene.operator().await;
    until_it_has_looked(&operator).await;
    assert_eq!(version(&scene.secret("app").await.unwrap()), before);
    assert_eq!(scene.instance.token_requests(), 2);
}
