//! Who gets a token, and what everyone else is told.

use serde_json::json;
use testkit::servicenow::{AuthMethod, MissingUser, TokenFormat};

use crate::wire::{
    Answer, GRANT, ID, SECRET, ask, ask_as, ask_by_form, basic, client, exchange, instance, post,
    request,
};

const FORM_SECRET: &str = "s3cr%2Ft%2Bwith+%3Dodd%3Asigns";

#[tokio::test]
async fn a_token_answer_has_the_documented_fields_and_headers() {
    let instance = instance().await;
    instance.clock().freeze();
    let answer = ask(&instance).await;
    let token = answer.token();
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({"access_token": token, "scope": "useraccount", "token_type": "Bearer", "expires_in": 1800})
    );
    assert_eq!(token.len(), 86);
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    assert_eq!(answer.header("Server"), Some("ServiceNow"));
    assert_eq!(
        answer.header("Cache-Control"),
        Some("no-cache,no-store,must-revalidate,max-age=-1")
    );
    assert_eq!(answer.header("Pragma"), Some("no-store,no-cache"));
    assert_eq!(answer.header("X-Is-Logged-In"), Some("false"));
    assert!(
        answer
            .header("Set-Cookie")
            .unwrap()
            .starts_with("JSESSIONID=")
    );
}

#[tokio::test]
async fn a_running_clock_makes_the_announced_lifetime_one_second_short() {
    assert_eq!(ask(&instance().await).await.expires_in(), json!(1799));
}

#[tokio::test]
async fn credentials_in_the_header_and_in_the_form_get_the_same_token() {
    let instance = instance().await;
    let by_header = ask(&instance).await;
    let by_form = ask_by_form(
        &instance,
        &format!("{GRANT}&client_id={ID}&client_secret={FORM_SECRET}"),
    )
    .await;
    assert_eq!(by_header.token(), by_form.token());
    let seen: Vec<_> = instance
        .requests()
        .iter()
        .map(|seen| (seen.auth, seen.client_id.clone()))
        .collect();
    let id = Some(ID.to_owned());
    assert_eq!(
        seen,
        [
            (Some(AuthMethod::Basic), id.clone()),
            (Some(AuthMethod::Body), id)
        ]
    );
}

