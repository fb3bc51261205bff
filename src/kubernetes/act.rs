//! Every read of one object and every write: the only place that changes anything in the cluster.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::{ConfigMap, ObjectReference, Secret},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Error, Resource,
    api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, Request},
    core::PartialObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    error::{Call, code, failure, said, timed_out},
    lease::Fence,
};
use crate::{
    FIELD_MANAGER,
    api::{
        CreationPolicy, Reason, ServiceNowCredential, ServiceNowCredentialStatus, Workload,
        WorkloadKind,
    },
    decide::{
        Failure, Transition,
        after::Restart,
        observed::{Credential, Metadata, Version, WriteOutcome},
        ownership::{
            Desired, FINALIZER, Fields, Ownership, TargetObject, TargetWrite, field_manager, judge,
            timestamp,
        },
    },
    redact::{blank, one_line},
};

/// One call of the API may take this long: longer than a busy API server needs, shorter than what
/// a person waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A change of an object that changes at the same time is tried so often.
const TRIES: usize = 4;

/// What the API server accepts as the note of an event (events.k8s.io/v1).
const NOTE_LIMIT: usize = 1000;

/// Says in a pod template when the token was asked for that its pods were restarted for (RFC 3339).
const RESTARTED_AT: &str = "snowcred.dev/restarted-at";

/// Only the metadata of a Secret comes back from a write: nothing secret travels or is decoded.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The Kubernetes API.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    reporter: String,
    fence: Fence,
}

impl Cluster {
    /// Acts through this client while the fence is open; events name `reporter` as the instance
    /// that sent them.
    pub fn new(client: Client, reporter: String, fence: Fence) -> Self {
        Self {
            client,
            reporter,
            fence,
        }
    }

    /// Nothing is written or asked for after this process has ceased to lead.
    pub(crate) fn may_begin(&self) -> Result<(), Failure> {
        if self.fence.is_open() {
            return Ok(());
        }
        Err(Failure::new(
            Reason::InternalError,
            "This replica of the operator leads no more; the one that does goes on.",
        ))
    }

    /// Reads a Secret.
    pub(crate) async fn read_secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Secret>, Failure> {
        self.read("secrets", namespace, name).await
    }

    /// Reads a ConfigMap.
    pub(crate) async fn read_config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ConfigMap>, Failure> {
        self.read("configmaps", namespace, name).await
    }

    /// Reads an object. It is decoded here, because kube logs a body that it cannot decode.
    async fn read<K>(
        &self,
        resource: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, Failure>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let call = Call {
            verb: "get",
            resource,
            namespace,
            name,
        };
        let request = Request::new(K::url_path(&(), Some(namespace)))
            .get(name, &GetParams::default())
            .map_err(|error| failure(&Error::BuildRequest(error), call))?;
        match bounded(self.client.request_text(request)).await {
            None => Err(timed_out(call)),
            Some(Err(error)) if code(&error) == Some(404) => Ok(None),
            Some(Err(error)) => Err(failure(&error, call)),
            Some(Ok(text)) => {
                let text = zeroize::Zeroizing::new(text);
                let object = serde_json::from_str(&text)
                    .map_err(|error| failure(&Error::SerdeError(error), call))?;
                Ok(Some(object))
            }
        }
    }

