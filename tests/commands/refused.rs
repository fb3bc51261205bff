//! What keeps `status` and `renew` from their work is said in one sentence.

use std::{fs, path::Path};

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::json;
use testkit::cluster::ControlPlane;
use tokio::process::Command;

use crate::{HALF_AN_HOUR, PROGRAM, ask, run, support::Scene};

/// Runs a command that fails; returns its one sentence.
async fn sentence(kubeconfig: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env("KUBECONFIG", kubeconfig);
    let came = run(command).await;
    assert_eq!(came.status.code(), Some(1), "{arguments:?} {}", came.stderr);
    assert_eq!(
        came.stderr.lines().count(),
        1,
        "{arguments:?} {}",
        came.stderr
    );
    let sentence = came.stderr.strip_prefix("error: ").map(str::trim_end);
    sentence
        .unwrap_or_else(|| panic!("{}", came.stderr))
        .to_owned()
}

fn rule(verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec!["snowcred.dev".to_owned()]),
        resources: Some(vec!["servicenowcredentials".to_owned()]),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..PolicyRule::default()
    }
}

#[tokio::test]
async fn status_and_renew_name_the_verb_and_the_resource_that_are_missing() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    scene.create("itsm", scene.spec()).await;
    let namespace = scene.namespace.as_str();
    for (account, has, asked, lacks) in [
        ("nobody", [].as_slice(), ["status"].as_slice(), "list"),
        ("nobody", &[], &["status", "itsm"], "get"),
        ("nobody", &[], &["status", "-w"], "list"),
        ("lister", &["list"], &["status", "-w"], "watch"),
        ("lister", &["list"], &["renew", "itsm"], "patch"),
        ("patcher", &["patch"], &["renew", "itsm", "--wait"], "list"),
        (
            "waiter",
            &["patch", "list"],
            &["renew", "itsm", "--wait"],
            "watch",
        ),
    ] {
        let rules = if has.is_empty() {
            vec![]
        } else {
            vec![rule(has)]
        };
        let kubeconfig = scene.cluster.service_account(namespace, account, rules);
        let kubeconfig = kubeconfig.await;
        let said = sentence(&kubeconfig, &[asked, &["-n", namespace]].concat()).await;
        let object = match asked {
            ["status"] | ["status", "-w"] | ["renew", _, "--wait"] => "",
            _ => " \"itsm\"",
        };
        let expected = format!(
            "servicenowcredentials.snowcred.dev{object} is forbidden: User \
             \"system:serviceaccount:{namespace}:{account}\" cannot {lacks} resource \
             \"servicenowcredentials\" in API group \"snowcred.dev\" in the namespace \"{namespace}\"; \
             ask whoever runs the cluster for that right, or choose another context"
        );
        assert_eq!(said, expected, "{asked:?}");
    }
}

#[tokio::test]
async fn the_status_of_one_resource_needs_no_right_but_get() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    scene.create("itsm", scene.spec()).await;
    let namespace = scene.namespace.as_str();
    let kubeconfig = scene
        .cluster
        .service_account(namespace, "reader", vec![rule(&["get"])]);
    let kubeconfig = kubeconfig.await;
    let mut command = Command::new(PROGRAM);
    command
        .args(["status", "itsm", "-n", namespace])
        .env("KUBECONFIG", &kubeconfig);
    let came = run(command).await;
    assert_eq!((came.status.code(), came.stderr.as_str()), (Some(0), ""));
    assert_eq!(came.stdout, ask(&scene, &["status"]).await.stdout);
    let said = sentence(&kubeconfig, &["status", "nobody", "-n", namespace]).await;
    let expected = format!(
        "there is no ServiceNowCredential \"nobody\" in namespace {namespace:?}; see which there are \
         with: kubectl get servicenowcredentials --all-namespaces"
    );
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_cluster_without_the_crd_is_told_what_to_install() {
    let cluster = ControlPlane::start().await.unwrap();
    for arguments in [
        ["status"].as_slice(),
        &["status", "itsm"],
        &["status", "-w"],
        &["renew", "itsm", "--wait"],
        &["check", "--from", "default/itsm"],
    ] {
        assert_eq!(
            sentence(cluster.kubeconfig(), arguments).await,
            "the CustomResourceDefinition servicenowcredentials.snowcred.dev is not installed in this \
             cluster; apply crds/servicenowcredentials.yaml with kubectl, or choose another context",
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_named_by_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let config = json!({
        "clusters": [{"name": "there", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "it", "context": {"cluster": "there", "user": ""}}],
        "current-context": "it",
    });
    fs::write(&kubeconfig, config.to_string()).unwrap();
    for arguments in [
        ["status"].as_slice(),
        &["status", "itsm"],
        &["status", "-w"],
        &["renew", "itsm"],
        &["renew", "itsm", "--wait"],
    ] {
        let said = sentence(&kubeconfig, arguments).await;
        assert!(
            said.contains("https://127.0.0.1:1 "),
            "{arguments:?} {said}"
        );
        assert!(said.contains("refused"), "{arguments:?} {said}");
    }
}
