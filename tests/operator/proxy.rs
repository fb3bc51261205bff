//! `HTTPS_PROXY` is for instances, and for the API server only what the kubeconfig says.

use std::{sync::atomic::Ordering, time::Duration};

use testkit::{operator::Operator, servicenow::Simulator};

use crate::support::{Scene, tunnel::proxy};

#[tokio::test]
async fn instances_are_reached_through_the_proxy_and_the_api_server_is_not() {
    let scene = Scene::with_instance(Simulator::start_tls().await, Duration::from_secs(1800)).await;
    let origin = scene.instance.origin();
    let host = origin.trim_start_matches("https://");
    let (address, tunnels) = proxy().await;
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.pem");
    std::fs::write(&bundle, scene.instance.ca_pem().unwrap()).unwrap();
    let mut options = scene.options(&[&format!("--allowed-hosts={host}")]);
    let bundle = bundle.display().to_string();
    options.environment = vec![
        ("SSL_CERT_FILE".to_owned(), bundle),
        ("HTTPS_PROXY".to_owned(), format!("http://{address}")),
    ];
    let operator = Operator::start(&options).await;
    assert_eq!(
        tunnels.load(Ordering::SeqCst),
        0,
        "the API server was reached directly"
    );
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    assert_eq!(tunnels.load(Ordering::SeqCst), 1);
    drop(operator);
    // NO_PROXY takes the instance out again.
    let before = tunnels.load(Ordering::SeqCst);
    options
        .environment
        .push(("NO_PROXY".to_owned(), "localhost".to_owned()));
    let _operator = Operator::start(&options).await;
    scene.create("direct", scene.spec()).await;
    scene.await_synced("direct").await;
    assert_eq!(tunnels.load(Ordering::SeqCst), before);
}
