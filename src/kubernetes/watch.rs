//! The two watches: resources, and the metadata of Secrets.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde_json::Value;

use crate::{
    RENEW_REQUESTED_AT,
    api::{ServiceNowCredential, ServiceNowCredentialSpec},
    decide::{
        Credential, Name,
        observed::{CheckedSpec, Version},
    },
};

/// A Secret's name and state.
pub type SeenSecret = (Name, Version);

/// Watches the resources of one namespace, or of all. An object that does not decode is still
/// one object of the list: its spec says why.
pub fn credentials(
    client: Client,
    namespace: Option<&str>,
    selector: Option<&str>,
) -> impl Stream<Item = watcher::Result<Event<Credential>>> + Send + use<> {
    let api = resources(client, namespace);
    let config = watcher::Config {
        label_selector: selector.map(str::to_owned),
        ..watcher::Config::default()
    };
    watcher(api, config)
        .backoff(Patience::default())
        .map_ok(|event| convert(event, credential))
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
    Ok(list.items.into_iter().map(credential).collect())
}

fn resources(client: Client, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<ServiceNowCredential>(&());
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

/// Watches the metadata of the Secrets of one namespace, or of all.
pub fn secrets(
    client: Client,
    namespace: Option<&str>,
) -> impl Stream<Item = watcher::Result<Event<SeenSecret>>> + Send + use<> {
    let api: Api<PartialObjectMeta<Secret>> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    watcher(api, watcher::Config::default())
        .backoff(Patience::default())
        .map_ok(|event| convert(event, seen_secret))
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

fn seen_secret(secret: PartialObjectMeta<Secret>) -> SeenSecret {
    let version = Version::from(&secret.metadata);
    let namespace = secret.metadata.namespace.unwrap_or_default();
    let name = secret.metadata.name.unwrap_or_default();
    (Name::new(&namespace, &name), version)
}

/// Keeps of a resource what is acted upon.
pub(crate) fn credential(mut object: DynamicObject) -> Credential {
    let metadata = object.metadata;
    let mut take = |field: &str| object.data.get_mut(field).map_or(Value::Null, Value::take);
    let annotations = metadata.annotations.unwrap_or_default();
    Credential {
        name: Name::new(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
        ),
        uid: metadata.uid.unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        created_at: metadata
            .creation_timestamp
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting: metadata.deletion_timestamp.is_some(),
        renew_request: annotations.get(RENEW_REQUESTED_AT).cloned(),
        spec: serde_json::from_value::<ServiceNowCredentialSpec>(take("spec"))
            .map(CheckedSpec::from)
            .map_err(|error| error.to_string()),
        // A status that cannot be read is one that was never written.
        status: Arc::new(serde_json::from_value(take("status")).unwrap_or_default()),
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