    /// Writes the target.
    pub(crate) async fn write_target(
        &self,
        credential: &Credential,
        write: &TargetWrite,
    ) -> WriteOutcome {
        let namespace = &*credential.name.namespace;
        let desired = write.desired();
        let url = Request::new(Secret::url_path(&(), Some(namespace)));
        let (verb, request) = match write {
            TargetWrite::Create(desired) => {
                let body = manifest(credential, desired, None);
                let params = PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                ("create", url.create(&params, body.to_string().into_bytes()))
            }
            TargetWrite::Apply { uid, desired } => {
                let body = manifest(credential, desired, Some(uid));
                let params = PatchParams::apply(FIELD_MANAGER).force();
                (
                    "patch",
                    url.patch(&desired.name, &params, &Patch::Apply(body)),
                )
            }
            TargetWrite::Merge { uid, desired } => {
                let body = merged(credential, desired, uid);
                let params = PatchParams::apply(&merge_manager(credential));
                (
                    "patch",
                    url.patch(&desired.name, &params, &Patch::Apply(body)),
                )
            }
            TargetWrite::Replace {
                version,
                desired,
                dropped,
            } => {
                let body = replacement(credential, version, desired, dropped);
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                (
                    "patch",
                    url.patch(&desired.name, &params, &Patch::Merge(body)),
                )
            }
        };
        let call = Call {
            verb,
            resource: "secrets",
            namespace,
            name: &desired.name,
        };
        if let Err(failure) = self.may_begin() {
            return WriteOutcome::Failed(failure);
        }
        let answer = match request {
            Ok(request) => self.request_metadata(request).await,
            Err(error) => Some(Err(Error::BuildRequest(error))),
        };
        match answer {
            None => WriteOutcome::Failed(timed_out(call)),
            Some(Ok(metadata)) => WriteOutcome::Done(Version::from(&metadata)),
            Some(Err(error)) if is_held_by_another(&error) => WriteOutcome::Conflict(said(&error)),
            Some(Err(error)) if has_changed(&error) => WriteOutcome::Changed,
            Some(Err(error)) => WriteOutcome::Failed(without_data(&failure(&error, call), desired)),
        }
    }

    async fn request_metadata(
        &self,
        mut request: http::Request<Vec<u8>>,
    ) -> Option<Result<ObjectMeta, Error>> {
        let accept = http::HeaderValue::from_static(METADATA_ONLY);
        request.headers_mut().insert(http::header::ACCEPT, accept);
        let text = bounded(self.client.request_text(request)).await?;
        Some(text.and_then(|text| {
            serde_json::from_str::<PartialObjectMeta<Secret>>(&text)
                .map(|object| object.metadata)
                .map_err(Error::SerdeError)
        }))
    }

