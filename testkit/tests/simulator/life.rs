//! Coming, going, and counting.

use std::{io::ErrorKind, time::Duration};

use testkit::servicenow::Simulator;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::wire::{GRANT, ID, SECRET, ask, exchange, instance, token_request};

#[tokio::test]
async fn an_instance_that_is_down_refuses_connections_and_comes_back_with_what_it_knew() {
    let instance = instance().await;
    let origin = instance.origin();
    let token = ask(&instance).await.token();
    for _ in 0..3 {
        instance.go_down().await;
        let refused = exchange(&instance, &token_request(ID, SECRET, GRANT)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        instance.come_up().await;
        assert_eq!(ask(&instance).await.token(), token);
    }
    assert_eq!(instance.origin(), origin);
}

/// A connection in use, whose server waits for the next request.
async fn kept_alive(instance: &Simulator) -> TcpStream {
    let mut stream = TcpStream::connect(instance.address()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: instance\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    stream
}

/// Reads to the end of the connection, which must come.
async fn ends(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    read.await.expect("the connection should end").unwrap();
}

#[tokio::test]
async fn going_down_closes_connections_that_are_kept_alive() {
    let instance = instance().await;
    let kept = kept_alive(&instance).await;
    instance.go_down().await;
    ends(kept).await;
}

#[tokio::test]
async fn dropping_the_simulator_closes_its_port() {
    let instance = instance().await;
    let address = instance.address();
    let kept = kept_alive(&instance).await;
    drop(instance);
    ends(kept).await;
    let refused = TcpStream::connect(address).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn requests_are_counted_and_dated_until_the_counters_are_reset() {
    let instance = instance().await;
    ask(&instance).await;
    instance.advance(Duration::from_secs(60));
    ask(&instance).await;
    let seen = instance.requests();
    assert_eq!(
        (
            instance.token_requests(),
            instance.issued_tokens(),
            seen.len()
        ),
        (2, 1, 2)
    );
    assert!(
        seen[1]
            .received_at
            .duration_since(seen[0].received_at)
            .as_secs()
            >= 60
    );
    assert!(seen[1].received - seen[0].received < Duration::from_secs(60));
    instance.reset_counters();
    assert_eq!(
        (
            instance.token_requests(),
            instance.issued_tokens(),
            instance.requests().len()
        ),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_test_can_wait_for_the_request_it_expects() {
    let instance = instance().await;
    let both = async {
        ask(&instance).await;
        ask(&instance).await;
    };
    tokio::join!(instance.wait_for_token_requests(2), both);
    assert_eq!(instance.token_requests(), 2);
}
