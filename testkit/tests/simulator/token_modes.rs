//! What an instance does when it is asked again before a token's expiry.

use std::time::Duration;

use serde_json::json;
use testkit::servicenow::{Client, Simulator, TokenMode};

use crate::wire::{GRANT, ID, SECRET, ask, ask_as, client, exchange, instance, post};

const MINUTE: Duration = Duration::from_secs(60);

/// A stopped clock and tokens that live three minutes.
async fn in_mode(mode: TokenMode) -> Simulator {
    let instance = instance().await;
    instance.clock().freeze();
    instance.set_mode(mode);
    instance.update_client(ID, |client| client.lifetime = 3 * MINUTE);
    instance
}

#[tokio::test]
async fn reuse_slide_gives_the_same_token_a_full_lifetime_again() {
    let instance = in_mode(TokenMode::ReuseSlide).await;
    let first = ask(&instance).await.token();
    instance.advance(2 * MINUTE);
    let again = ask(&instance).await;
    assert_eq!(
        (again.token(), again.expires_in()),
        (first.clone(), json!(180))
    );
    instance.advance(2 * MINUTE);
    assert!(instance.is_valid(&first), "its expiry moved");
    instance.advance(MINUTE);
    assert!(
        !instance.is_valid(&first),
        "three minutes after the last request"
    );
    assert_ne!(ask(&instance).await.token(), first);
    assert_eq!(instance.issued_tokens(), 2);
}

#[tokio::test]
async fn reuse_remaining_gives_the_same_token_and_counts_down() {
    let instance = in_mode(TokenMode::ReuseRemaining).await;
    let first = ask(&instance).await.token();
    let expiry = instance.expires_at(&first);
    instance.advance(2 * MINUTE + Duration::from_millis(500));
    let again = ask(&instance).await;
    assert_eq!(
        (again.token(), again.expires_in()),
        (first.clone(), json!(59))
    );
    assert_eq!(instance.expires_at(&first), expiry);
    instance.advance(MINUTE);
    assert!(!instance.is_valid(&first));
    let next = ask(&instance).await;
    assert_eq!(next.expires_in(), json!(180));
    assert_ne!(next.token(), first);
}

#[tokio::test]
async fn always_new_gives_another_token_and_leaves_the_older_its_own_expiry() {
    let instance = in_mode(TokenMode::AlwaysNew).await;
    let first = ask(&instance).await.token();
    instance.advance(2 * MINUTE);
    let second = ask(&instance).await.token();
    assert_ne!(first, second);
    assert!(instance.is_valid(&first) && instance.is_valid(&second));
    assert_eq!(instance.valid_tokens(), 2);
    instance.advance(MINUTE);
    assert_eq!(
        (instance.is_valid(&first), instance.is_valid(&second)),
        (false, true)
    );
}

#[tokio::test]
async fn a_token_is_shared_by_whoever_asks_for_the_same_and_by_nobody_else() {
    let instance = in_mode(TokenMode::ReuseSlide).await;
    instance.add_client(client().with_scopes(["a", "b"]));
    instance.add_client(Client::new("other", "secret"));
    instance.add_user("abel.tuter", "pass");
    let form = |scope: &str| format!("{GRANT}&scope={scope}");
    let ordered = ask_as(&instance, ID, SECRET, &form("a+b")).await.token();
    assert_eq!(
        ask_as(&instance, ID, SECRET, &form("b+a")).await.token(),
        ordered
    );
    ask(&instance).await;
    ask_as(&instance, ID, SECRET, &form("a")).await;
    ask_as(&instance, "other", "secret", GRANT).await;
    ask_as(
        &instance,
        ID,
        SECRET,
        "grant_type=password&username=abel.tuter&password=pass",
    )
    .await;
    assert_eq!(instance.issued_tokens(), 5);
}

#[tokio::test]
async fn a_lifetime_may_be_shorter_than_a_second() {
    let instance = in_mode(TokenMode::ReuseSlide).await;
    instance.update_client(ID, |client| client.lifetime = Duration::from_millis(700));
    let answer = ask(&instance).await;
    assert_eq!(answer.expires_in(), json!(0));
    instance.advance(Duration::from_millis(699));
    assert!(instance.is_valid(&answer.token()));
    instance.advance(Duration::from_millis(1));
    assert!(!instance.is_valid(&answer.token()));
}

#[tokio::test]
async fn an_absurd_lifetime_ends_with_the_last_moment_there_is() {
    let instance = in_mode(TokenMode::ReuseSlide).await;
    instance.update_client(ID, |client| client.lifetime = Duration::MAX);
    assert!(instance.is_valid(&ask(&instance).await.token()));
}

#[tokio::test]
async fn a_revoked_token_is_invalid_before_its_expiry_and_not_given_out_again() {
    for mode in [
        TokenMode::ReuseSlide,
        TokenMode::ReuseRemaining,
        TokenMode::AlwaysNew,
    ] {
        let instance = in_mode(mode).await;
        let first = ask(&instance).await.token();
        instance.revoke(&first);
        assert!(!instance.is_valid(&first));
        assert_eq!(instance.expires_at(&first), None);
        let second = ask(&instance).await.token();
        assert_ne!(first, second);
        instance.revoke_all();
        assert!(!instance.is_valid(&second));
    }
}

#[tokio::test]
async fn anybody_may_revoke_over_http_and_it_is_counted() {
    let instance = instance().await;
    let token = ask(&instance).await.token();
    let target = format!("/oauth_revoke_token.do?token={token}");
    let answer = exchange(&instance, &post(&target, &[], "")).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(!instance.is_valid(&token));
    assert_eq!(instance.revocations(), 1);
}
