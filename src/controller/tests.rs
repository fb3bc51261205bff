//! What the real API cannot be made to do: a bug of our own.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::{Client, client::Body};

use super::{Bounds, Controller, Parts, Scope};
use crate::{
    Clock,
    api::{AllowedHosts, ServiceNowCredentialSpec},
    decide::{Credential, Name, observed::Policy},
    kubernetes::{Cluster, Fence},
    servicenow::{TokenEndpoint, Urgency},
    telemetry::{Health, Metrics},
};

/// A clock that stands still, and panics when it is asked for the first time.
struct Trap(AtomicBool);

impl Clock for Trap {
    fn now(&self) -> Timestamp {
        assert!(self.0.swap(true, Ordering::SeqCst), "a bug of our own");
        Timestamp::UNIX_EPOCH
    }
}

/// A Kubernetes API that refuses everything.
fn refusing() -> Client {
    let service = tower::service_fn(|_: http::Request<Body>| async {
        let answer = http::Response::builder().status(500).body(Body::empty());
        Ok::<_, Infallible>(answer.unwrap())
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn a_panic_in_a_reconcile_is_caught_and_the_resource_is_tried_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = refusing();
    let parts = Parts {
        cluster: Cluster::new(client.clone(), "test".to_owned(), Fence::open()),
        client,
        endpoint: TokenEndpoint::new(Duration::from_secs(1)).unwrap(),
        clock: Arc::new(Trap(AtomicBool::new(false))),
        metrics: Arc::new(Metrics::new()),
        health: Arc::new(Health::default()),
    };
    let policy = Policy {
        allowed_hosts: AllowedHosts::default(),
        min_renew_interval: SignedDuration::from_secs(5),
    };
    let scope = Scope {
        namespaces: Vec::new(),
        selector: None,
    };
    let bounds = Bounds {
        concurrency: 1,
        instance_concurrency: 1,
    };
    let controller = Controller::new(parts, policy, scope, bounds);
    let name = Name::new("team-a", "itsm");
    let epoch = Timestamp::UNIX_EPOCH;
    controller.with_core(|core| {
        core.all_listed();
        core.lead();
        core.store.apply(Credential {
            name: name.clone(),
            uid: "uid".to_owned(),
            generation: 1,
            resource_version: "1".to_owned(),
            created_at: epoch,
            deleting: false,
            renew_request: None,
            spec: Ok(ServiceNowCredentialSpec::default().into()),
            status: Default::default(),
        });
        core.queue.wake(&name, Urgency::New);
        assert_eq!(core.take(epoch).as_ref(), Some(&name));
    });
    controller.reconcile_guarded(&name).await;
    controller.with_core(|core| {
        assert_eq!(core.reconciling(), 0, "its place is free again");
        let next = core.queue.next_timer().expect("it is tried again");
        assert!(
            next > epoch && next <= epoch + SignedDuration::from_secs(2),
            "{next}"
        );
    });
    let metrics = controller.metrics.print();
    assert!(
        metrics.contains("reconciles_total{outcome=\"InternalError\"} 1"),
        "{metrics}"
    );
}