    /// Removes what this resource wrote under an earlier name: deletes the Secret, if it is still
    /// the one with this uid and ours, or takes the keys out that it has merged.
    pub(crate) async fn remove_target(
        &self,
        credential: &Credential,
        name: &str,
        uid: &str,
        policy: CreationPolicy,
    ) -> Result<(), Failure> {
        if policy == CreationPolicy::Merge {
            return self.take_keys_out(credential, name).await;
        }
        let namespace = &*credential.name.namespace;
        let Some(secret) = self.read_secret(namespace, name).await? else {
            return Ok(());
        };
        let target = TargetObject::new(secret, FIELD_MANAGER);
        if target.version.uid != uid || judge(&target, credential, policy) != Ownership::Ours {
            return Ok(());
        }
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: Some(target.version.resource_version.clone()),
            }),
            ..DeleteParams::default()
        };
        let call = Call {
            verb: "delete",
            resource: "secrets",
            namespace,
            name,
        };
        self.may_begin()?;
        match bounded(secrets.delete(name, &params)).await {
            None => Err(timed_out(call)),
            Some(Err(error)) if code(&error) == Some(404) => Ok(()),
            Some(Err(error)) => Err(failure(&error, call)),
            Some(Ok(_)) => Ok(()),
        }
    }

    /// Takes out of somebody's Secret what only this resource holds of it. It is a JSON merge patch,
    /// because an apply of nothing takes out `data` as a whole, with keys that no manager holds.
    async fn take_keys_out(&self, credential: &Credential, name: &str) -> Result<(), Failure> {
        let namespace = &*credential.name.namespace;
        let call = Call {
            verb: "patch",
            resource: "secrets",
            namespace,
            name,
        };
        let manager = merge_manager(credential);
        for _ in 0..TRIES {
            let Some(secret) = self.read_secret(namespace, name).await? else {
                return Ok(());
            };
            let target = TargetObject::new(secret, &manager);
            let held = target.ours.data.iter();
            let nulls = held.filter(|key| !target.theirs.contains_key(*key));
            let nulls: BTreeMap<_, _> = nulls.map(|key| (key, Value::Null)).collect();
            if nulls.is_empty() {
                return Ok(());
            }
            let Version {
                uid,
                resource_version,
            } = &target.version;
            let patch = json!({
                "metadata": {"uid": uid, "resourceVersion": resource_version},
                "data": nulls,
            });
            let params = PatchParams {
                field_manager: Some(manager.clone()),
                ..PatchParams::default()
            };
            let request = Request::new(Secret::url_path(&(), Some(namespace)))
                .patch(name, &params, &Patch::Merge(patch))
                .map_err(|error| failure(&Error::BuildRequest(error), call))?;
            if self.send(request, call).await?.is_some() {
                return Ok(());
            }
        }
        Err(changing("Secret", name))
    }

    /// Sends a write of an object; `None` where that was replaced, changed or deleted since it was
    /// seen.
    async fn send(
        &self,
        request: http::Request<Vec<u8>>,
        call: Call<'_>,
    ) -> Result<Option<ObjectMeta>, Failure> {
        self.may_begin()?;
        match self.request_metadata(request).await {
            None => Err(timed_out(call)),
            Some(Err(error)) if has_changed(&error) => Ok(None),
            Some(Err(error)) => Err(failure(&error, call)),
            Some(Ok(metadata)) => Ok(Some(metadata)),
        }
    }

    /// Puts our finalizer on this very resource, or takes it off, whoever put it there.
    pub(crate) async fn set_finalizer(
        &self,
        credential: &Credential,
        there: bool,
    ) -> Result<(), Failure> {
        let (namespace, name) = (&*credential.name.namespace, &*credential.name.name);
        let call = Call {
            verb: "patch",
            resource: "servicenowcredentials",
            namespace,
            name,
        };
        for _ in 0..TRIES {
            let found: Option<PartialObjectMeta<ServiceNowCredential>> =
                self.read("servicenowcredentials", namespace, name).await?;
            let metadata = found.map(|object| object.metadata).unwrap_or_default();
            if metadata.uid.as_deref() != Some(&credential.uid) {
                // Another has its name, or nobody.
                return if there { Err(gone(name)) } else { Ok(()) };
            }
            let mut finalizers = metadata.finalizers.unwrap_or_default();
            if finalizers.iter().any(|finalizer| finalizer == FINALIZER) == there {
                return Ok(());
            }
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            if there {
                finalizers.push(FINALIZER.to_owned());
            }
            let patch = json!({
                "metadata": {
                    "uid": metadata.uid,
                    "resourceVersion": metadata.resource_version,
                    "finalizers": finalizers,
                },
            });
            let params = PatchParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let request = Request::new(ServiceNowCredential::url_path(&(), Some(namespace)))
                .patch(name, &params, &Patch::Merge(patch))
                .map_err(|error| failure(&Error::BuildRequest(error), call))?;
            if self.send(request, call).await?.is_some() {
                return Ok(());
            }
        }
        Err(changing("ServiceNowCredential", name))
    }

    /// Writes the status of this very resource; returns its resourceVersion, or `None` when it is
    /// gone.
    pub(crate) async fn write_status(
        &self,
        credential: &Credential,
        status: &ServiceNowCredentialStatus,
    ) -> Result<Option<String>, Failure> {
        let (namespace, name) = (&*credential.name.namespace, &*credential.name.name);
        let call = Call {
            verb: "patch",
            resource: "servicenowcredentials/status",
            namespace,
            name,
        };
        let patch = status_patch(credential, status)
            .map_err(|error| failure(&Error::SerdeError(error), call))?;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let request = Request::new(ServiceNowCredential::url_path(&(), Some(namespace)))
            .patch_subresource("status", name, &params, &Patch::<()>::Json(patch))
            .map_err(|error| failure(&Error::BuildRequest(error), call))?;
        self.may_begin()?;
        match self.request_metadata(request).await {
            None => Err(timed_out(call)),
            Some(Err(error)) if code(&error) == Some(404) => Ok(None),
            Some(Err(error)) => Err(failure(&error, call)),
            Some(Ok(metadata)) => Ok(metadata.resource_version),
        }
    }

    /// Restarts a workload by what its pod template says, as `kubectl rollout restart` does by an
    /// annotation of its own. No other field of it is touched.
    pub(crate) async fn restart(
        &self,
        credential: &Credential,
        workload: &Workload,
        at: Timestamp,
    ) -> Restart {
        let namespace = &*credential.name.namespace;
        let (resource, path) = match workload.kind {
            WorkloadKind::Deployment => ("deployments", Deployment::url_path(&(), Some(namespace))),
            WorkloadKind::StatefulSet => {
                ("statefulsets", StatefulSet::url_path(&(), Some(namespace)))
            }
            WorkloadKind::DaemonSet => ("daemonsets", DaemonSet::url_path(&(), Some(namespace))),
        };
        let call = Call {
            verb: "patch",
            resource,
            namespace,
            name: &workload.name,
        };
        let annotations = json!({ RESTARTED_AT: timestamp(at) });
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let request = Request::new(path).patch(&workload.name, &params, &Patch::Merge(patch));
        if let Err(failure) = self.may_begin() {
            return Restart::Failed(failure);
        }
        let answer = match request {
            Ok(request) => self.request_metadata(request).await,
            Err(error) => Some(Err(Error::BuildRequest(error))),
        };
        match answer {
            None => Restart::Failed(timed_out(call)),
            Some(Ok(_)) => Restart::Done,
            Some(Err(error)) if code(&error) == Some(404) => Restart::Missing,
            Some(Err(error)) => Restart::Failed(failure(&error, call)),
        }
    }

    /// Publishes an event. It is news, not state: a failure is logged and forgotten.
    pub(crate) async fn publish(
        &self,
        credential: &Credential,
        transition: &Transition,
        now: MicroTime,
    ) {
        if self.may_begin().is_err() {
            return;
        }
        let namespace = &*credential.name.namespace;
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let event = Event {
            metadata: ObjectMeta {
                name: Some(event_name(&credential.name.name, &now)),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            action: Some("Sync".to_owned()),
            event_time: Some(now),
            note: Some(one_line(&transition.message, NOTE_LIMIT)),
            reason: Some(transition.reason.as_str().to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(ServiceNowCredential::api_version(&()).into_owned()),
                kind: Some(ServiceNowCredential::kind(&()).into_owned()),
                name: Some(credential.name.name.to_string()),
                namespace: Some(namespace.to_owned()),
                uid: Some(credential.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(format!("snowcred.dev/{FIELD_MANAGER}")),
            reporting_instance: Some(self.reporter.clone()),
            type_: Some(
                if transition.is_failure {
                    "Warning"
                } else {
                    "Normal"
                }
                .to_owned(),
            ),
            ..Event::default()
        };
        match bounded(events.create(&PostParams::default(), &event)).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(resource = %credential.name, error = said(&error), "event not published");
            }
            None => tracing::warn!(resource = %credential.name, "event not published in time"),
        }
    }
}

