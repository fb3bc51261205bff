//! The fleet: a control plane of its own, an instance, and so many resources and clients.

use std::{path::PathBuf, time::Duration};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use servicenow_credential_operator::{RENEW_REQUESTED_AT, api::ServiceNowCredential};
use testkit::{
    cluster::{ControlPlane, Server},
    operator::Options,
    servicenow::{self, Fault, Simulator, TokenMode},
};

use crate::support::{install_crd, rights::rules};

/// Where the resources are.
pub(crate) const NAMESPACE: &str = "fleet";
/// As many are created at a time.
const AT_ONCE: usize = 16;

/// What a fleet is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How many resources.
    pub(crate) resources: usize,
    /// How many clients they share.
    pub(crate) clients: usize,
    /// How long their tokens live.
    pub(crate) lifetime: Duration,
    /// `spec.renewal.renewBeforePercentage`.
    pub(crate) renew_before: Option<u32>,
}

impl Shape {
    /// So many resources with a client each, whose tokens live for an hour.
    pub(crate) fn distinct(resources: usize) -> Self {
        Self {
            resources,
            clients: resources,
            lifetime: Duration::from_secs(3600),
            renew_before: None,
        }
    }
}

pub(crate) struct Fleet {
    _cluster: ControlPlane,
    pub(crate) client: Client,
    pub(crate) instance: Simulator,
    pub(crate) shape: Shape,
    pub(crate) kubeconfig: PathBuf,
}

impl Fleet {
    /// A fleet with all its resources, and no operator.
    pub(crate) async fn new(shape: Shape) -> Self {
        let cluster = ControlPlane::start().await.unwrap();
        install_crd(&cluster).await;
        let rules = rules();
        let kubeconfig = cluster.service_account(NAMESPACE, "operator", rules).await;
        // Its garbage collection asks for every owner that it does not know yet.
        cluster.stop(Server::ControllerManager).await;
        let instance = Simulator::start().await;
        instance.set_mode(TokenMode::AlwaysNew);
        let delay = std::env::var("BENCH_DELAY_MS").ok();
        let delay = delay.map(|text| Duration::from_millis(text.parse().unwrap()));
        instance.set_fault(delay.map(Fault::Delay));
        let fleet = Self {
            client: cluster.admin().await,
            kubeconfig,
            _cluster: cluster,
            instance,
            shape,
        };
        let clients = (0..shape.clients).map(|number| fleet.put_client(NAMESPACE, number));
        all(clients).await;
        let resources = (0..shape.resources)
            .map(|number| fleet.put_resource(NAMESPACE, number, number % shape.clients));
        all(resources).await;
        fleet
    }

    /// How an operator of this fleet is started: as its chart does, but alone.
    pub(crate) fn options(&self) -> Options {
        Options {
            binary: env!("CARGO_BIN_EXE_servicenow-credential-operator").into(),
            kubeconfig: self.kubeconfig.clone(),
            arguments: vec!["--allow-insecure-http".to_owned()],
            environment: Vec::new(),
        }
    }

    /// Another namespace.
    pub(crate) async fn namespace(&self, name: &str) {
        let namespace = json!({"metadata": {"name": name}});
        let namespace = serde_json::from_value(namespace).unwrap();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let made = namespaces.create(&PostParams::default(), &namespace).await;
        made.unwrap();
    }

    /// Makes a client known to the instance, and stores its Secret.
    pub(crate) async fn put_client(&self, namespace: &str, number: usize) {
        let id = client_id(number);
        let client = servicenow::Client::new(&id, SECRET).with_lifetime(self.shape.lifetime);
        self.instance.add_client(client);
        let data = json!({"client-id": id, "client-secret": SECRET});
        let secret = json!({"metadata": {"name": client_name(number)}, "stringData": data});
        self.create::<Secret>(namespace, secret).await;
    }

    /// Lets every token that is issued from now on live for so long.
    pub(crate) fn set_lifetime(&mut self, lifetime: Duration) {
        self.shape.lifetime = lifetime;
        for number in 0..self.shape.clients {
            let id = client_id(number);
            self.instance.update_client(&id, |c| c.lifetime = lifetime);
        }
    }

    /// Creates Secrets that no resource names.
    pub(crate) async fn put_others(&self, namespace: &str, count: usize) {
        let data = json!({"key": "of somebody else, who does something else with it"});
        let put = (0..count).map(|number| {
            let name = format!("other-{number:05}");
            let secret = json!({"metadata": {"name": name}, "stringData": data});
            self.create::<Secret>(namespace, secret)
        });
        all(put).await;
    }

    /// Creates a resource of a client.
    pub(crate) async fn put_resource(&self, namespace: &str, number: usize, client: usize) {
        let resource = json!({
            "metadata": {"name": resource_name(number), "labels": {"shard": shard(number)}},
            "spec": {
                "instance": self.instance.origin(),
                "client": {"secretRef": {"name": client_name(client)}},
                "renewal": {"renewBeforePercentage": self.shape.renew_before},
            },
        });
        self.create::<ServiceNowCredential>(namespace, resource)
            .await;
    }

    /// Asks for a renewal of every token.
    pub(crate) async fn ask_for_renewal(&self) {
        let request = json!({"metadata": {"annotations": {RENEW_REQUESTED_AT: REQUEST}}});
        let (patch, params) = (Patch::Merge(request), PatchParams::default());
        let resources = self.resources();
        let patches = (0..self.shape.resources).map(async |number| {
            let name = resource_name(number);
            let patched = resources.patch(&name, &params, &patch).await;
            patched.unwrap();
        });
        all(patches).await;
    }

    /// How many requests for a renewal have been acted on.
    pub(crate) async fn handled(&self) -> usize {
        let resources = self.resources().list(&ListParams::default()).await.unwrap();
        let status = resources.items.into_iter().filter_map(|r| r.status);
        status
            .filter(|status| status.handled_renew_request.as_deref() == Some(REQUEST))
            .count()
    }

    /// The resources.
    pub(crate) fn resources(&self) -> Api<ServiceNowCredential> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn create<K>(&self, namespace: &str, mut object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        object["apiVersion"] = K::api_version(&()).into();
        object["kind"] = K::kind(&()).into();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }
}

/// What a renewal is asked for by.
const REQUEST: &str = "once";

/// Half of the resources bear each of these labels.
pub(crate) const SHARDS: [&str; 2] = ["a", "b"];

/// The secret of every client.
pub(crate) const SECRET: &str = "a-secret-that-is-as-long-as-they-are";

/// The id by which the instance knows a client.
pub(crate) fn client_id(number: usize) -> String {
    format!("{number:032x}")
}

/// The Secret of a client.
pub(crate) fn client_name(number: usize) -> String {
    format!("client-{number:05}")
}

/// A resource, and the Secret that it is for.
pub(crate) fn resource_name(number: usize) -> String {
    format!("itsm-{number:05}")
}

/// Which of two shards a resource belongs to.
fn shard(number: usize) -> &'static str {
    SHARDS[number % SHARDS.len()]
}

/// Awaits them all, some at a time.
async fn all(tasks: impl Iterator<Item = impl Future<Output = ()>>) {
    stream::iter(tasks)
        .for_each_concurrent(AT_ONCE, |task| task)
        .await;
}
