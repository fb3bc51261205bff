//! What the chart becomes is what Kubernetes accepts, and the operator.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::{Value, json};
use testkit::{
    chart::{self, Helm},
    cluster::binaries::locate_helm,
};

use crate::{fails, succeeds, support};

#[test]
fn helm_finds_nothing_wrong() {
    let helm = Helm::new().unwrap();
    succeeds(helm.command(["lint", "--strict"]).arg(chart::folder()));
}

#[test]
fn the_charts_own_tests_pass() {
    let program = locate_helm().unwrap().helm_unittest;
    succeeds(
        Command::new(program)
            .args(["--strict"])
            .arg(chart::folder()),
    );
}

/// The pod template of the Deployment.
fn pod_template(rendered: &str) -> Value {
    let objects: Vec<Value> = serde_saphyr::from_multiple(rendered).unwrap();
    let mut objects = objects.into_iter();
    let deployment = objects.find(|object| object["kind"] == "Deployment");
    deployment.unwrap()["spec"]["template"].take()
}

/// The operator's container in it.
fn container(rendered: &str) -> Value {
    pod_template(rendered)["spec"]["containers"][0].take()
}

/// Everything that can be there is.
fn all() -> Value {
    json!({
        "watchNamespaces": ["team-a", "team-b"],
        "selector": "shard=a",
        "restart": {"enabled": true},
        "highAvailability": {"enabled": true, "replicas": 3},
        "serviceAccount": {"annotations": {"note": "hello"}},
        "commonLabels": {"team": "platform"},
        "podLabels": {"sidecar": "false"},
        "podAnnotations": {"note": "hello"},
        "imagePullSecrets": [{"name": "registry"}],
        "extraArgs": ["--allow-insecure-http=false"],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"},
        }]}},
        "priorityClassName": "system-cluster-critical",
        "service": {"annotations": {"note": "hello"}},
        "networkPolicy": {
            "enabled": true,
            "metricsFrom": [{"namespaceSelector": {}}],
            "extraEgress": [{"ports": [{"port": 3128, "protocol": "TCP"}]}],
        },
        "serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
        "prometheusRule": {
            "enabled": true, "labels": {"release": "prometheus"},
            "alertLabels": {"team": "platform"}, "runbookUrl": "https://wiki.example/runbooks",
        },
        "dashboard": {"enabled": true, "annotations": {"folder": "operators"}},
    })
}

#[tokio::test]
async fn a_real_api_server_accepts_all_of_it_to_the_last_field() {
    let cluster = support::cluster().await;
    let kinds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/monitoring-crds.yaml");
    let kinds = kinds.to_str().unwrap();
    cluster
        .kubectl(&["apply", "-f", kinds])
        .await
        .expect_success();
    let wait = ["wait", "--for=condition=Established", "-f", kinds];
    cluster.kubectl(&wait).await.expect_success();
    for namespace in ["team-a", "team-b", "snowcred"] {
        cluster
            .kubectl(&["create", "namespace", namespace])
            .await
            .expect_success();
    }
    let helm = Helm::new().unwrap();
    // Names at their limit, and some that YAML would read as something else.
    let long = "r".repeat(53);
    let labels = json!({"dashboard": {"enabled": true, "labels": {"grafana_dashboard": null}}});
    let odd = json!({
        "serviceAccount": {"name": "123"}, "selector": "a in (b), c", "commonLabels": {"n": "1e3"},
        "concurrency": 10000, "podLabels": {"app.kubernetes.io/instance": "another"},
    });
    let releases = [
        ("snowcred", json!({})),
        ("snowcred", all()),
        ("snowcred", labels),
        (
            "snowcred",
            json!({"crds": {"enabled": false}, "rbac": {"create": false}}),
        ),
        (&long, all()),
        ("on", odd),
    ];
    for (name, values) in releases {
        let rendered = helm.template(name, "snowcred", &values).unwrap();
        let try_out = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        cluster
            .kubectl_stdin(&try_out, &rendered)
            .await
            .expect_success();
    }
}

