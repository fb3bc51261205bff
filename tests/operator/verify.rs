//! Each new token is used once on a path, and what came back is told; nothing waits for it.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{operator::Operator, servicenow::TableFault};

use crate::support::{Scene, condition, eventually};

const LONG: Duration = Duration::from_secs(1800);
const PATH: &str = "/api/now/table/sys_user?sysparm_limit=1";

fn verified(scene: &Scene) -> Value {
    let mut spec = scene.spec();
    spec["verify"] = json!({"path": PATH});
    spec
}

fn probes(scene: &Scene) -> usize {
    let requests = scene.instance.requests();
    requests
        .iter()
        .filter(|request| !request.is_token_request())
        .count()
}

#[tokio::test]
async fn each_new_token_is_tried_out_once_by_all_who_share_it() {
    let scene = Scene::new(LONG).await;
    let operator = scene.operator().await;
    scene.create("itsm", verified(&scene)).await;
    scene.create("crm", verified(&scene)).await;
    for name in ["itsm", "crm"] {
        let message = scene
            .await_condition(name, "Verified", "True", "ProbeSucceeded")
            .await;
        assert!(
            message.starts_with(&format!("GET {PATH}: HTTP 200")),
            "{message}"
        );
    }
    assert_eq!(probes(&scene), 1);
    // Neither a restart nor another change of the spec tries the same token again.
    drop(operator);
    let operator = scene.operator().await;
    scene
        .change(
            "itsm",
            json!({"spec": {"renewal": {"renewBeforePercentage": 20}}}),
        )
        .await;
    eventually("the change has been seen", async || {
        let resource = scene.get("itsm").await;
        let seen = resource.status?.observed_generation;
        (seen == resource.metadata.generation).then_some(())
    })
    .await;
    assert_eq!((probes(&scene), scene.instance.token_requests()), (1, 1));
    drop(operator);
}

#[tokio::test]
async fn what_a_probe_answers_is_told_and_the_secret_does_not_wait_for_it() {
    let scene = Scene::new(LONG).await;
    let _operator = scene.operator().await;
    let forbidden = TableFault::MissingScope("incident_read".to_owned());
    for (fault, reason, advice) in [
        (
            TableFault::NoAuthProfile,
            "ProbeUnauthorized",
            "access policy",
        ),
        (forbidden, "ProbeForbidden", "scope is too narrow"),
        (TableFault::ApiAcl, "ProbeForbidden", "may not use this API"),
        (
            TableFault::InsufficientRights,
            "ProbeForbidden",
            "may not read this",
        ),
        (
            TableFault::RateLimited { retry_after: None },
            "ProbeFailed",
            "rate limit",
        ),
    ] {
        let name = format!("{fault:?}").to_lowercase();
        let name: String = name.chars().filter(char::is_ascii_alphabetic).collect();
        scene.instance.set_table_fault(Some(fault));
        scene.create(&name, verified(&scene)).await;
        scene.renew(&name, "now").await;
        // A token that is shared may have been tried out on the day before.
        eventually(&format!("{name} is told {reason}: {advice}"), async || {
            let resource = scene.get(&name).await;
            let (status, is, message) = condition(&resource, "Verified")?;
            (status == "False" && is == reason && message.contains(advice)).then_some(())
        })
        .await;
        scene
            .await_condition(&name, "Ready", "True", "TokenValid")
            .await;
        scene.await_synced(&name).await;
    }
}

#[tokio::test]
async fn a_probe_that_hangs_ends_in_time_and_the_secret_is_there_meanwhile() {
    let scene = Scene::new(LONG).await;
    scene.instance.set_table_fault(Some(TableFault::Hang));
    let operator = Operator::start(&scene.options(&["--request-timeout=3s"])).await;
    scene.create("itsm", verified(&scene)).await;
    eventually("it is tried out", async || {
        (probes(&scene) == 1).then_some(())
    })
    .await;
    let token = scene.token("itsm").await.unwrap();
    assert!(scene.instance.is_valid(&token));
    scene
        .await_condition("itsm", "Ready", "True", "TokenValid")
        .await;
    let hanging = scene.get("itsm").await;
    assert_eq!(condition(&hanging, "Verified"), None);
    let message = scene
        .await_condition("itsm", "Verified", "False", "ProbeFailed")
        .await;
    let digest = hanging.status.unwrap().token.unwrap().sha256.unwrap();
    let expected = format!(
        "GET {PATH}: it was not answered: {} did not answer within 3 s. Check spec.instance, and that \
         the cluster may reach it (firewall, NetworkPolicy, HTTPS_PROXY). (Token with SHA-256 {}…)",
        scene.instance.origin(),
        &digest[..8],
    );
    assert_eq!(message, expected);
    assert_eq!(scene.await_synced("itsm").await, token);
    assert_eq!((probes(&scene), scene.instance.token_requests()), (1, 1));
    drop(operator);
}

#[tokio::test]
async fn a_probe_that_is_added_later_uses_the_token_that_is_there() {
    let scene = Scene::new(LONG).await;
    let operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    // A process that has never had the token in its memory takes it from the Secret.
    drop(operator);
    let _operator = scene.operator().await;
    scene
        .change("itsm", json!({"spec": {"verify": {"path": PATH}}}))
        .await;
    scene
        .await_condition("itsm", "Verified", "True", "ProbeSucceeded")
        .await;
    assert_eq!((probes(&scene), scene.instance.token_requests()), (1, 1));
    scene
        .change("itsm", json!({"spec": {"verify": null}}))
        .await;
    eventually("the condition is gone", async || {
        let conditions = scene.get("itsm").await.status?.conditions;
        conditions
            .iter()
            .all(|c| c.type_ != "Verified")
            .then_some(())
    })
    .await;
}