/// A name that no other event has, in the form that client-go gives: the object's name and the
/// time.
fn event_name(name: &str, now: &MicroTime) -> String {
    let end = name.len().min(200);
    let start = name[..end].trim_end_matches(['-', '.']);
    format!("{start}.{:x}", now.0.as_nanosecond())
}

/// Waits for a call for as long as it may take.
async fn bounded<T>(call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(CALL_TIMEOUT, call).await.ok()
}

/// The Secret was created, replaced, changed or deleted since it was seen.
fn has_changed(error: &Error) -> bool {
    let uid_differs =
        || matches!(error, Error::Api(status) if status.message.contains("metadata.uid"));
    match code(error) {
        Some(404) => !said(error).contains("namespaces"),
        Some(409) => true,
        // An apply or a patch with another object's uid.
        Some(422) => uid_differs(),
        _ => false,
    }
}

fn gone(name: &str) -> Failure {
    Failure::new(
        Reason::InternalError,
        format!("The ServiceNowCredential {name:?} is gone, so nothing is written for it."),
    )
}

fn changing(kind: &str, name: &str) -> Failure {
    Failure::new(
        Reason::InternalError,
        format!(
            "The {kind} {name:?} changed again and again while it was written. It is tried again \
             shortly; if this lasts, find out who else writes it."
        ),
    )
}

