//! The state in which the operator has done what there was to do.

use std::time::Duration;

use kube::ResourceExt as _;
use serde_json::{Value, json};
use servicenow_credential_operator::api::ServiceNowCredential;

use crate::{
    alike::without_history,
    kept::record_of,
    support::{Scene, condition, end::end_of, eventually},
    workload,
    world::NAME,
};

/// What nothing changes in is settled.
const QUIET: Duration = Duration::from_millis(300);

/// The end of a scene in which the operator has seen the spec and nothing changes any more, without
/// what any history leaves behind; and the record of what stands there then.
pub(crate) async fn settled(scene: &Scene) -> (Value, Value) {
    eventually("the resource is settled", async || {
        let resource = scene.get(NAME).await;
        let status = resource.status.as_ref()?;
        let seen = status.observed_generation == resource.metadata.generation;
        let asked = resource
            .annotations()
            .get("snowcred.dev/renew-requested-at");
        let handled = asked.is_none() || status.handled_renew_request.as_ref() == asked;
        let (synced, reason, _) = condition(&resource, "Synced")?;
        let handled = handled || reason == "Suspended";
        let well = scene.instance.fault().is_none() && synced == "True";
        if !seen || !handled || reason == "Pending" || well && !is_tried_out(&resource) {
            return None;
        }
        let end = end_of(scene).await;
        tokio::time::sleep(QUIET).await;
        let still = end_of(scene).await;
        let mut record = record_of(status);
        if end != still || record_of(scene.get(NAME).await.status.as_ref()?) != record {
            return None;
        }
        record["restart"] = json!(resource.spec.restart);
        record["restarted"] = workload::restarted_at(scene).await;
        Some((without_history(end), record))
    })
    .await
}

/// Whether the token in the Secret has been tried out, where it is to be.
fn is_tried_out(resource: &ServiceNowCredential) -> bool {
    let status = resource.status.as_ref();
    let Some(token) = status.and_then(|status| status.token.as_ref()?.sha256.as_ref()) else {
        return true;
    };
    resource.spec.verify.is_none()
        || condition(resource, "Verified").is_some_and(|(.., told)| told.contains(&token[..8]))
}
