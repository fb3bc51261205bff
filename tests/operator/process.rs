//! The process: ready when it is, stopped when told to, and never silently dead.

use std::time::Duration;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::{
    cluster::ControlPlane,
    operator::{Operator, Options},
};
use tokio::process::Command;

use crate::support::{Scene, eventually, install_crd, rights::rules};

const BINARY: &str = env!("CARGO_BIN_EXE_servicenow-credential-operator");

#[tokio::test]
async fn sigterm_ends_it_with_success_and_leaves_nothing_half_done() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let mut operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let (status, took) = operator.stop().await;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert!(took < Duration::from_secs(10), "it took {took:?}");
}

#[tokio::test]
async fn a_token_that_was_asked_for_when_sigterm_came_is_written_before_the_end() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    scene
        .instance
        .set_fault(Some(testkit::servicenow::Fault::Delay(
            Duration::from_secs(1),
        )));
    let mut operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.instance.wait_for_token_requests(1).await;
    let (status, _) = operator.stop().await;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    let token = scene
        .token("itsm")
        .await
        .expect("the answer in hand was written");
    assert!(scene.instance.is_valid(&token));
}

#[tokio::test]
async fn a_missing_crd_is_waited_for_and_readyz_says_so() {
    let cluster = ControlPlane::start().await.unwrap();
    let kubeconfig = cluster
        .service_account("default", "operator", rules())
        .await;
    let operator = Operator::spawn(&Options {
        binary: BINARY.into(),
        kubeconfig,
        arguments: Vec::new(),
        environment: Vec::new(),
    });
    eventually("readyz names the CRD", async || {
        let (status, body) = operator.get("/readyz").ok()?;
        (status == 503 && body.contains("servicenowcredentials.snowcred.dev")).then_some(())
    })
    .await;
    assert_eq!(operator.get("/livez").unwrap().0, 200);
    install_crd(&cluster).await;
    eventually("it is ready", async || {
        operator
            .get("/readyz")
            .ok()
            .filter(|(status, _)| *status == 200)
    })
    .await;
}

#[tokio::test]
async fn all_series_are_there_and_name_the_resource() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let status = scene.get("itsm").await.status.unwrap().token.unwrap();
    // The status is written a moment before the series follow.
    let metrics = eventually("the reconcile is counted", async || {
        let counted = "snowcred_reconciles_total{outcome=\"Synced\"}";
        Some(operator.metrics()).filter(|metrics| metrics.contains(counted))
    })
    .await;
    let labels = format!("{{namespace=\"{}\",name=\"itsm\"}}", scene.namespace);
    let host = scene.instance.origin().replace("http://", "");
    let expiry = status.expires_at.0.as_duration().as_secs_f64();
    let renewal = status.renewal_time.0.as_duration().as_secs_f64();
    for line in [
        format!("snowcred_token_expiry_timestamp_seconds{labels} {expiry}"),
        format!("snowcred_token_renewal_timestamp_seconds{labels} {renewal}"),
        format!("snowcred_ready{labels} 1.0"),
        format!("snowcred_synced{labels} 1.0"),
        format!("snowcred_token_requests_total{{host=\"{host}\",result=\"Success\"}} 1"),
        format!("snowcred_token_request_duration_seconds_count{{host=\"{host}\"}} 1"),
        "snowcred_secret_writes_total 1".to_owned(),
        format!(
            "snowcred_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        ),
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "no {line} in\n{metrics}"
        );
    }
    assert!(metrics.contains("snowcred_reconcile_duration_seconds_count"));
}

#[tokio::test]
async fn a_selector_and_namespaces_bound_what_is_acted_upon() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = Operator::start(&scene.options(&["--selector=shard=a"])).await;
    scene.create("other", scene.spec()).await;
    scene.create("mine", scene.spec()).await;
    scene
        .change("mine", json!({"metadata": {"labels": {"shard": "a"}}}))
        .await;
    scene.await_synced("mine").await;
    assert_eq!(scene.get("other").await.status, None);
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn a_missing_permission_is_named_by_verb_and_resource_and_costs_no_second_request() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let fewer = rules_without("create", "secrets");
    let mut options = scene.options(&[]);
    options.kubeconfig = scene
        .cluster
        .service_account(&scene.namespace, "limited", fewer)
        .await;
    let _operator = Operator::start(&options).await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "PermissionDenied").await;
    assert!(message.contains("\"create\" on secrets"), "{message}");
    scene
        .cluster
        .service_account(&scene.namespace, "limited", rules())
        .await;
    scene.await_synced("itsm").await;
    assert_eq!(
        scene.instance.token_requests(),
        1,
        "the answer in hand was written, not asked for again"
    );
}

