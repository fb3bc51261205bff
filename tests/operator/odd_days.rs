//! Answers that are odd and good, and tokens that end before their time: the next renewal is as any
//! other, and nobody is alarmed.

use std::{collections::BTreeMap, time::Duration};

use jiff::SignedDuration;
use serde_json::json;
use testkit::servicenow::{ExpiresIn, Fault, TokenMode};

use crate::{
    bad_days::{LIFETIME, World},
    support::eventually,
};

#[tokio::test]
async fn a_lifetime_in_quotes_or_without_end_is_a_good_answer() {
    let world = World::new().await;
    let scene = &world.scene;
    let century = SignedDuration::from_hours(100 * 365 * 24);
    for (name, expires_in, lifetime) in [
        (
            "quoted",
            ExpiresIn::Value(json!("1234")),
            SignedDuration::from_secs(1234),
        ),
        ("enormous", ExpiresIn::Enormous, century),
    ] {
        let instance = world.instance(name, TokenMode::AlwaysNew, LIFETIME).await;
        instance.set_fault(Some(Fault::ExpiresIn(expires_in)));
        scene.renew(name, "1").await;
        let token = scene.await_synced(name).await;
        assert!(instance.is_valid(&token), "{name}");
        let recorded = scene.get(name).await.status.unwrap().token.unwrap();
        let (issued, expires) = (recorded.issued_at.0, recorded.expires_at.0);
        assert_eq!(expires.duration_since(issued), lifetime, "{name}");
        let secret = scene.secret(name).await.unwrap();
        let annotations = secret.metadata.annotations.unwrap();
        let expires = format!("{expires:.6}");
        assert_eq!(annotations["snowcred.dev/expires-at"], expires, "{name}");
        // It is followed by an ordinary one as any other is.
        instance.set_fault(None);
        scene.renew(name, "2").await;
        assert_ne!(scene.await_synced(name).await, token, "{name}");
        let results = BTreeMap::from([("Success".to_owned(), 3)]);
        assert_eq!(world.results(&instance), results, "{name}");
        assert_eq!(instance.token_requests(), 3, "{name}");
        assert_eq!(scene.events(name).await, [], "{name}");
    }
}

const MODES: [(&str, TokenMode); 3] = [
    ("always-new", TokenMode::AlwaysNew),
    ("reuse-slide", TokenMode::ReuseSlide),
    ("reuse-remaining", TokenMode::ReuseRemaining),
];

#[tokio::test]
async fn a_token_that_was_revoked_is_replaced_as_soon_as_a_renewal_is_asked_for() {
    let world = World::new().await;
    let scene = &world.scene;
    for (name, mode) in MODES {
        let instance = world.instance(name, mode, LIFETIME).await;
        let revoked = scene.token(name).await.unwrap();
        instance.revoke(&revoked);
        scene.renew(name, "1").await;
        let token = scene.await_synced(name).await;
        assert!(instance.is_valid(&token), "{name}");
        assert_eq!(instance.token_requests(), 2, "{name}");
        assert_eq!(scene.events(name).await, [], "{name}");
    }
}

#[tokio::test]
async fn a_token_that_was_revoked_and_nobody_told_is_replaced_when_its_renewal_is_due() {
    let world = World::new().await;
    let scene = &world.scene;
    for (name, mode) in MODES {
        let instance = world.instance(name, mode, Duration::from_secs(6)).await;
        let revoked = scene.token(name).await.unwrap();
        instance.revoke(&revoked);
        let due = scene.get(name).await.status.unwrap().token.unwrap();
        let renewed = eventually("there is another token", async || {
            let token = scene.get(name).await.status.unwrap().token.unwrap();
            (token.sha256 != due.sha256).then_some(token)
        })
        .await;
        let token = scene.token(name).await.unwrap();
        assert!(instance.is_valid(&token), "{name}");
        assert!(renewed.issued_at.0 >= due.renewal_time.0, "{name}");
        assert_eq!(instance.token_requests(), 2, "{name}");
        assert_eq!(scene.events(name).await, [], "{name}");
    }
}
