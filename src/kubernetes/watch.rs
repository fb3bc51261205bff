//! The watches: resources, and the metadata of the objects that they name.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};

use crate::{
    RENEW_REQUESTED_AT,
    api::{ServiceNowCredentialSpec, ServiceNowCredentialStatus},
    decide::{
        Credential, Name,
        observed::{CheckedSpec, Kind, Version},
        ownership::FINALIZER,
    },
    kubernetes::lean::{Identified, Trimmed},
};

/// An object's name and state.
pub type SeenObject = (Name, Version);

/// Watches the resources of one namespace, or of all. An object that does not decode is still
/// one object of the list: its spec says why. What is `known` of one already is shared with it.
pub fn credentials(
    client: Client,
    namespace: Option<&str>,
    selector: Option<&str>,
    known: impl Fn(&Name) -> Option<Arc<Credential>> + Send + 'static,
) -> BoxStream<'static, watcher::Result<Event<Credential>>> {
    let api = resources(client, namespace);
    let config = watcher::Config {
        label_selector: selector.map(str::to_owned),
        ..watcher::Config::default()
    };
    watcher(api, config)
        .backoff(Patience::default())
        .map_ok(move |event| convert(event, |object| credential(object, &known)))
        .boxed()
}

/// Lists the resources of one namespace, or of all, as [`credentials`] takes them.
pub async fn list_credentials(
    client: Client,
    namespace: Option<&str>,
) -> kube::Result<Vec<Credential>> {
    let list = resources(client, namespace)
        .list(&ListParams::default())
        .await?;
    let credentials = list
        .items
        .into_iter()
        .map(|item| credential(item, |_| None));
    Ok(credentials.collect())
}

/// The resources of one namespace, or of all, whatever their specs hold.
pub(crate) fn resources(client: Client, namespace: Option<&str>) -> Api<Trimmed> {
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

/// Watches the metadata of the objects of one kind in one namespace, or in all.
pub fn objects(
    client: Client,
    kind: Kind,
    namespace: Option<&str>,
) -> BoxStream<'static, watcher::Result<Event<SeenObject>>> {
    match kind {
        Kind::Secret => metadata::<Secret>(client, namespace),
        Kind::ConfigMap => metadata::<ConfigMap>(client, namespace),
    }
}

fn metadata<K>(
    client: Client,
    namespace: Option<&str>,
) -> BoxStream<'static, watcher::Result<Event<SeenObject>>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Send
        + Sync
        + 'static,
{
    let api: Api<Identified<K>> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    watcher(api, watcher::Config::default())
        .backoff(Patience::default())
        .map_ok(|event| convert(event, |object| seen(&object.metadata)))
        .boxed()
}

fn convert<A, B>(event: Event<A>, f: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::Apply(object) => Event::Apply(f(object)),
        Event::Delete(object) => Event::Delete(f(object)),
        Event::InitApply(object) => Event::InitApply(f(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

fn seen(metadata: &ObjectMeta) -> SeenObject {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    (Name::new(namespace, name), Version::from(metadata))
}

/// Keeps of a resource what is acted upon. The spec changes with the generation alone (Kubernetes API
/// conventions, "Metadata"), so one that is `known` is not read and checked again.
pub(crate) fn credential(
    object: Trimmed,
    known: impl FnOnce(&Name) -> Option<Arc<Credential>>,
) -> Credential {
    let metadata = object.metadata;
    let annotations = metadata.annotations.unwrap_or_default();
    let name = Name::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    );
    let known = known(&name).filter(|known| {
        metadata.generation == Some(known.generation) && metadata.uid.as_ref() == Some(&known.uid)
    });
    let (name, spec) = match known {
        Some(known) => (known.name.clone(), known.spec.clone()),
        None => {
            let spec = serde_json::from_value::<ServiceNowCredentialSpec>(object.spec);
            let spec = spec.map(CheckedSpec::from);
            (name, spec.map_err(|error| error.to_string()))
        }
    };
    // A status that cannot be read is one that was never written.
    let mut status: ServiceNowCredentialStatus =
        serde_json::from_value(object.status).unwrap_or_default();
    // Lists grow to room for four, and most have one or two.
    status.conditions.shrink_to_fit();
    status.observed.shrink_to_fit();
    Credential {
        name,
        uid: metadata.uid.unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        created_at: metadata
            .creation_timestamp
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting: metadata.deletion_timestamp.is_some(),
        finalizer: metadata
            .finalizers
            .is_some_and(|all| all.iter().any(|finalizer| finalizer == FINALIZER)),
        renew_request: annotations.get(RENEW_REQUESTED_AT).cloned(),
        spec,
        status: Arc::new(status),
    }
}

/// Waits longer after each failure of a watch, up to five seconds: a CRD that was missing, or an
/// API server that was away, is noticed within that time.
#[derive(Default)]
pub(super) struct Patience {
    failures: u32,
    last: Option<Instant>,
}

/// A watch that went well for so long starts anew with its waits.
const WENT_WELL: Duration = Duration::from_secs(20);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > WENT_WELL) {
            self.failures = 0;
        }
        let wait = Duration::from_millis(250) * 2u32.pow(self.failures.min(5));
        self.failures = self.failures.saturating_add(1);
        self.last = Some(Instant::now());
        Some(wait.min(Duration::from_secs(5)))
    }
}

impl Backoff for Patience {
    /// Called for each event, and one comes before each list, whether it works or not.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, generation: i64, instance: &str) -> Trimmed {
        let object = serde_json::json!({
            "metadata": {"namespace": "ns", "name": "itsm", "uid": uid, "generation": generation},
            "spec": {"instance": instance, "client": {"secretRef": {"name": "client"}}},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_spec_is_read_again_in_another_generation_and_of_another_object_only() {
        let known = Arc::new(credential(object("a", 1, "dev1"), |_| None));
        let instance = |object| {
            let credential = credential(object, |name| {
                assert_eq!(*name, Name::new("ns", "itsm"));
                Some(known.clone())
            });
            credential.spec.unwrap().instance.clone()
        };
        assert_eq!(instance(object("a", 1, "not looked at")), "dev1");
        assert_eq!(instance(object("a", 2, "dev2")), "dev2");
        assert_eq!(instance(object("b", 1, "dev3")), "dev3");
    }
}
