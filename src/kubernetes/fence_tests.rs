//! Who leads no more writes nothing: every write asks the fence right before it starts.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Instant,
};

use jiff::Timestamp;
use kube::{Client, client::Body};
use serde_json::json;

use super::{Cluster, Fence};
use crate::{
    api::{
        CreationPolicy, Reason, ServiceNowCredentialSpec, ServiceNowCredentialStatus, Workload,
        WorkloadKind,
    },
    decide::{
        Credential, Failure, Name, Transition,
        observed::{Version, WriteOutcome},
        ownership::{Desired, TargetWrite},
        restarts::Restart,
        template::{self, Variables},
    },
    micro_time,
    servicenow::AccessToken,
};

/// The verbs and last path segments of the writes that an API was sent.
type Writes = Arc<Mutex<Vec<String>>>;

/// A Kubernetes API that answers every read with the Secret of [`credential`], and every write
/// with an object.
fn api() -> (Client, Writes) {
    let writes = Writes::default();
    let seen = writes.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let path = request.uri().path().rsplit('/').next().unwrap_or_default();
        if request.method() != http::Method::GET {
            let write = format!("{} {path}", request.method());
            seen.lock().unwrap().push(write);
        }
        let resource = request.uri().path().contains("servicenowcredentials");
        let uid = if resource { "uid" } else { "secret-uid" };
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "itsm", "namespace": "team-a", "uid": uid, "resourceVersion": "7",
                "ownerReferences": [{
                    "apiVersion": "snowcred.dev/v1alpha1", "kind": "ServiceNowCredential",
                    "name": "itsm", "uid": "uid", "controller": true,
                }],
                "managedFields": [{
                    "manager": "servicenow-credential-operator/itsm", "operation": "Apply",
                    "fieldsV1": {"f:data": {"f:token": {}}},
                }],
            },
        });
        async move {
            Ok::<_, Infallible>(http::Response::new(Body::from(
                object.to_string().into_bytes(),
            )))
        }
    });
    (Client::new(service, "default"), writes)
}

fn credential() -> Credential {
    Credential {
        name: Name::new("team-a", "itsm"),
        uid: "uid".to_owned(),
        generation: 1,
        resource_version: "1".to_owned(),
        created_at: Timestamp::UNIX_EPOCH,
        deleting: false,
        finalizer: false,
        renew_request: None,
        spec: Ok(ServiceNowCredentialSpec::default().into()),
        status: Default::default(),
    }
}

fn desired() -> Desired {
    let variables = Variables {
        token: &AccessToken::parse("token").unwrap(),
        scope: "",
        expires_at: Timestamp::UNIX_EPOCH,
        instance_url: "https://dev1.service-now.com",
        client_id: "id",
    };
    Desired {
        name: "itsm".to_owned(),
        owned: true,
        type_: "Opaque".to_owned(),
        labels: Default::default(),
        annotations: Default::default(),
        data: template::render(&Default::default(), &variables).unwrap(),
    }
}

fn target_writes() -> [TargetWrite; 4] {
    [
        TargetWrite::Create(desired()),
        TargetWrite::Apply {
            uid: "secret-uid".to_owned(),
            desired: desired(),
        },
        TargetWrite::Replace {
            version: Version {
                uid: "secret-uid".to_owned(),
                resource_version: "7".to_owned(),
            },
            desired: desired(),
            dropped: Default::default(),
        },
        TargetWrite::Merge {
            uid: "secret-uid".to_owned(),
            desired: desired(),
        },
    ]
}

/// Tries everything that writes; returns the failures.
async fn write_everything(cluster: &Cluster) -> Vec<Failure> {
    let credential = credential();
    let mut failures = Vec::new();
    for write in target_writes() {
        match cluster.write_target(&credential, &write).await {
            WriteOutcome::Failed(failure) => failures.push(failure),
            WriteOutcome::Done(_) | WriteOutcome::Changed | WriteOutcome::Conflict(_) => {}
        }
    }
    for policy in [CreationPolicy::Owner, CreationPolicy::Merge] {
        let removed = cluster.remove_target(&credential, "itsm", "secret-uid", policy);
        failures.extend(removed.await.err());
    }
    failures.extend(cluster.set_finalizer(&credential, true).await.err());
    let workload = Workload {
        kind: WorkloadKind::Deployment,
        name: "sync".to_owned(),
    };
    let restart = cluster.restart(&credential, &workload, Timestamp::UNIX_EPOCH);
    if let Restart::Failed(failure) = restart.await {
        failures.push(failure);
    }
    let status = ServiceNowCredentialStatus::default();
    failures.extend(cluster.write_status(&credential, &status).await.err());
    let transition = Transition {
        reason: Reason::AccessDenied,
        message: "refused".to_owned(),
        is_failure: true,
    };
    let now = micro_time(Timestamp::UNIX_EPOCH);
    cluster.publish(&credential, &transition, now).await;
    failures
}

fn cluster(client: Client, fence: Fence) -> Cluster {
    Cluster::new(client, "test".to_owned(), fence)
}

#[tokio::test]
async fn who_leads_writes() {
    let (client, writes) = api();
    let failures = write_everything(&cluster(client, Fence::open())).await;
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(
        *writes.lock().unwrap(),
        [
            "POST secrets",
            "PATCH itsm",
            "PATCH itsm",
            "PATCH itsm",
            "DELETE itsm",
            "PATCH itsm",
            "PATCH itsm",
            "PATCH sync",
            "PATCH status",
            "POST events",
        ]
    );
}

#[tokio::test]
async fn no_write_starts_after_the_renew_deadline_and_each_says_why() {
    let (client, writes) = api();
    let fence = Fence::open();
    let cluster = cluster(client, fence.clone());
    fence.open_until(Instant::now());
    let failures = write_everything(&cluster).await;
    assert_eq!(writes.lock().unwrap().as_slice(), [] as [&str; 0]);
    assert_eq!(failures.len(), 9, "all but the event say so: {failures:?}");
    for failure in failures {
        assert!(failure.message().contains("leads no more"), "{failure}");
    }
}

#[tokio::test]
async fn who_does_not_lead_yet_writes_nothing() {
    let (client, writes) = api();
    write_everything(&cluster(client, Fence::closed())).await;
    assert_eq!(writes.lock().unwrap().as_slice(), [] as [&str; 0]);
}