#[tokio::test]
async fn its_pods_are_allowed_where_only_restricted_ones_are() {
    let cluster = support::cluster().await;
    let namespace = cluster.fresh_namespace("restricted").await;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    cluster
        .kubectl(&["label", "namespace", &namespace, label])
        .await
        .expect_success();
    let helm = Helm::new().unwrap();
    let rendered = helm.template("snowcred", &namespace, &all()).unwrap();
    let template = pod_template(&rendered);
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    pod["metadata"]["name"] = json!("operator");
    pod["spec"]["serviceAccountName"] = json!("default");
    let try_out = ["create", "--dry-run=server", "-n", &namespace, "-f", "-"];
    cluster
        .kubectl_stdin(&try_out, &pod.to_string())
        .await
        .expect_success();
}

#[test]
fn the_operator_understands_the_arguments_that_it_is_given() {
    let helm = Helm::new().unwrap();
    for values in [json!({}), all()] {
        let rendered = helm.template("snowcred", "snowcred", &values).unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_servicenow-credential-operator"));
        let args = container(&rendered)["args"].clone();
        let args: Vec<String> = serde_json::from_value(args).unwrap();
        run.args(args)
            .args(["--lease-namespace=snowcred", "--listen=127.0.0.1:0"]);
        let said = fails(run.env("KUBECONFIG", "/nowhere"));
        // It got as far as looking for a cluster.
        assert!(said.contains("/nowhere"), "{said}");
    }
}

/// Those that the chart relies on being what they are by themselves: its Role, Service and probes do.
const RELIED_ON: [&str; 3] = ["--leader-elect", "--lease-namespace", "--listen"];
/// Those that are for tests only, and have no value.
const WITHOUT_VALUE: [&str; 1] = ["--allow-insecure-http"];

#[test]
fn each_flag_of_the_operator_has_a_value_or_is_left_to_extra_args_and_none_is_given_twice() {
    let help = succeeds(
        Command::new(env!("CARGO_BIN_EXE_servicenow-credential-operator")).args(["run", "--help"]),
    );
    let name = |text: &str| {
        let end = text.find(['=', '[', ' ']).unwrap_or(text.len());
        text[..end].to_owned()
    };
    let lines = help.lines().map(str::trim_start);
    let flags: BTreeSet<String> = lines
        .filter(|line| line.starts_with("--"))
        .map(name)
        .collect();

    let helm = Helm::new().unwrap();
    let mut values = all();
    values["extraArgs"] = json!([]);
    let rendered = helm.template("snowcred", "snowcred", &values).unwrap();
    let args: Vec<String> = serde_json::from_value(container(&rendered)["args"].clone()).unwrap();
    let by_value: BTreeSet<String> = args[1..].iter().map(|arg| name(arg)).collect();
    let known = |flag: &String| {
        by_value.contains(flag)
            || RELIED_ON.contains(&flag.as_str())
            || WITHOUT_VALUE.contains(&flag.as_str())
    };
    let unknown: Vec<&String> = flags.iter().filter(|flag| !known(flag)).collect();
    assert_eq!(
        unknown, [""; 0],
        "give it a value in the chart, or name it here"
    );

    let extra = |argument: String| {
        let values = json!({"extraArgs": [argument]});
        helm.template("snowcred", "snowcred", &values).is_ok()
    };
    let left: Vec<&String> = flags
        .iter()
        .filter(|flag| extra((*flag).clone()) || extra(format!("{flag}=1")))
        .collect();
    assert_eq!(left, WITHOUT_VALUE);
}

#[test]
fn a_value_that_nobody_knows_is_refused_by_its_name() {
    let helm = Helm::new().unwrap();
    let mut install = helm.command(["template", "snowcred"]);
    install
        .arg(chart::folder())
        .args(["--set", "allowedhosts={dev12345.service-now.com}"]);
    let said = fails(&mut install);
    assert!(
        said.contains("additional properties 'allowedhosts' not allowed"),
        "{said}"
    );
}