/// The rules without one verb on one resource.
fn rules_without(verb: &str, resource: &str) -> Vec<PolicyRule> {
    let mut fewer = rules();
    for rule in &mut fewer {
        if rule.resources.iter().flatten().any(|r| r == resource) {
            rule.verbs.retain(|v| v != verb);
        }
    }
    fewer.retain(|rule| !rule.verbs.is_empty());
    fewer
}

#[tokio::test]
async fn a_crash_between_the_two_writes_costs_no_request_and_no_write() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let fewer = rules_without("patch", "servicenowcredentials/status");
    let mut options = scene.options(&[]);
    options.kubeconfig = scene
        .cluster
        .service_account(&scene.namespace, "limited", fewer)
        .await;
    let mut operator = Operator::start(&options).await;
    scene.create("itsm", scene.spec()).await;
    let secret = eventually("the Secret is written", async || scene.secret("itsm").await).await;
    eventually("the status could not be written", async || {
        operator.log().contains("status not written").then_some(())
    })
    .await;
    operator.kill();
    assert_eq!(scene.get("itsm").await.status, None);
    let _operator = scene.operator().await;
    scene.await_synced("itsm").await;
    assert_eq!(scene.secret("itsm").await.unwrap(), secret);
    assert_eq!(scene.instance.token_requests(), 1);
    let token = scene.get("itsm").await.status.unwrap().token.unwrap();
    let digest = Sha256::digest(scene.token("itsm").await.unwrap());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(token.sha256, Some(hex));
}

/// Runs the program to its end.
async fn command(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(BINARY)
        .args(arguments)
        .env("KUBECONFIG", "/nowhere")
        .output()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn what_cannot_be_run_is_said_in_one_sentence() {
    for (arguments, code, says) in [
        (
            ["run"].as_slice(),
            2,
            "set --lease-namespace, or --leader-elect=false",
        ),
        (
            &["run", "--leader-elect", "--lease-namespace="],
            2,
            "--lease-namespace",
        ),
        (&["run", "--allowed-hosts=*.*"], 2, "--allowed-hosts"),
        (&["run", "--concurrency=0"], 2, "at least 1"),
        (
            &["run", "--watch-namespaces=team-a,Team_B"],
            2,
            "such as team-a",
        ),
        (&["run", "--lease-name=A_"], 2, "such as snowcred-a"),
        (
            &["run", "--min-renew-interval=soon"],
            2,
            "--min-renew-interval",
        ),
        (
            &["run", "--leader-elect=false", "--listen=127.0.0.1:0"],
            1,
            "KUBECONFIG",
        ),
    ] {
        let (status, _, errors) = command(arguments).await;
        assert_eq!(status, Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(says), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

#[tokio::test]
async fn crd_prints_what_is_in_the_repository() {
    let (status, printed, _) = command(&["crd"]).await;
    assert_eq!(status, Some(0));
    assert_eq!(
        printed,
        include_str!("../../crds/servicenowcredentials.yaml")
    );
}

#[tokio::test]
async fn one_object_that_cannot_be_read_does_not_hold_up_the_others() {
    let cluster = ControlPlane::start().await.unwrap();
    install_crd(&cluster).await;
    // An older, laxer CRD let something in that this operator does not understand.
    let lax = cluster
        .kubectl(&[
            "get",
            "crd",
            "servicenowcredentials.snowcred.dev",
            "-o",
            "json",
        ])
        .await;
    let mut crd: Value = serde_json::from_str(&lax.expect_success()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let strict = cluster
        .kubectl_stdin(&["replace", "-f", "-"], &crd.to_string())
        .await;
    strict.expect_success();
    let broken = json!({
        "apiVersion": "snowcred.dev/v1alpha1", "kind": "ServiceNowCredential",
        "metadata": {"name": "broken", "namespace": "default"},
        "spec": {"instance": 7},
    });
    let mut good = broken.clone();
    good["metadata"]["name"] = json!("good");
    good["spec"] = json!({"instance": "dev1", "client": {"secretRef": {"name": "absent"}}});
    for resource in [&broken, &good] {
        eventually("the laxer CRD is served", async || {
            let output = cluster
                .kubectl_stdin(&["apply", "-f", "-"], &resource.to_string())
                .await;
            output.status.success().then_some(())
        })
        .await;
    }
    let kubeconfig = cluster
        .service_account("default", "operator", rules())
        .await;
    let _operator = Operator::start(&Options {
        binary: BINARY.into(),
        kubeconfig,
        arguments: Vec::new(),
        environment: Vec::new(),
    })
    .await;
    let reason = async |name: &str, reason: &str| {
        let path = "jsonpath={.status.conditions[?(@.type==\"Synced\")].reason}";
        eventually("the reason is there", async || {
            let output = cluster.kubectl(&["get", "snc", name, "-o", path]).await;
            (output.stdout == reason).then_some(())
        })
        .await;
    };
    reason("good", "ClientSecretMissing").await;
    reason("broken", "InvalidSpec").await;
}
