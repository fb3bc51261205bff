//! A token is renewed before it expires, for as long as its resource lives, and no oftener than
//! it must be.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde_json::json;
use testkit::{operator::Operator, servicenow::TokenMode};

use crate::support::{Scene, condition, eventually, until};

#[tokio::test]
async fn no_read_ever_finds_an_expired_token_across_five_lifetimes() {
    let scene = Scene::new(Duration::from_secs(10)).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let end = Timestamp::now() + jiff::SignedDuration::from_secs(52);
    let (mut seen, mut poll) = (
        BTreeSet::new(),
        tokio::time::interval(Duration::from_millis(100)),
    );
    while Timestamp::now() < end {
        poll.tick().await;
        let token = scene.token("itsm").await.expect("the Secret holds a token");
        assert!(scene.instance.is_valid(&token), "an expired token was read");
        seen.insert(token);
    }
    // Between six and nearly eight seconds lie between two renewals of a token of ten.
    assert!(
        (6..=10).contains(&seen.len()),
        "{} tokens in 52 s",
        seen.len()
    );
    assert!(
        scene.instance.token_requests() <= seen.len() + 1,
        "no token is asked for twice"
    );
    assert_eq!(
        scene.events("itsm").await,
        [],
        "routine renewals are no events"
    );
}

#[tokio::test]
async fn a_token_that_slides_is_renewed_in_place() {
    let scene = Scene::new(Duration::from_secs(10)).await;
    scene.instance.set_mode(TokenMode::ReuseSlide);
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let token = scene.await_synced("itsm").await;
    let first = scene.get("itsm").await.status.unwrap().token.unwrap();
    let next = eventually("the expiry has moved", async || {
        let next = scene.get("itsm").await.status.unwrap().token.unwrap();
        (next.expires_at.0 > first.expires_at.0).then_some(next)
    })
    .await;
    assert_eq!(next.sha256, first.sha256);
    assert_eq!(scene.token("itsm").await.unwrap(), token);
    let annotations = scene
        .secret("itsm")
        .await
        .unwrap()
        .metadata
        .annotations
        .unwrap();
    assert_eq!(
        annotations["snowcred.dev/expires-at"],
        format!("{:.6}", next.expires_at.0)
    );
    assert_eq!(scene.instance.token_requests(), 2);
}

#[tokio::test]
async fn a_token_that_is_kept_until_it_expires_is_replaced_at_that_moment() {
    let scene = Scene::new(Duration::from_secs(10)).await;
    scene.instance.set_mode(TokenMode::ReuseRemaining);
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let first = scene.await_synced("itsm").await;
    let second = eventually("there is another token", async || {
        let ready = condition(&scene.get("itsm").await, "Ready").unwrap();
        assert_eq!(ready.0, "True", "Ready does not flap: {}", ready.2);
        scene.token("itsm").await.filter(|token| *token != first)
    })
    .await;
    assert!(scene.instance.is_valid(&second));
    // The first, the one that found the expiry unmoved, and those around the expiry, 200 ms apart.
    let requests = scene.instance.token_requests();
    assert!((3..=9).contains(&requests), "{requests} requests");
}

#[tokio::test]
async fn an_operator_that_was_killed_and_started_again_asks_for_nothing_and_writes_nothing() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let mut operator = scene.operator().await;
    for name in ["one", "two", "three"] {
        scene.create(name, scene.spec()).await;
    }
    let mut before = Vec::new();
    for name in ["one", "two", "three"] {
        scene.await_synced(name).await;
        before.push((scene.secret(name).await.unwrap(), scene.get(name).await));
    }
    operator.kill();
    scene.instance.reset_counters();
    let operator = scene.operator().await;
    eventually("all have been looked at", async || {
        operator
            .metrics()
            .contains("snowcred_reconciles_total{outcome=\"Synced\"} 3")
            .then_some(())
    })
    .await;
    assert_eq!(scene.instance.token_requests(), 0);
    for (secret, resource) in before {
        let name = resource.metadata.name.as_deref().unwrap();
        assert_eq!(scene.secret(name).await.unwrap(), secret);
        assert_eq!(
            scene.get(name).await.metadata.resource_version,
            resource.metadata.resource_version
        );
    }
}

#[tokio::test]
async fn a_renewal_that_fell_due_while_the_operator_was_down_is_made_up_for_at_once() {
    let scene = Scene::new(Duration::from_secs(6)).await;
    let mut operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let first = scene.await_synced("itsm").await;
    operator.kill();
    until(
        scene
            .get("itsm")
            .await
            .status
            .unwrap()
            .token
            .unwrap()
            .expires_at
            .0,
    )
    .await;
    let _operator = scene.operator().await;
    let token = eventually("there is a new token", async || {
        scene.token("itsm").await.filter(|token| *token != first)
    })
    .await;
    assert!(scene.instance.is_valid(&token));
}

#[tokio::test]
async fn any_new_value_of_the_renew_annotation_asks_for_one_renewal() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = Operator::start(&scene.options(&["--min-renew-interval=100ms"])).await;
    scene.create("itsm", scene.spec()).await;
    let mut token = scene.await_synced("itsm").await;
    for value in ["now", "again"] {
        scene.renew("itsm", value).await;
        let next = scene.token("itsm").await.unwrap();
        assert_ne!(next, token);
        token = next;
    }
    assert_eq!(scene.instance.token_requests(), 3);
}

#[tokio::test]
async fn a_suspended_resource_is_left_alone_and_its_ready_turns_false_at_expiry() {
    let scene = Scene::new(Duration::from_secs(5)).await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let first = scene.await_synced("itsm").await;
    scene
        .change("itsm", json!({"spec": {"suspend": true}}))
        .await;
    scene
        .await_condition("itsm", "Synced", "Unknown", "Suspended")
        .await;
    let requests = scene.instance.token_requests();
    scene
        .await_condition("itsm", "Ready", "False", "TokenExpired")
        .await;
    assert_eq!(scene.instance.token_requests(), requests);
    scene
        .change("itsm", json!({"spec": {"suspend": false}}))
        .await;
    scene
        .await_condition("itsm", "Ready", "True", "TokenValid")
        .await;
    assert_ne!(scene.token("itsm").await.unwrap(), first);
}