#[tokio::test]
async fn a_client_may_be_taken_from_the_header_only_or_from_the_form_only() {
    let instance = instance().await;
    let form = format!("{GRANT}&client_id={ID}&client_secret={FORM_SECRET}");
    for (only, statuses) in [
        (AuthMethod::Basic, [200, 401]),
        (AuthMethod::Body, [401, 200]),
    ] {
        instance.update_client(ID, |client| client.authentication = Some(only));
        let (by_header, by_form) = (ask(&instance).await, ask_by_form(&instance, &form).await);
        assert_eq!([by_header.status, by_form.status], statuses, "{only:?}");
        for refused in [by_header, by_form].iter().filter(|a| a.status == 401) {
            assert!(refused.is_access_denied(), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_refresh_token_that_comes_back_is_counted_wherever_it_stands() {
    let instance = instance().await;
    instance.add_user("abel.tuter", "pass");
    let password = "grant_type=password&username=abel.tuter&password=pass";
    let answer = ask_as(&instance, ID, SECRET, password).await;
    let token = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(instance.refresh_tokens(), std::slice::from_ref(&token));
    assert_eq!(instance.refresh_tokens_returned(), 0);
    let form = format!("grant_type=refresh_token&refresh_token={token}");
    let bearer = format!("Authorization: Bearer {token}");
    for (count, request) in [
        post("/oauth_token.do", &[&basic(ID, SECRET)], &form),
        request("GET", "/api/now/table/sys_user", &[&bearer], ""),
        request(
            "GET",
            &format!("/oauth_revoke_token.do?token={token}"),
            &[],
            "",
        ),
    ]
    .iter()
    .enumerate()
    {
        exchange(&instance, request).await.unwrap();
        assert_eq!(instance.refresh_tokens_returned(), count + 1);
    }
}

#[tokio::test]
async fn the_password_grant_returns_a_refresh_token_even_with_the_property_off() {
    let instance = instance().await;
    instance.add_user("abel.tuter", "pass");
    instance.set_property_enabled(false);
    let password =
        |password| format!("grant_type=password&username=abel.tuter&password={password}");
    let answer = ask_as(&instance, ID, SECRET, &password("pass")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["refresh_token"].is_string());
    assert!(ask(&instance).await.is_access_denied());
    assert!(
        ask_as(&instance, ID, SECRET, &password("wrong"))
            .await
            .is_access_denied()
    );
}

#[tokio::test]
async fn a_client_without_application_user_is_refused_as_its_release_does() {
    let instance = instance().await;
    instance.add_client(client().without_application_user());
    assert!(ask(&instance).await.is_access_denied());
    instance.set_missing_user(MissingUser::UnauthorizedClient);
    let answer = ask(&instance).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"], "unauthorized_client");
    assert!(
        answer
            .body
            .contains("integration user is not configured for OAuth:")
    );
}

#[tokio::test]
async fn wrong_setups_cannot_be_told_apart_from_outside_but_in_the_instances_log() {
    let instance = instance().await;
    let mut refused = vec![
        ask_as(&instance, "nobody", SECRET, GRANT).await,
        ask_as(&instance, ID, "wrong", GRANT).await,
        ask_as(&instance, ID, &format!("{SECRET}\n"), GRANT).await,
        ask_as(&instance, ID, SECRET, &format!("{GRANT}&scope=unlinked")).await,
        ask_by_form(&instance, GRANT).await,
    ];
    instance.update_client(ID, |client| client.user_active = false);
    refused.push(ask(&instance).await);
    instance.update_client(ID, |client| client.active = false);
    refused.push(ask(&instance).await);
    assert!(refused.iter().all(Answer::is_access_denied), "{refused:?}");
    let logs: Vec<_> = instance
        .requests()
        .into_iter()
        .filter_map(|seen| seen.oauth_log)
        .collect();
    assert_eq!(
        logs,
        [
            "no such client",
            "wrong client secret",
            "wrong client secret",
            "invalid_scope: \"unlinked\" is not linked to the client",
            "no client id and secret",
            "the OAuth Application User is not active",
            "the client is not active",
        ]
    );
    assert_eq!(instance.issued_tokens(), 0);
}

#[tokio::test]
async fn linked_scopes_are_granted_and_named() {
    let instance = instance().await;
    instance.add_client(client().with_scopes(["read", "write"]));
    let answer = ask_as(&instance, ID, SECRET, &format!("{GRANT}&scope=read+write")).await;
    assert_eq!(answer.json()["scope"], "read write");
}

#[tokio::test]
async fn an_unknown_grant_is_unsupported() {
    let answer = ask_as(&instance().await, ID, SECRET, "grant_type=urn%3Aodd").await;
    assert_eq!(
        (answer.status, answer.json()),
        (400, json!({"error": "unsupported_grant_type"}))
    );
}

#[tokio::test]
async fn a_request_that_is_no_form_is_refused() {
    let instance = instance().await;
    let json =
        json!({"grant_type": "client_credentials", "client_id": ID, "client_secret": SECRET})
            .to_string();
    let as_json = request(
        "POST",
        "/oauth_token.do",
        &["Content-Type: application/json"],
        &json,
    );
    let repeated = post(
        "/oauth_token.do",
        &[&basic(ID, SECRET)],
        &format!("{GRANT}&{GRANT}"),
    );
    for refused in [as_json, repeated] {
        let answer = exchange(&instance, &refused).await.unwrap();
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (400, &json!("invalid_request"))
        );
    }
    let get = exchange(&instance, &request("GET", "/oauth_token.do", &[], ""))
        .await
        .unwrap();
    assert_eq!(get.status, 405);
}

#[tokio::test]
async fn parameters_in_the_url_are_ignored_and_only_their_names_recorded() {
    let instance = instance().await;
    let target = format!("/oauth_token.do?client_id={ID}&client_secret={FORM_SECRET}");
    let answer = exchange(&instance, &post(&target, &[], GRANT))
        .await
        .unwrap();
    assert!(answer.is_access_denied());
    assert_eq!(
        instance.requests()[0].query_parameters,
        ["client_id", "client_secret"]
    );
}

#[tokio::test]
async fn what_is_recorded_of_a_request_holds_no_secret() {
    let instance = instance().await;
    let token = ask(&instance).await.token();
    ask_by_form(
        &instance,
        &format!("{GRANT}&client_id={ID}&client_secret={FORM_SECRET}&scope=x"),
    )
    .await;
    let seen = instance.requests();
    assert_eq!(seen[1].grant.as_deref(), Some("client_credentials"));
    assert_eq!(seen[1].scope.as_deref(), Some("x"));
    assert_eq!(seen[1].status, Some(401));
    let printed = format!("{seen:?} {:?}", instance.client(ID));
    for secret in [SECRET, FORM_SECRET, &token, &basic(ID, SECRET)] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

#[tokio::test]
async fn a_client_that_keeps_cookies_is_found_out() {
    let instance = instance().await;
    let cookie = ask(&instance)
        .await
        .header("Set-Cookie")
        .unwrap()
        .to_owned();
    let returned = format!("Cookie: {}", cookie.split(';').next().unwrap());
    assert_eq!(instance.cookies_returned(), 0);
    let again = post("/oauth_token.do", &[&returned, &basic(ID, SECRET)], GRANT);
    exchange(&instance, &again).await.unwrap();
    assert_eq!(instance.cookies_returned(), 1);
}

#[tokio::test]
async fn a_client_may_be_set_to_get_jwts() {
    let instance = instance().await;
    instance.update_client(ID, |client| client.token_format = TokenFormat::Jwt);
    let token = ask(&instance).await.token();
    assert_eq!(token.split('.').count(), 3);
    assert!(instance.is_valid(&token));
}
