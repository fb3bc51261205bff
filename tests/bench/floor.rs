//! The floor: the same HTTP clients, at the same concurrency, making exactly one read, one token
//! request and two writes for each resource, of the very form that the operator writes.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::{HeaderValue, header::ACCEPT};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Client, Resource, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams, Request},
};
use serde_json::{Value, json};
use servicenow_credential_operator::{FIELD_MANAGER, api::ServiceNowCredential};
use testkit::cluster::client;
use tokio::task::JoinSet;

use crate::fleet::{Fleet, NAMESPACE, SECRET, client_id, client_name};

/// As the operator reconciles, without settings.
const CONCURRENCY: usize = 32;

/// How long the fleet takes without an operator.
pub(crate) async fn run(fleet: &Fleet) -> Duration {
    let kubernetes = client(&fleet.kubeconfig).await.unwrap();
    let instance = reqwest::Client::new();
    let url = format!("{}/oauth_token.do", fleet.instance.origin());
    let resources = fleet.resources().list(&ListParams::default()).await;
    let resources = resources.unwrap().items.into_iter().enumerate();
    let resources = Arc::new(Mutex::new(resources));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (kubernetes, instance) = (kubernetes.clone(), instance.clone());
        let (url, resources) = (url.clone(), resources.clone());
        workers.spawn(async move {
            let next = || resources.lock().unwrap().next();
            while let Some((number, resource)) = next() {
                one(&kubernetes, &instance, &url, number, &resource).await;
            }
        });
    }
    workers.join_all().await;
    begun.elapsed()
}

async fn one(
    kubernetes: &Client,
    instance: &reqwest::Client,
    url: &str,
    number: usize,
    resource: &ServiceNowCredential,
) {
    let read = Request::new(Secret::url_path(&(), Some(NAMESPACE)))
        .get(&client_name(number), &Default::default())
        .unwrap();
    let read = kubernetes.request_text(read).await.unwrap();
    let read: Secret = serde_json::from_str(&read).unwrap();
    let answer = instance
        .post(url)
        .basic_auth(client_id(number), Some(SECRET))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials")
        .send()
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let written = write(kubernetes, resource, token).await;
    write_status(kubernetes, resource, &read, &written).await;
}

async fn write(kubernetes: &Client, resource: &ServiceNowCredential, token: &str) -> Value {
    let name = resource.name_any();
    let now = Timestamp::now();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
            "annotations": {
                "snowcred.dev/credential": name,
                "snowcred.dev/issued-at": format!("{now:.6}"),
                "snowcred.dev/expires-at": format!("{now:.6}"),
            },
            "ownerReferences": [{
                "apiVersion": ServiceNowCredential::api_version(&()),
                "kind": ServiceNowCredential::kind(&()),
                "name": name,
                "uid": resource.uid(),
                "controller": true,
                "blockOwnerDeletion": false,
            }],
        },
        "type": "Opaque",
        "stringData": {"token": token},
    });
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let request = Request::new(Secret::url_path(&(), Some(NAMESPACE)))
        .create(&params, secret.to_string().into_bytes())
        .unwrap();
    metadata(kubernetes, request).await
}

async fn write_status(
    kubernetes: &Client,
    resource: &ServiceNowCredential,
    read: &Secret,
    written: &Value,
) {
    let name = resource.name_any();
    let now = format!("{:.6}", Timestamp::now());
    let digest = "0".repeat(64);
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": format!("The Secret {name:?} holds a token that is valid until {now}."),
            "observedGeneration": 1,
            "lastTransitionTime": format!("{:.0}", Timestamp::now()),
        })
    };
    let status = json!({
        "observedGeneration": 1,
        "conditions": [condition("Ready", "TokenValid"), condition("Synced", "TokenSynced")],
        "token": {"issuedAt": now, "expiresAt": now, "renewalTime": now, "sha256": digest},
        "target": {
            "name": name,
            "uid": written["uid"],
            "resourceVersion": written["resourceVersion"],
            "creationPolicy": "Owner",
            "sha256": digest,
        },
        "observed": [{
            "kind": "Secret",
            "name": read.name_any(),
            "uid": read.uid(),
            "resourceVersion": read.resource_version(),
        }],
    });
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": resource.uid()},
        {"op": "add", "path": "/status", "value": status},
    ]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch).unwrap());
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let request = Request::new(ServiceNowCredential::url_path(&(), Some(NAMESPACE)))
        .patch_subresource("status", &name, &params, &patch)
        .unwrap();
    metadata(kubernetes, request).await;
}

/// What was written, without its content.
async fn metadata(kubernetes: &Client, mut request: http::Request<Vec<u8>>) -> Value {
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let accept = HeaderValue::from_static(accept);
    request.headers_mut().insert(ACCEPT, accept);
    let mut object: Value = kubernetes.request(request).await.unwrap();
    object["metadata"].take()
}
