//! What the tests against the real API share: a namespace, an instance and an operator that runs
//! as a plain ServiceAccount with what its Helm chart grants and no more.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

pub mod end;
pub mod rights;
pub mod tunnel;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::Secret, events::v1::Event},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use servicenow_credential_operator::api::{ServiceNowCredential, crd_yaml};
use testkit::{
    cluster::{ControlPlane, Server, shared},
    operator::{Operator, Options},
    servicenow::{self, Simulator, TokenMode},
};
use tokio::sync::OnceCell;

/// Client id and secret of every scene; marked, so that a leak is found by a search.
pub const CLIENT_ID: &str = "marked-client-id-5f0e";
/// See [`CLIENT_ID`].
pub const CLIENT_SECRET: &str = "marked/client+secret&9b1c";

/// The shared control plane with the CRD installed.
pub async fn cluster() -> &'static ControlPlane {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let cluster = shared().await;
    INSTALLED
        .get_or_init(async || with_crd(cluster).await)
        .await;
    cluster
}

/// A control plane with the CRD installed, for one test whose faults others would feel.
pub async fn own_cluster() -> &'static ControlPlane {
    let cluster = ControlPlane::start()
        .await
        .unwrap_or_else(|error| panic!("no control plane: {error:?}"));
    // It goes with the process, as the shared one does.
    let cluster = Box::leak(Box::new(cluster));
    with_crd(cluster).await;
    cluster
}

async fn with_crd(cluster: &ControlPlane) {
    install_crd(cluster).await;
    // Garbage collection notices a new kind when it starts, else every half minute.
    cluster.restart(Server::ControllerManager).await;
}

/// Applies the CRD with kubectl and waits until it is served.
pub async fn install_crd(cluster: &ControlPlane) {
    cluster
        .kubectl_stdin(&["apply", "-f", "-"], &crd_yaml())
        .await
        .expect_success();
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.admin().await);
    eventually("the CRD is established", async || {
        let crd = crds.get("servicenowcredentials.snowcred.dev").await.ok()?;
        let conditions = crd.status?.conditions?;
        conditions
            .iter()
            .any(|c| c.type_ == "Established" && c.status == "True")
            .then_some(())
    })
    .await;
    let credentials: Api<ServiceNowCredential> = Api::all(cluster.admin().await);
    eventually("the resource is served", async || {
        credentials.list(&ListParams::default()).await.ok()
    })
    .await;
}

/// What anything is given to happen. Garbage collection alone may take half a minute to notice a
/// new kind, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Awaits a condition; looks every 50 ms.
///
/// # Panics
///
/// If it does not come true in time.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(value) => value,
        Err(_) => panic!("it did not happen in time that {what}"),
    }
}

/// Waits until an operator that has just begun has looked at a resource that is well.
pub async fn until_it_has_looked(operator: &Operator) {
    eventually("it has been looked at", async || {
        let metrics = operator.metrics();
        metrics
            .contains("snowcred_reconciles_total{outcome=\"Synced\"}")
            .then_some(())
    })
    .await;
}

/// A namespace, an instance with one client, and the client's Secret. No operator yet.
pub struct Scene {
    pub cluster: &'static ControlPlane,
    pub client: Client,
    pub namespace: String,
    pub instance: Simulator,
    kubeconfig: PathBuf,
}

/// The client Secret's name in every scene.
pub const CLIENT: &str = "itsm-oauth-client";

impl Scene {
    /// A scene whose tokens live for so long, new ones for each request.
    pub async fn new(lifetime: Duration) -> Self {
        Self::with_instance(Simulator::start().await, lifetime).await
    }

    /// A scene with this instance.
    pub async fn with_instance(instance: Simulator, lifetime: Duration) -> Self {
        Self::on(cluster().await, instance, lifetime).await
    }

    /// A scene with this instance on this control plane.
    pub async fn on(
        cluster: &'static ControlPlane,
        instance: Simulator,
        lifetime: Duration,
    ) -> Self {
        let client = cluster.admin().await;
        let namespace = cluster.fresh_namespace("scene").await;
        let kubeconfig = rights::operator(cluster, &namespace, &namespace).await;
        let scene = Self {
            cluster,
            client,
            namespace,
            instance,
            kubeconfig,
        };
        scene.with_client(lifetime).await
    }

    /// Another namespace with another instance, set up alike, for the same operator.
    pub async fn beside(&self, instance: Simulator, lifetime: Duration) -> Self {
        let namespace = self.cluster.fresh_namespace("scene").await;
        let scene = Self {
            cluster: self.cluster,
            client: self.client.clone(),
            kubeconfig: rights::operator(self.cluster, &self.namespace, &namespace).await,
            namespace,
            instance,
        };
        scene.with_client(lifetime).await
    }

    /// The client, at the instance and in the namespace.
    async fn with_client(self, lifetime: Duration) -> Self {
        let client = servicenow::Client::new(CLIENT_ID, CLIENT_SECRET).with_lifetime(lifetime);
        self.instance.set_mode(TokenMode::AlwaysNew);
        self.instance.add_client(client);
        self.put_client_secret(CLIENT_ID, CLIENT_SECRET).await;
        self
    }

    /// How this scene's operator is started.
    pub fn options(&self, more: &[&str]) -> Options {
        let mut arguments = vec![
            format!("--watch-namespaces={}", self.namespace),
            "--allow-insecure-http".to_owned(),
        ];
        arguments.extend(more.iter().map(ToString::to_string));
        Options {
            binary: env!("CARGO_BIN_EXE_servicenow-credential-operator").into(),
            kubeconfig: self.kubeconfig.clone(),
            arguments,
            environment: Vec::new(),
        }
    }

