//! What must stay when the operator goes, and what must go.

use crate::{
    instance,
    place::{CRD, NAMESPACE, PATIENCE, Place, SYSTEM, until},
};

/// The Secret with the token, by what no other Secret has.
pub(crate) async fn target(place: &Place) -> String {
    let get = ["get", "secret", "itsm", "--namespace", NAMESPACE];
    let path = "--output=jsonpath={.metadata.uid}";
    place
        .kubectl(&[&get[..], &[path]].concat())
        .await
        .expect_success()
}

/// The resource type stays of what was installed, with its resources and their Secrets: a workload goes
/// on until its token expires. All else goes, and the pods of this selector.
pub(crate) async fn hold(place: &Place, installed: &str, pods: &str, secret: &str) {
    until("what was installed is gone", PATIENCE, async || {
        let get = ["get", "--namespace", SYSTEM, "--ignore-not-found"];
        let get = [&get[..], &["--output=name", "--filename", "-"]].concat();
        let left = place.kubectl_stdin(&get, installed).await.expect_success();
        left.lines().all(|name| name == CRD)
    })
    .await;
    until("its pods are gone", PATIENCE, async || {
        let get = ["get", "pods", "--selector", pods, "--namespace", SYSTEM];
        let get = [&get[..], &["--output=name"]].concat();
        place.kubectl(&get).await.expect_success().is_empty()
    })
    .await;
    place.kubectl(&["get", CRD]).await.expect_success();
    instance::is_ready_still(place).await;
    assert_eq!(target(place).await, secret, "the Secret is another one");
}
