//! Every fault, as a client meets it.

use std::{io::ErrorKind, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use testkit::servicenow::{ExpiresIn, Fault, RetryAfter, Simulator};
use tokio::time::{Instant, timeout};

use crate::wire::{
    Answer, GRANT, ID, SECRET, ask, ask_as, ask_by_form, exchange, instance, request, token_request,
};

async fn on_a_bad_day(fault: Fault) -> (Simulator, Answer) {
    let instance = instance().await;
    instance.set_fault(Some(fault));
    let answer = ask(&instance).await;
    (instance, answer)
}

async fn elsewhere(instance: &Simulator) -> std::io::Result<Answer> {
    exchange(
        instance,
        &request("GET", "/api/now/table/sys_user", &[], ""),
    )
    .await
}

#[tokio::test]
async fn faults_of_the_whole_instance_are_met_on_every_path() {
    let cases = [
        (
            Fault::HibernationPage,
            200,
            "snow_adc",
            "Instance Hibernating page",
        ),
        (Fault::BadGateway, 502, "snow_adc", "502 Bad Gateway"),
        (Fault::Maintenance, 503, "ServiceNow", "being upgraded"),
    ];
    for (fault, status, server, text) in cases {
        let (instance, answer) = on_a_bad_day(fault).await;
        for answer in [answer, elsewhere(&instance).await.unwrap()] {
            assert_eq!(
                (answer.status, answer.header("Server")),
                (status, Some(server))
            );
            assert_eq!(
                answer.header("Content-Type"),
                Some("text/html; charset=utf-8")
            );
            assert!(answer.body.contains(text), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_login_page_is_met_at_the_token_endpoint_only() {
    let (instance, answer) = on_a_bad_day(Fault::LoginPage).await;
    assert_eq!(
        (answer.status, answer.header("Content-Type")),
        (200, Some("text/html; charset=utf-8"))
    );
    assert!(answer.body.contains("Log in"));
    assert_eq!(elsewhere(&instance).await.unwrap().status, 401);
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back_in_every_form_or_not_at_all() {
    let delay = Duration::from_secs(90);
    let cases = [
        (None, None),
        (Some(RetryAfter::Seconds(30)), Some("30")),
        (
            Some(RetryAfter::HttpDate(delay)),
            Some("Tue, 01 Jan 2030 00:01:30 GMT"),
        ),
        (Some(RetryAfter::Raw("soon".to_owned())), Some("soon")),
    ];
    let instance = instance().await;
    instance.clock().freeze();
    let midnight: jiff::Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
    instance.advance(
        midnight
            .duration_since(instance.clock().now())
            .unsigned_abs(),
    );
    for (retry_after, header) in cases {
        instance.set_fault(Some(Fault::RateLimited { retry_after }));
        let answer = ask(&instance).await;
        assert_eq!((answer.status, answer.header("Retry-After")), (429, header));
        assert_eq!(answer.header("X-RateLimit-Limit"), Some("100"));
        assert_eq!(answer.header("X-RateLimit-Reset"), Some("1893459600"));
        assert!(answer.header("X-RateLimit-Rule").is_some());
        assert_eq!(answer.json()["error"]["message"], "Rate limit exceeded");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_instance_takes_the_request_and_never_answers() {
    let instance = instance().await;
    instance.set_fault(Some(Fault::Hang));
    let asking = timeout(Duration::from_secs(86_400), ask(&instance));
    let (answer, ()) = tokio::join!(asking, instance.wait_for_token_requests(1));
    assert!(answer.is_err());
    let seen = instance.requests();
    assert_eq!(
        (seen[0].client_id.as_deref(), seen[0].status),
        (Some(ID), None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_brings_the_answer_one_byte_at_a_time() {
    let start = Instant::now();
    let (instance, answer) = on_a_bad_day(Fault::SlowDrip {
        pause: Duration::from_secs(1),
    })
    .await;
    assert!(instance.is_valid(&answer.token()));
    assert!(start.elapsed() >= Duration::from_secs(answer.body.len() as u64));
}

#[tokio::test(start_paused = true)]
async fn a_delayed_answer_is_right_but_its_token_has_aged() {
    let start = Instant::now();
    let (instance, answer) = on_a_bad_day(Fault::Delay(Duration::from_secs(20))).await;
    assert!(start.elapsed() >= Duration::from_secs(20));
    assert!(instance.is_valid(&answer.token()));
}

#[tokio::test]
async fn a_reset_ends_the_connection_without_a_word() {
    let instance = instance().await;
    instance.set_fault(Some(Fault::Reset));
    let sent = exchange(&instance, &token_request(ID, SECRET, GRANT)).await;
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        elsewhere(&instance).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(instance.token_requests(), 1);
}

#[tokio::test]
async fn truncated_json_comes_in_a_whole_http_answer() {
    let (_, answer) = on_a_bad_day(Fault::TruncatedJson).await;
    assert_eq!(
        (answer.status, answer.header("Content-Type")),
        (200, Some("application/json"))
    );
    assert_eq!(
        answer.header("Content-Length"),
        Some(answer.body.len().to_string().as_str())
    );
    assert!(
        serde_json::from_str::<Value>(&answer.body)
            .unwrap_err()
            .is_eof()
    );
}

#[tokio::test]
async fn a_truncated_body_is_shorter_than_announced() {
    let (_, answer) = on_a_bad_day(Fault::TruncatedBody).await;
    let announced: usize = answer.header("Content-Length").unwrap().parse().unwrap();
    assert_eq!(answer.body.len(), announced / 2);
    assert!(answer.body.starts_with('{'));
}

#[tokio::test]
async fn a_huge_body_is_valid_and_has_no_length() {
    let size = 10 * 1024 * 1024;
    let (instance, answer) = on_a_bad_day(Fault::HugeBody(size)).await;
    assert_eq!(answer.header("Content-Length"), None);
    assert!(answer.body.len() as u64 > size);
    assert!(instance.is_valid(&answer.token()));
}

#[tokio::test]
async fn a_redirect_leads_where_it_was_told() {
    let location = "https://login.example.com/sso".to_owned();
    let (_, answer) = on_a_bad_day(Fault::Redirect {
        location: location.clone(),
    })
    .await;
    assert_eq!(
        (answer.status, answer.header("Location")),
        (302, Some(location.as_str()))
    );
}

#[tokio::test]
async fn single_fields_of_the_answer_can_be_wrong() {
    let (_, answer) = on_a_bad_day(Fault::NoAccessToken).await;
    assert_eq!(
        (answer.status, answer.json().get("access_token")),
        (200, None)
    );
    let (_, answer) = on_a_bad_day(Fault::TokenType("mac".to_owned())).await;
    assert_eq!(answer.json()["token_type"], "mac");
    let odd = "two\nlines";
    let (instance, answer) = on_a_bad_day(Fault::AccessToken(odd.to_owned())).await;
    assert_eq!(answer.token(), odd);
    assert!(!instance.is_valid(odd));
}

#[tokio::test]
async fn expires_in_can_be_anything() {
    let cases = [
        (ExpiresIn::Missing, Value::Null),
        (ExpiresIn::String, json!("1799")),
        (ExpiresIn::Zero, json!(0)),
        (ExpiresIn::Negative, json!(-1)),
        (ExpiresIn::Enormous, json!(i64::MAX)),
        (ExpiresIn::Value(json!(12.5)), json!(12.5)),
    ];
    for (how, expected) in cases {
        let (instance, answer) = on_a_bad_day(Fault::ExpiresIn(how)).await;
        assert_eq!(answer.expires_in(), expected);
        assert!(instance.is_valid(&answer.token()));
    }
}

#[tokio::test]
async fn refusals_can_be_had_without_a_wrong_setup() {
    assert!(on_a_bad_day(Fault::AccessDenied).await.1.is_access_denied());
    let (_, answer) = on_a_bad_day(Fault::UnauthorizedClient).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (400, &json!("unauthorized_client"))
    );
    let (_, answer) = on_a_bad_day(Fault::InvalidRequest(418, "{}".to_owned())).await;
    assert_eq!((answer.status, answer.body.as_str()), (418, "{}"));
}

#[tokio::test]
async fn an_echo_gives_the_credentials_away_in_every_form() {
    let instance = instance().await;
    instance.set_fault(Some(Fault::EchoAuthorization));
    let pair = format!("{ID}:{SECRET}");
    let url_encoded = "s3cr%2Ft%2Bwith+%3Dodd%3Asigns";
    let by_header = ask(&instance).await;
    let by_form = ask_by_form(
        &instance,
        &format!("{GRANT}&client_id={ID}&client_secret={url_encoded}"),
    )
    .await;
    let cases = [
        (
            by_header,
            [STANDARD.encode(&pair), pair, url_encoded.to_owned()],
        ),
        (
            by_form,
            [
                STANDARD.encode(SECRET),
                SECRET.to_owned(),
                url_encoded.to_owned(),
            ],
        ),
    ];
    for (answer, secrets) in cases {
        let description = answer.json()["error_description"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(answer.status, 401);
        assert!(
            secrets.iter().all(|secret| description.contains(secret)),
            "{description}"
        );
    }
}

#[tokio::test]
async fn faults_that_change_a_token_leave_a_refusal_as_it_is() {
    let instance = instance().await;
    instance.set_fault(Some(Fault::NoAccessToken));
    assert!(
        ask_as(&instance, ID, "wrong", GRANT)
            .await
            .is_access_denied()
    );
}

#[tokio::test]
async fn announced_faults_come_in_order_and_then_the_standing_one_is_back() {
    let instance = instance().await;
    instance.set_fault(Some(Fault::Maintenance));
    instance.fault_times(Fault::AccessDenied, 1);
    instance.fault_times(Fault::BadGateway, 2);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&instance).await.status);
    }
    assert_eq!(statuses, [401, 502, 502, 503]);
    instance.set_fault(None);
    assert_eq!(ask(&instance).await.status, 200);
}

#[tokio::test]
async fn ending_the_trouble_ends_what_was_announced_too() {
    let instance = instance().await;
    instance.fault_times(Fault::AccessDenied, 5);
    instance.set_fault(None);
    assert_eq!(ask(&instance).await.status, 200);
}

#[tokio::test]
async fn an_announced_fault_is_for_token_requests_only() {
    let instance = instance().await;
    instance.fault_times(Fault::Maintenance, 1);
    assert_eq!(elsewhere(&instance).await.unwrap().status, 401);
    assert_eq!(ask(&instance).await.status, 503);
    assert_eq!(ask(&instance).await.status, 200);
}
