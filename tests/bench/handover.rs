//! The lead passes from a replica that is stopped to the one that stands by, amid work.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{coordination::v1::Lease, core::v1::Secret},
};
use kube::{
    Api, Resource,
    api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::operator::{Operator, Options};
use tokio::sync::mpsc;

use crate::{
    fleet::{Fleet, NAMESPACE, Shape, resource_name},
    support::rights::LEASE,
    told::Told,
};

/// One resource after another is changed, so that there is something to write at any moment.
const A_CHANGE_EACH: Duration = Duration::from_millis(10);

/// What hand-overs came to, from SIGTERM on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub(crate) resources: usize,
    pub(crate) token_requests: usize,
    /// Until the Lease has its next holder, in milliseconds and in order.
    pub(crate) lease_ms: Vec<f64>,
    /// Until its next holder has written a Secret.
    pub(crate) write_ms: Vec<f64>,
}

/// So many hand-overs of a fleet whose resources are changed meanwhile.
pub(crate) async fn run(resources: usize, times: usize) -> Handover {
    let fleet = Fleet::new(Shape::distinct(resources)).await;
    let mut told = Told::of::<ServiceNowCredential>(fleet.client.clone(), NAMESPACE).await;
    let options = replica(&fleet);
    let mut leader = Operator::start(&options).await;
    told.until(resources).await;
    let mut took = Vec::new();
    for _ in 0..times {
        let standby = Operator::start(&options).await;
        took.push(tokio::select! {
            took = one(&fleet, &mut leader) => took,
            () = changes(&fleet) => unreachable!("there is always one more"),
        });
        leader = standby;
    }
    let (lease, write): (Vec<_>, Vec<_>) = took.into_iter().unzip();
    Handover {
        resources,
        token_requests: fleet.instance.token_requests(),
        lease_ms: in_order(lease),
        write_ms: in_order(write),
    }
}

/// How one of several replicas is started.
fn replica(fleet: &Fleet) -> Options {
    let mut options = fleet.options();
    options.arguments.extend([
        "--leader-elect".to_owned(),
        format!("--lease-namespace={NAMESPACE}"),
        format!("--lease-name={LEASE}"),
    ]);
    options
}

/// Changes resources without end.
async fn changes(fleet: &Fleet) {
    let resources = fleet.resources();
    let mut pace = tokio::time::interval(A_CHANGE_EACH);
    for change in 0_usize.. {
        pace.tick().await;
        let label = json!({"spec": {"target": {"labels": {"change": change.to_string()}}}});
        let name = resource_name(change % fleet.shape.resources);
        let (params, label) = (PatchParams::default(), Patch::Merge(label));
        resources.patch(&name, &params, &label).await.unwrap();
    }
}

/// Stops the leader; returns how long it is until another has the Lease, and has written.
async fn one(fleet: &Fleet, leader: &mut Operator) -> (Duration, Duration) {
    let leases: Api<Lease> = Api::namespaced(fleet.client.clone(), NAMESPACE);
    let old = holder(&leases.get(LEASE).await.unwrap());
    let mut leases = news(leases).await;
    let mut secrets = news::<Secret>(Api::namespaced(fleet.client.clone(), NAMESPACE)).await;
    // It is at work when it is stopped.
    secrets.recv().await.unwrap();
    let begun = Instant::now();
    let (ended, _) = leader.stop().await;
    assert!(ended.unwrap().success());
    let is_taken =
        |lease: &Lease| ![None, Some(String::new()), old.clone()].contains(&holder(lease));
    let (taken, lease) = first(&mut leases, is_taken).await;
    // Both are counted in one order.
    let since = version(&lease);
    let (written, _) = first(&mut secrets, |secret| version(secret) > since).await;
    (taken - begun, written - begun)
}

fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.holder_identity.clone()
}

fn version(object: &impl Resource) -> u64 {
    object
        .meta()
        .resource_version
        .as_ref()
        .unwrap()
        .parse()
        .unwrap()
}

/// What is written from now on, and when it was seen.
async fn news<K>(api: Api<K>) -> mpsc::UnboundedReceiver<(Instant, K)>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let now = api.list_metadata(&ListParams::default()).await.unwrap();
    let now = now.metadata.resource_version.unwrap();
    let watch = api.watch(&WatchParams::default(), &now).await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut events = pin!(watch);
        while let Some(event) = events.next().await {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event.unwrap()
                && sender.send((Instant::now(), object)).is_err()
            {
                break;
            }
        }
    });
    receiver
}

/// The first of what is told that is so.
async fn first<K>(
    news: &mut mpsc::UnboundedReceiver<(Instant, K)>,
    is_it: impl Fn(&K) -> bool,
) -> (Instant, K) {
    loop {
        let (at, object) = news.recv().await.expect("the watch goes on");
        if is_it(&object) {
            return (at, object);
        }
    }
}

/// In milliseconds, the least first.
fn in_order(took: Vec<Duration>) -> Vec<f64> {
    let took = took.into_iter().map(|took| took.as_secs_f64() * 1000.0);
    let mut took: Vec<_> = took.collect();
    took.sort_by(f64::total_cmp);
    took
}
