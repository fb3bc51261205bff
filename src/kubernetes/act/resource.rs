//! Writes of the resource itself: its status, its finalizer, and the events about it.

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Error, Resource,
    api::{Patch, PatchParams, PostParams, Request},
    core::PartialObjectMeta,
};
use serde_json::json;

use super::{Cluster, TRIES, bounded, changing};
use crate::{
    FIELD_MANAGER,
    api::{Reason, ServiceNowCredential, ServiceNowCredentialStatus},
    decide::{Failure, Transition, observed::Credential, ownership::FINALIZER},
    kubernetes::error::{Call, code, failure, said, timed_out},
    redact::one_line,
};

/// What the API server accepts as the note of an event (events.k8s.io/v1).
const NOTE_LIMIT: usize = 1000;

impl Cluster {
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

fn gone(name: &str) -> Failure {
    Failure::new(
        Reason::InternalError,
        format!("The ServiceNowCredential {name:?} is gone, so nothing is written for it."),
    )
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