/// A merge met a key that another field manager holds (Kubernetes documentation, "Server-Side
/// Apply", conflicts).
fn is_held_by_another(error: &Error) -> bool {
    let Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 409
        && causes
            .into_iter()
            .any(|cause| cause.reason == "FieldManagerConflict")
}

fn merge_manager(credential: &Credential) -> String {
    field_manager(&credential.name.name, CreationPolicy::Merge).into_owned()
}

/// No message repeats what was sent.
fn without_data(failure: &Failure, desired: &Desired) -> Failure {
    let message = desired
        .data
        .spellings()
        .fold(failure.message().to_owned(), |text, value| {
            blank(&text, &value)
        });
    Failure::new(failure.reason(), message)
}

fn owner(credential: &Credential) -> Value {
    json!({
        "apiVersion": ServiceNowCredential::api_version(&()),
        "kind": ServiceNowCredential::kind(&()),
        "name": &*credential.name.name,
        "uid": credential.uid,
        "controller": true,
    })
}

/// The target as a whole, for a create or an apply.
fn manifest(credential: &Credential, desired: &Desired, uid: Option<&str>) -> Value {
    let data: BTreeMap<_, _> = desired.data.encoded().collect();
    let mut manifest = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": desired.name,
            "namespace": &*credential.name.namespace,
            "labels": desired.labels,
            "annotations": desired.annotations,
        },
        "data": data,
    });
    if desired.owned {
        manifest["metadata"]["ownerReferences"] = json!([owner(credential)]);
    }
    match uid {
        Some(uid) => manifest["metadata"]["uid"] = json!(uid),
        // A type never changes, so only a create says it.
        None => manifest["type"] = json!(desired.type_),
    }
    manifest
}

/// Our keys of somebody's Secret, and nothing else of it.
fn merged(credential: &Credential, desired: &Desired, uid: &str) -> Value {
    let data: BTreeMap<_, _> = desired.data.encoded().collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": desired.name,
            "namespace": &*credential.name.namespace,
            "uid": uid,
        },
        "data": data,
    })
}

/// The JSON merge patch (RFC 7386) that sets what is desired and takes out what was dropped.
fn replacement(
    credential: &Credential,
    version: &Version,
    desired: &Desired,
    dropped: &Fields,
) -> Value {
    let with_nulls = |wanted: &Metadata, dropped: &std::collections::BTreeSet<String>| {
        let nulls = dropped.iter().map(|name| (name.clone(), Value::Null));
        let values = wanted
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)));
        nulls.chain(values).collect::<serde_json::Map<_, _>>()
    };
    let data: Metadata = desired
        .data
        .encoded()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let owners = if desired.owned {
        json!([owner(credential)])
    } else {
        Value::Null
    };
    json!({
        "metadata": {
            "uid": version.uid,
            "resourceVersion": version.resource_version,
            "labels": with_nulls(&desired.labels, &dropped.labels),
            "annotations": with_nulls(&desired.annotations, &dropped.annotations),
            "ownerReferences": owners,
        },
        "data": with_nulls(&data, &dropped.data),
    })
}

/// Replaces the whole status of the resource with this uid: what is absent goes.
fn status_patch(
    credential: &Credential,
    status: &ServiceNowCredentialStatus,
) -> Result<json_patch::Patch, serde_json::Error> {
    serde_json::from_value(json!([
        {"op": "test", "path": "/metadata/uid", "value": credential.uid},
        {"op": "add", "path": "/status", "value": status},
    ]))
}
