//! Bad input and bad days: each has its reason, the last good token stays, and nothing is retried
//! faster than it should be.

use std::time::Duration;

use serde_json::json;
use testkit::{
    operator::Operator,
    servicenow::{ExpiresIn, Fault, RetryAfter, Simulator},
};

use crate::support::{CLIENT_ID, Scene, eventually};

/// Asks for a renewal, and returns the message of the failure that it meets.
async fn fail_renewal(scene: &Scene, value: &str, reason: &str) -> String {
    scene.renew("itsm", value).await;
    scene.await_failure("itsm", reason).await
}

#[tokio::test]
async fn each_bad_day_has_its_reason_and_the_last_good_token_stays() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let options = scene.options(&["--min-renew-interval=1ms", "--request-timeout=1s"]);
    let _operator = Operator::start(&options).await;
    scene.create("itsm", scene.spec()).await;
    let token = scene.await_synced("itsm").await;
    let days = [
        (Fault::HibernationPage, "InstanceHibernating", "hibernating"),
        (Fault::LoginPage, "InvalidResponse", "web page"),
        (Fault::BadGateway, "InstanceUnavailable", "HTTP 502"),
        (Fault::Maintenance, "InstanceUnavailable", "HTTP 503"),
        (
            Fault::RateLimited {
                retry_after: Some(RetryAfter::Seconds(1)),
            },
            "RateLimited",
            "HTTP 429",
        ),
        (
            Fault::Hang,
            "InstanceUnavailable",
            "did not answer within 1 s",
        ),
        (Fault::Reset, "InstanceUnavailable", "without an answer"),
        (Fault::TruncatedJson, "InvalidResponse", "not the JSON"),
        (Fault::TruncatedBody, "InstanceUnavailable", "broke off"),
        (Fault::HugeBody(10 << 20), "InvalidResponse", "64 KiB"),
        (
            Fault::Redirect {
                location: "https://evil.example/".to_owned(),
            },
            "InvalidResponse",
            "redirect",
        ),
        (Fault::NoAccessToken, "InvalidResponse", "no access_token"),
        (
            Fault::ExpiresIn(ExpiresIn::Missing),
            "InvalidResponse",
            "expires_in",
        ),
        (
            Fault::ExpiresIn(ExpiresIn::Zero),
            "InvalidResponse",
            "expires_in",
        ),
        (
            Fault::ExpiresIn(ExpiresIn::Negative),
            "InvalidResponse",
            "expires_in",
        ),
        (
            Fault::TokenType("mac".to_owned()),
            "InvalidResponse",
            "token_type",
        ),
        (
            Fault::AccessToken("two words".to_owned()),
            "InvalidResponse",
            "bearer token",
        ),
        (
            Fault::UnauthorizedClient,
            "AccessDenied",
            "1) the client's Application Registry entry",
        ),
    ];
    for (number, (fault, reason, says)) in days.into_iter().enumerate() {
        let name = format!("{fault:?}");
        scene.instance.set_fault(Some(fault));
        let message = fail_renewal(&scene, &number.to_string(), reason).await;
        assert!(message.contains(says), "{name}: {message}");
        assert_eq!(scene.token("itsm").await.as_ref(), Some(&token), "{name}");
        scene
            .await_condition("itsm", "Ready", "True", "TokenValid")
            .await;
    }
    scene.instance.set_fault(None);
    scene.renew("itsm", "well again").await;
    scene.await_synced("itsm").await;
    assert_eq!(scene.instance.cookies_returned(), 0);
}

#[tokio::test]
async fn an_instance_that_is_down_is_unavailable_and_noticed_when_it_is_back() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    scene.instance.go_down().await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "InstanceUnavailable").await;
    assert!(message.contains(&scene.instance.origin()), "{message}");
    scene.instance.come_up().await;
    scene.await_synced("itsm").await;
}

