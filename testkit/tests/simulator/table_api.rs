//! Using the token for real.

use serde_json::json;
use testkit::servicenow::{RetryAfter, Simulator, TableFault};

use crate::wire::{Answer, ask, exchange, instance, request};

async fn get(instance: &Simulator, target: &str, token: &str) -> Answer {
    let bearer = format!("Authorization: Bearer {token}");
    exchange(instance, &request("GET", target, &[&bearer], ""))
        .await
        .unwrap()
}

const USERS: &str = "/api/now/table/sys_user?sysparm_limit=1";

#[tokio::test]
async fn a_valid_token_gets_records() {
    let instance = instance().await;
    instance.add_user("abel.tuter", "pass");
    let token = ask(&instance).await.token();
    let answer = get(&instance, USERS, &token).await;
    assert_eq!(
        (answer.status, answer.header("X-Is-Logged-In")),
        (200, Some("true"))
    );
    assert_eq!(answer.json()["result"].as_array().unwrap().len(), 1);
    assert_eq!(answer.json()["result"][0]["user_name"], "integration.user");
    assert_eq!(answer.header("X-Total-Count"), Some("2"));
    let other = get(&instance, "/api/now/table/incident", &token).await;
    assert_eq!(other.json()["result"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_missing_unknown_expired_or_revoked_token_is_not_authenticated() {
    let instance = instance().await;
    let expired = ask(&instance).await.token();
    instance.advance(std::time::Duration::from_secs(1801));
    let revoked = ask(&instance).await.token();
    instance.revoke(&revoked);
    let missing = exchange(&instance, &request("GET", USERS, &[], ""))
        .await
        .unwrap();
    let mut answers = vec![missing];
    for token in ["unknown", &expired, &revoked] {
        answers.push(get(&instance, USERS, token).await);
    }
    for answer in answers {
        assert_eq!(answer.status, 401);
        assert_eq!(
            answer.header("WWW-Authenticate"),
            Some("BASIC realm=\"Service-now\"")
        );
        let error = json!({"message": "User Not Authenticated", "detail": "Required to provide Auth information"});
        assert_eq!(answer.json(), json!({"error": error, "status": "failure"}));
    }
}

#[tokio::test]
async fn a_valid_token_may_still_not_be_enough() {
    let instance = instance().await;
    let token = ask(&instance).await.token();
    let cases = [
        (
            TableFault::NoAuthProfile,
            401,
            "Required to provide Auth information",
        ),
        (
            TableFault::MissingScope("read".to_owned()),
            403,
            "Missing required api access scope: read",
        ),
        (TableFault::ApiAcl, 403, "Failed API level ACL Validation"),
        (
            TableFault::InsufficientRights,
            403,
            "Insufficient rights to query records",
        ),
        (
            TableFault::RateLimited {
                retry_after: Some(RetryAfter::Seconds(7)),
            },
            429,
            "Rate limit of 100 requests per hour for Table API exceeded",
        ),
    ];
    for (fault, status, detail) in cases {
        let limited = matches!(fault, TableFault::RateLimited { .. });
        instance.set_table_fault(Some(fault));
        let answer = get(&instance, USERS, &token).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["detail"].as_str()),
            (status, Some(detail))
        );
        assert_eq!(answer.header("Retry-After"), limited.then_some("7"));
    }
    instance.set_table_fault(None);
    assert_eq!(get(&instance, USERS, &token).await.status, 200);
}

#[tokio::test]
async fn an_unknown_path_is_a_page_not_found() {
    assert_eq!(get(&instance().await, "/elsewhere", "t").await.status, 404);
}
