//! The fleet: a control plane of its own, instances, a client and a resource for each member.

use std::{path::PathBuf, time::Duration};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::{
    cluster::ControlPlane,
    operator::Options,
    servicenow::{self, Simulator, TokenMode},
};

use crate::support::{own_cluster, put_secret, rights::rules};

/// How long each token lives.
pub(crate) const LIFETIME: Duration = Duration::from_secs(10);
/// So that an answer that never comes does not cost half a token's life.
const REQUEST_TIMEOUT: &str = "--request-timeout=2s";
/// As many are written at a time as the API server takes without delay.
const AT_ONCE: usize = 8;

/// Begins the client id of each member.
pub(crate) const CLIENT_OF: &str = "client-of-";

/// One resource with its client.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Which instance it asks.
    pub(crate) instance: usize,
}

impl Member {
    /// The client's id, by which the instance's journal knows it.
    pub(crate) fn client_id(&self) -> String {
        format!("{CLIENT_OF}{}", self.name)
    }

    /// The name of the client's Secret.
    pub(crate) fn client_secret(&self) -> String {
        format!("{}-client", self.name)
    }
}

pub(crate) struct Fleet {
    pub(crate) cluster: &'static ControlPlane,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) instances: Vec<Simulator>,
    pub(crate) members: Vec<Member>,
    kubeconfig: PathBuf,
}

impl Fleet {
    /// A fleet whose members are dealt out to one instance for each mode. Nothing is in the cluster
    /// yet but the CRD.
    pub(crate) async fn new(resources: usize, modes: &[TokenMode]) -> Self {
        let cluster = own_cluster().await;
        let namespace = cluster.fresh_namespace("soak").await;
        let kubeconfig = cluster
            .service_account(&namespace, "operator", rules())
            .await;
        let mut instances = Vec::new();
        for mode in modes {
            let instance = Simulator::start().await;
            instance.set_mode(*mode);
            instances.push(instance);
        }
        let member = |number| Member {
            name: format!("member-{number:03}"),
            instance: number % instances.len(),
        };
        Self {
            client: cluster.admin().await,
            members: (0..resources).map(member).collect(),
            cluster,
            namespace,
            instances,
            kubeconfig,
        }
    }

    /// How its operator is started.
    pub(crate) fn options(&self) -> Options {
        Options {
            binary: env!("CARGO_BIN_EXE_servicenow-credential-operator").into(),
            kubeconfig: self.kubeconfig.clone(),
            arguments: vec![
                format!("--watch-namespaces={}", self.namespace),
                "--allow-insecure-http".to_owned(),
                REQUEST_TIMEOUT.to_owned(),
            ],
            environment: Vec::new(),
        }
    }

    /// Creates every member, spread evenly over this time.
    pub(crate) async fn create(&self, spread: Duration) {
        let each = spread / u32::try_from(self.members.len()).unwrap();
        let begun = tokio::time::Instant::now();
        stream::iter(self.members.iter().zip(0..))
            .for_each_concurrent(AT_ONCE, |(member, number)| async move {
                tokio::time::sleep_until(begun + each * number).await;
                self.put_client(member, "first").await;
                self.put_resource(member).await;
            })
            .await;
    }

    /// Gives a member's client a secret, at its instance and in the cluster.
    pub(crate) async fn put_client(&self, member: &Member, secret: &str) {
        let client = servicenow::Client::new(member.client_id(), secret).with_lifetime(LIFETIME);
        self.instances[member.instance].add_client(client);
        let data = json!({"client-id": member.client_id(), "client-secret": secret});
        let body = json!({"stringData": data});
        put_secret(&self.secrets(), &member.client_secret(), body).await;
    }

    async fn put_resource(&self, member: &Member) {
        let resource = json!({
            "apiVersion": "snowcred.dev/v1alpha1",
            "kind": "ServiceNowCredential",
            "metadata": {"name": member.name},
            "spec": {
                "instance": self.instances[member.instance].origin(),
                "client": {"secretRef": {"name": member.client_secret()}},
            },
        });
        let resource = serde_json::from_value(resource).unwrap();
        self.credentials()
            .create(&PostParams::default(), &resource)
            .await
            .unwrap_or_else(|error| panic!("no resource {}: {error}", member.name));
    }

    pub(crate) fn credentials(&self) -> Api<ServiceNowCredential> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
