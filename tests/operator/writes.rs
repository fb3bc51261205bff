//! Writes that the API server refuses: what is in hand is written later, and not asked for again.

use std::time::Duration;

use testkit::{
    cluster::{ApiProxy, Refusal},
    operator::Operator,
};

use crate::support::{Scene, eventually};

#[tokio::test]
async fn a_token_whose_write_is_refused_is_written_later_and_not_asked_for_again() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let mut options = scene.options(&["--min-renew-interval=1ms"]);
    let proxy = ApiProxy::start(&options.kubeconfig).await;
    proxy.kubeconfig().clone_into(&mut options.kubeconfig);
    let _operator = Operator::start(&options).await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let refusals = [
        Refusal::Conflict,
        Refusal::TooManyRequests(None),
        Refusal::TooManyRequests(Some(1)),
        Refusal::TimeoutAfterTheWrite,
    ];
    for (number, refusal) in refusals.into_iter().enumerate() {
        for resource in ["secrets", "servicenowcredentials/status"] {
            let token = scene.token("itsm").await;
            let before = scene.instance.token_requests();
            proxy.refuse(resource, &[refusal]);
            scene.renew("itsm", &format!("{resource} {number}")).await;
            scene.await_synced("itsm").await;
            assert_eq!(proxy.refusals_left(), 0, "{refusal:?} of {resource}");
            assert_ne!(scene.token("itsm").await, token);
            let asked = scene.instance.token_requests() - before;
            assert_eq!(asked, 1, "{refusal:?} of {resource}");
        }
    }
    eventually("what is on record is what is there", async || {
        let target = scene.get("itsm").await.status?.target?;
        let secret = scene.secret("itsm").await?;
        (secret.metadata.resource_version == Some(target.resource_version)).then_some(())
    })
    .await;
}