    /// A ready operator for this namespace.
    pub async fn operator(&self) -> Operator {
        Operator::start(&self.options(&[])).await
    }

    /// Creates the client Secret, or changes it.
    pub async fn put_client_secret(&self, id: &str, secret: &str) {
        self.put_secret(
            CLIENT,
            json!({"stringData": {"client-id": id, "client-secret": secret}}),
        )
        .await;
    }

    /// Creates a Secret, or changes it, as somebody else.
    pub async fn put_secret(&self, name: &str, body: Value) {
        put_secret(&self.secrets(), name, body).await;
    }

    /// The spec of the smallest resource of this scene.
    pub fn spec(&self) -> Value {
        json!({"instance": self.instance.origin(), "client": {"secretRef": {"name": CLIENT}}})
    }

    /// Creates a resource.
    pub async fn create(&self, name: &str, spec: Value) -> ServiceNowCredential {
        let resource = json!({
            "apiVersion": "snowcred.dev/v1alpha1",
            "kind": "ServiceNowCredential",
            "metadata": {"name": name},
            "spec": spec,
        });
        let resource = serde_json::from_value(resource).unwrap();
        self.credentials()
            .create(&PostParams::default(), &resource)
            .await
            .unwrap()
    }

    /// Changes a resource by a JSON merge patch.
    pub async fn change(&self, name: &str, patch: Value) -> ServiceNowCredential {
        let patch = Patch::Merge(patch);
        self.credentials()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap()
    }

    /// Asks for a renewal, and waits until it has been acted on.
    pub async fn renew(&self, name: &str, value: &str) {
        let request =
            json!({"metadata": {"annotations": {"snowcred.dev/renew-requested-at": value}}});
        self.change(name, request).await;
        eventually("the request has been handled", async || {
            let handled = self.get(name).await.status?.handled_renew_request;
            (handled.as_deref() == Some(value)).then_some(())
        })
        .await;
    }

    pub async fn delete(&self, name: &str) {
        self.credentials()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    pub async fn delete_secret(&self, name: &str) {
        self.secrets()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    pub fn credentials(&self) -> Api<ServiceNowCredential> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn get(&self, name: &str) -> ServiceNowCredential {
        self.credentials().get(name).await.unwrap()
    }

    /// A Secret, if it exists.
    pub async fn secret(&self, name: &str) -> Option<Secret> {
        self.secrets().get_opt(name).await.unwrap()
    }

    /// The token in a Secret, if there is one.
    pub async fn token(&self, secret: &str) -> Option<String> {
        data(&self.secret(secret).await?).remove("token")
    }

    /// Waits for a condition of a resource, as `"True"` and a reason.
    pub async fn await_condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let resource = self.credentials().get_opt(name).await.unwrap();
            if let Some((is, why, message)) = resource.as_ref().and_then(|r| condition(r, kind))
                && (is == status && why == reason)
            {
                return message;
            }
            let last = resource.and_then(|resource| resource.status);
            assert!(
                Instant::now() < deadline,
                "{name} is not {kind}={status} {reason}, but {last:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a resource is synced; returns the token in its Secret.
    pub async fn await_synced(&self, name: &str) -> String {
        self.await_condition(name, "Synced", "True", "TokenSynced")
            .await;
        let target = self.get(name).await.status.unwrap().target.unwrap().name;
        self.token(&target).await.expect("the Secret holds a token")
    }

    /// Waits for a failure of `Synced` with this reason; returns its message.
    pub async fn await_failure(&self, name: &str, reason: &str) -> String {
        self.await_condition(name, "Synced", "False", reason).await
    }

    /// Waits for exactly these events of a resource, type and reason, the oldest first: they are
    /// published after the status is written.
    pub async fn await_events(&self, name: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(kind, reason)| ((*kind).to_owned(), (*reason).to_owned()))
            .collect();
        eventually(
            &format!("the events of {name} are {expected:?}"),
            async || (self.events(name).await == expected).then_some(()),
        )
        .await;
    }

    /// The reasons of the events of a resource, the oldest first.
    pub async fn events(&self, name: &str) -> Vec<(String, String)> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut events = events.list(&ListParams::default()).await.unwrap().items;
        events.retain(|e| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name));
        events.sort_by_key(|e| e.event_time.as_ref().map(|t| t.0));
        events
            .into_iter()
            .map(|e| (e.type_.unwrap_or_default(), e.reason.unwrap_or_default()))
            .collect()
    }
}

/// Creates a Secret, or changes it, as somebody else.
pub async fn put_secret(secrets: &Api<Secret>, name: &str, mut body: Value) {
    body["apiVersion"] = json!("v1");
    body["kind"] = json!("Secret");
    body["metadata"]["name"] = json!(name);
    let somebody = PatchParams::apply("somebody").force();
    let put = secrets.patch(name, &somebody, &Patch::Apply(body)).await;
    put.unwrap_or_else(|error| panic!("no Secret {name}: {error}"));
}

/// Status, reason and message of a condition.
pub fn condition(resource: &ServiceNowCredential, kind: &str) -> Option<(String, String, String)> {
    let conditions = &resource.status.as_ref()?.conditions;
    let condition = conditions.iter().find(|c| c.type_ == kind)?;
    Some((
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    ))
}

/// A Secret's data as text.
pub fn data(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.clone().unwrap_or_default();
    data.into_iter()
        .map(|(key, value)| (key, String::from_utf8(value.0).unwrap()))
        .collect()
}

/// Waits until a moment has passed on this machine's clock.
pub async fn until(at: Timestamp) {
    eventually("the moment has passed", async || {
        (Timestamp::now() > at).then_some(())
    })
    .await;
}

/// The resourceVersion of a Secret that exists.
pub fn version(secret: &Secret) -> String {
    secret.resource_version().unwrap()
}
