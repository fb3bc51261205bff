//! What the operator may do: what its Helm chart says, and nothing else.

use std::{path::PathBuf, sync::OnceLock};

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};
use testkit::{chart::Helm, cluster::ControlPlane};

/// Set to `cluster` or `namespaces`: in which of its two shapes the chart grants its rights to an
/// operator of one namespace. Both must do.
const SHAPE: &str = "SNOWCRED_RBAC";
/// Stands for the operator's namespace in what is rendered once for all.
const NAMESPACE: &str = "the-namespace-of-the-operator";
/// Stands for the namespace that it acts in.
const WATCHED: &str = "the-namespace-that-it-watches";
const ACCOUNT: &str = "operator";
/// The Lease that it may hold, and no other.
pub const LEASE: &str = "the-lease";

/// ServiceAccount, roles and bindings as the chart writes them, for the whole cluster or for one
/// namespace.
fn rendered(namespaced: bool) -> &'static str {
    static SHAPES: [OnceLock<String>; 2] = [OnceLock::new(), OnceLock::new()];
    SHAPES[usize::from(namespaced)].get_or_init(|| {
        let watched = if namespaced {
            json!([WATCHED])
        } else {
            json!([])
        };
        let values = json!({
            "watchNamespaces": watched,
            "restart": {"enabled": true},
            "rbac": {"userRoles": false},
            "serviceAccount": {"name": ACCOUNT},
            "fullnameOverride": LEASE,
            "crds": {"enabled": false},
        });
        let helm = Helm::new().unwrap();
        helm.template("snowcred", NAMESPACE, &values).unwrap()
    })
}

fn objects(rendered: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(rendered).unwrap();
    objects.retain(|object| {
        let group = object["apiVersion"].as_str().unwrap_or_default();
        group.starts_with("rbac.authorization.k8s.io/") || object["kind"] == "ServiceAccount"
    });
    objects
}

/// The kubeconfig of an operator that runs in the first of these namespaces and acts in the second.
pub async fn operator(cluster: &ControlPlane, namespace: &str, watched: &str) -> PathBuf {
    let namespaced = match std::env::var(SHAPE).as_deref() {
        Err(_) | Ok("cluster") => false,
        Ok("namespaces") => true,
        Ok(other) => panic!("{SHAPE} is {other:?}, and no shape of the chart's rights"),
    };
    let rendered = rendered(namespaced).replace(NAMESPACE, namespace);
    let objects = objects(&rendered.replace(WATCHED, watched));
    cluster
        .service_account_of(namespace, ACCOUNT, &objects)
        .await
}

/// The rules of an operator for the whole cluster, for those who take some away.
pub fn rules() -> Vec<PolicyRule> {
    let bound = |binding: &Value| {
        let of_operator = binding["subjects"][0]["name"] == ACCOUNT;
        of_operator.then(|| binding["roleRef"]["name"].clone())
    };
    let objects = objects(rendered(false));
    let bound: Vec<_> = objects.iter().filter_map(bound).collect();
    let roles = objects
        .iter()
        .filter(|role| role["rules"].is_array() && bound.contains(&role["metadata"]["name"]));
    roles
        .flat_map(|role| serde_json::from_value::<Vec<PolicyRule>>(role["rules"].clone()).unwrap())
        .collect()
}
