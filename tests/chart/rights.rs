//! The operator's rights are the ones that it uses: what an API server has seen it do is compared
//! with what the chart grants.

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::{Value, json};
use testkit::{
    cluster::{ControlPlane, Options},
    operator::Operator,
    servicenow::{self, Simulator, Tls, TokenMode},
};
use tokio::time::timeout;

use crate::support::{
    Scene, eventually, install_crd,
    rights::{LEASE, rules},
};

/// A verb, an API group, a resource with its subresource, and the only name that it is for.
type Right = (String, String, String, Option<String>);

fn granted() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in rules() {
        let names = match &rule.resource_names {
            Some(names) => names.iter().cloned().map(Some).collect(),
            None => vec![None],
        };
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for name in &names {
                    let right = |verb: &String| {
                        (verb.clone(), group.clone(), resource.clone(), name.clone())
                    };
                    rights.extend(rule.verbs.iter().map(right));
                }
            }
        }
    }
    rights
}

/// What the operator was allowed to do, by the API server's audit log. A name is told where a right
/// is for this name only.
fn used(cluster: &ControlPlane, namespace: &str) -> BTreeSet<Right> {
    let who = format!("system:serviceaccount:{namespace}:operator");
    let log = fs::read_to_string(cluster.audit_log().unwrap()).unwrap();
    let events = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let allowed = events.filter(|event| {
        event["user"]["username"] == who
            && event["annotations"]["authorization.k8s.io/decision"] == "allow"
            && event["objectRef"].is_object()
    });
    let named = granted().into_iter().filter(|right| right.3.is_some());
    let named: BTreeSet<_> = named
        .map(|(verb, group, resource, _)| (verb, group, resource))
        .collect();
    allowed
        .map(|event| {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &event["objectRef"];
            let resource = match object["subresource"].as_str() {
                Some(subresource) => format!("{}/{subresource}", word(&object["resource"])),
                None => word(&object["resource"]),
            };
            let right = (word(&event["verb"]), word(&object["apiGroup"]), resource);
            let name = named.contains(&right).then(|| word(&object["name"]));
            (right.0, right.1, right.2, name)
        })
        // Everybody who is known may ask what he may.
        .filter(|(_, group, ..)| group != "authorization.k8s.io")
        .collect()
}

/// Everything that an operator does for people, once. Two replicas do it, and go on.
async fn everything(scene: &Scene) -> [Operator; 2] {
    let host = scene.instance.origin().replace("https://", "");
    let namespace = format!("--lease-namespace={}", scene.namespace);
    let lease = format!("--lease-name={LEASE}");
    let allowed = format!("--allowed-hosts={host}");
    let more = [
        "--leader-elect",
        &*namespace,
        &lease,
        &allowed,
        "--min-renew-interval=1ms",
    ];
    let options = scene.options(&more);
    let replicas = [
        Operator::start(&options).await,
        Operator::start(&options).await,
    ];

    let workloads: Vec<_> = ["Deployment", "StatefulSet", "DaemonSet"]
        .map(String::from)
        .into();
    let entries = workloads
        .iter()
        .map(|kind| json!({"kind": kind, "name": "sync"}));
    let mut spec = scene.spec();
    spec["tls"] = json!({"caBundleRef": {"kind": "ConfigMap", "name": "corp-ca", "key": "ca.crt"}});
    spec["restart"] = entries.collect();
    scene.create("itsm", spec.clone()).await;
    // Into failure, with an Event, and out of it.
    scene.await_failure("itsm", "ReferenceMissing").await;
    let config_map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "corp-ca"}, "data": {"ca.crt": scene.instance.ca_pem()},
    });
    apply(scene, &config_map).await;
    scene.await_synced("itsm").await;
    for kind in &workloads {
        apply(scene, &workload(kind)).await;
    }
    scene.renew("itsm", "now").await;
    for kind in &workloads {
        restarted(scene, kind).await;
    }

    // Another name: the Secret of the old one is deleted.
    scene
        .change("itsm", json!({"spec": {"target": {"name": "renamed"}}}))
        .await;
    eventually("the old Secret is gone", async || {
        scene.secret("itsm").await.is_none().then_some(())
    })
    .await;

    // Our keys in a Secret of somebody else, by a finalizer that goes with the resource.
    let open = json!({
        "metadata": {"annotations": {"snowcred.dev/allow-merge": "merged"}},
        "stringData": {"url": "https://example.com"},
    });
    scene.put_secret("app", open).await;
    spec["restart"] = json!([]);
    spec["target"] = json!({
        "name": "app", "creationPolicy": "Merge", "data": {"token": "{{ token }}"},
    });
    scene.create("merged", spec).await;
    scene.await_synced("merged").await;
    scene.delete("merged").await;
    eventually("the resource is gone", async || {
        let found = scene.credentials().get_opt("merged").await.unwrap();
        found.is_none().then_some(())
    })
    .await;
    replicas
}

async fn apply(scene: &Scene, object: &Value) {
    let apply = ["apply", "-n", &scene.namespace, "-f", "-"];
    let object = object.to_string();
    let done = scene.cluster.kubectl_stdin(&apply, &object).await;
    done.expect_success();
}

fn workload(kind: &str) -> Value {
    let labels = json!({"app": format!("sync-{}", kind.to_lowercase())});
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "sync"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "sync", "image": "example.com/sync:1"}]},
            },
        },
    })
}

async fn restarted(scene: &Scene, kind: &str) {
    let path = "jsonpath={.spec.template.metadata.annotations.snowcred\\.dev/restarted-at}";
    let get = ["get", kind, "sync", "-n", &scene.namespace, "-o", path];
    eventually(&format!("the {kind} is restarted"), async || {
        let at = scene.cluster.kubectl(&get).await.expect_success();
        (!at.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_chart_grants_what_the_operator_uses_and_no_more() {
    let options = Options {
        audit_log: true,
        ..Options::default()
    };
    let cluster = ControlPlane::start_with(options).await.unwrap();
    // It goes with the process.
    let cluster: &ControlPlane = Box::leak(Box::new(cluster));
    install_crd(cluster).await;
    let instance = Simulator::start_with(servicenow::Options {
        tls: Tls::Generated,
        ..servicenow::Options::default()
    });
    let scene = Scene::on(cluster, instance.await.unwrap(), Duration::from_secs(1800)).await;
    scene.instance.set_mode(TokenMode::AlwaysNew);
    let _replicas = everything(&scene).await;
    let all_used = eventually("everything that is granted is used", async || {
        (used(cluster, &scene.namespace) == granted()).then_some(())
    });
    // Which right it is, the comparison tells.
    let _ = timeout(Duration::from_secs(10), all_used).await;
    assert_eq!(used(cluster, &scene.namespace), granted());
}
