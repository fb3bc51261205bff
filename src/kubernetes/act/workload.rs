//! Restarts of workloads.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::{
    Error, Resource,
    api::{Patch, PatchParams, Request},
};
use serde_json::json;

use super::Cluster;
use crate::{
    FIELD_MANAGER,
    api::{Workload, WorkloadKind},
    decide::{observed::Credential, ownership::timestamp, restarts::Restart},
    kubernetes::error::{Call, code, failure, timed_out},
};

/// Says in a pod template when the token was asked for that its pods were restarted for (RFC 3339).
const RESTARTED_AT: &str = "snowcred.dev/restarted-at";

impl Cluster {
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
}