#[tokio::test]
async fn an_instance_that_answers_nobody_slows_no_other_down() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let dead = Simulator::start().await;
    dead.set_fault(Some(Fault::Hang));
    // Fewer hands than resources that wait, and a wait that nothing in this test outlasts.
    let options = scene.options(&["--concurrency=2", "--request-timeout=10m"]);
    let _operator = Operator::start(&options).await;
    for number in 0..12 {
        let client = format!("client-{number}");
        let data = json!({"client-id": client, "client-secret": "secret"});
        scene.put_secret(&client, json!({"stringData": data})).await;
        let spec = json!({
            "instance": dead.origin(),
            "client": {"secretRef": {"name": client}},
        });
        scene.create(&format!("held-{number}"), spec).await;
    }
    eventually("as many requests as may be are under way", async || {
        (dead.token_requests() == 4).then_some(())
    })
    .await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    scene.renew("itsm", "and again").await;
    scene.await_synced("itsm").await;
    assert_eq!(dead.token_requests(), 4);
}

#[tokio::test]
async fn setup_faults_are_refused_with_the_checklist() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    scene.instance.set_property_enabled(false);
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "AccessDenied").await;
    assert!(
        message.contains("HTTP 401 (server_error: access_denied)"),
        "{message}"
    );
    scene
        .await_condition("itsm", "Ready", "False", "AccessDenied")
        .await;
    assert!(scene.secret("itsm").await.is_none());
}

#[tokio::test]
async fn a_one_off_refusal_among_good_answers_is_tried_once_more_and_nobody_is_told() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = Operator::start(&scene.options(&["--min-renew-interval=1ms"])).await;
    scene.create("itsm", scene.spec()).await;
    let first = scene.await_synced("itsm").await;
    scene.instance.fault_times(Fault::AccessDenied, 1);
    scene.renew("itsm", "1").await;
    assert_ne!(scene.token("itsm").await.unwrap(), first);
    assert_eq!(scene.instance.token_requests(), 3);
    assert_eq!(scene.events("itsm").await, []);
}

#[tokio::test]
async fn a_host_that_is_not_allowed_gets_nothing() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = scene.operator().await;
    let mut spec = scene.spec();
    spec["instance"] = json!("https://evil.example");
    scene.create("itsm", spec).await;
    let message = scene.await_failure("itsm", "HostNotAllowed").await;
    assert!(
        message.contains("https://evil.example") && message.contains("--allowed-hosts"),
        "{message}"
    );
}

#[tokio::test]
async fn plain_http_is_refused_without_the_flag_for_tests() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let mut options = scene.options(&[]);
    options
        .arguments
        .retain(|argument| argument != "--allow-insecure-http");
    let _operator = Operator::start(&options).await;
    scene.create("itsm", scene.spec()).await;
    scene.await_failure("itsm", "HostNotAllowed").await;
    assert_eq!(scene.instance.token_requests(), 0);
}

#[tokio::test]
async fn a_broken_template_is_named_by_key_and_position_and_nothing_is_asked() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = scene.operator().await;
    let mut spec = scene.spec();
    spec["target"] = json!({"data": {"good": "{{ token }}", "bad": "a\n{{ tokn }}"}});
    scene.create("itsm", spec).await;
    let message = scene.await_failure("itsm", "TemplateInvalid").await;
    assert!(
        message.contains("\"bad\"") && message.contains("line 2, column 4"),
        "{message}"
    );
    scene
        .change(
            "itsm",
            json!({"spec": {"target": {"data": {"bad": "{{ token }}"}}}}),
        )
        .await;
    scene
        .await_condition("itsm", "Synced", "True", "TokenSynced")
        .await;
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn an_instance_with_an_unknown_certificate_is_not_trusted() {
    let scene = Scene::with_instance(
        testkit::servicenow::Simulator::start_tls().await,
        Duration::from_secs(1800),
    )
    .await;
    let origin = scene.instance.origin();
    let allowed = format!("--allowed-hosts={}", origin.trim_start_matches("https://"));
    let operator = Operator::start(&scene.options(&[&allowed])).await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "TlsFailed").await;
    assert!(message.contains(&origin), "{message}");
    assert!(!operator.log().contains(CLIENT_ID));
    // With the CA among the trusted ones, it is.
    drop(operator);
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.pem");
    std::fs::write(&bundle, scene.instance.ca_pem().unwrap()).unwrap();
    let mut options = scene.options(&[&allowed]);
    let bundle = bundle.display().to_string();
    options
        .environment
        .push(("SSL_CERT_FILE".to_owned(), bundle));
    let _operator = Operator::start(&options).await;
    scene.await_synced("itsm").await;
}
