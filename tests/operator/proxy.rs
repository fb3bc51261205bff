//! `HTTPS_PROXY` is for instances, and for the API server only what the kubeconfig says.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use testkit::{operator::Operator, servicenow::Simulator};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::support::Scene;

/// A proxy that only knows CONNECT (RFC 9110, section 9.3.6), and counts.
async fn proxy() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (
        listener.local_addr().unwrap(),
        Arc::new(AtomicUsize::new(0)),
    );
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(tunnel(client));
        }
    });
    (address, count)
}

async fn tunnel(client: TcpStream) -> Option<()> {
    let mut client = BufReader::new(client);
    let mut request = String::new();
    client.read_line(&mut request).await.ok()?;
    let mut header = String::new();
    while client.read_line(&mut header).await.ok()? > 2 {
        header.clear();
    }
    let target = request.strip_prefix("CONNECT ")?.split(' ').next()?;
    let mut server = TcpStream::connect(target).await.ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

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
