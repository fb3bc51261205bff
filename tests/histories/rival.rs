//! A second resource that wants the same target. Its own instance is always well, so what becomes
//! of it hangs on the target alone.

use std::time::Duration;

use kube::ResourceExt as _;
use serde_json::{Value, json};
use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::servicenow::{Client, Simulator};
use tokio::sync::OnceCell;

use crate::{
    alike::owner,
    support::{Scene, condition},
    world::NAME,
};

/// The name of the second resource.
pub(crate) const RIVAL: &str = "rival";
/// The Secret with its client.
const CLIENT: &str = "rival-oauth-client";
const CLIENT_ID: &str = "rival-client-id";
const CLIENT_SECRET: &str = "rival/client+secret";
const LIFETIME: Duration = Duration::from_secs(7200);

/// The instance of all rivals.
async fn instance() -> &'static Simulator {
    static INSTANCE: OnceCell<Simulator> = OnceCell::const_new();
    INSTANCE
        .get_or_init(async || {
            let instance = Simulator::start().await;
            let client = Client::new(CLIENT_ID, CLIENT_SECRET).with_lifetime(LIFETIME);
            instance.add_client(client);
            instance
        })
        .await
}

/// The rival's spec, in a scene that has its client from then on.
pub(crate) async fn spec(scene: &Scene, target: &str) -> Value {
    let client = json!({"client-id": CLIENT_ID, "client-secret": CLIENT_SECRET});
    scene
        .put_secret(CLIENT, json!({"stringData": client}))
        .await;
    json!({
        "instance": instance().await.origin(),
        "client": {"secretRef": {"name": CLIENT}},
        "target": {"name": target},
    })
}

/// The names of what is the rival's in an end.
pub(crate) fn objects(end: &Value) -> Vec<String> {
    let fixed = [format!("resource {RIVAL}"), format!("Secret {CLIENT}")];
    let all = end.as_object().unwrap().iter();
    let owned = all.filter(|(_, object)| object["owners"][0][0] == RIVAL);
    let owned = owned.map(|(name, _)| name.clone());
    fixed.into_iter().chain(owned).collect()
}

/// What is wrong with the rival: it has its target if nobody else does and nobody comes first, and
/// else says that there is a conflict.
pub(crate) async fn is_wronged(scene: &Scene, target: &str, end: &Value) -> Option<String> {
    let rival = scene.get(RIVAL).await;
    let expected = match owner(end, target) {
        Some(RIVAL) => "TokenSynced",
        // Somebody else has it, or an orphan of the other resource stands there.
        _ if end.get(format!("Secret {target}")).is_some() => "TargetConflict",
        _ if other_comes_first(&rival, &scene.get(NAME).await) => "TargetConflict",
        _ => return Some(format!("nobody has the target {target}")),
    };
    let is = condition(&rival, "Synced").map(|(_, reason, _)| reason);
    (is.as_deref() != Some(expected))
        .then(|| format!("the rival for {target} is {is:?}, and not {expected}"))
}

fn other_comes_first(rival: &ServiceNowCredential, other: &ServiceNowCredential) -> bool {
    let target = |one: &ServiceNowCredential| {
        let named = one.spec.target.as_ref().and_then(|t| t.name.clone());
        named.unwrap_or_else(|| one.name_any())
    };
    let age = |one: &ServiceNowCredential| {
        let created = one.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (created, one.uid())
    };
    target(rival) == target(other) && age(other) < age(rival)
}
