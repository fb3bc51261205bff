//! A fleet whose members have a client each, and work that a fault interrupts.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use kube::ResourceExt as _;
use serde_json::json;
use testkit::{
    cluster::ControlPlane,
    servicenow::{Client, Simulator},
};

use crate::support::{Scene, condition, eventually};

/// Far from any renewal that nobody asked for.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A fleet in one namespace.
pub(crate) struct Fleet {
    pub(crate) scene: Scene,
    pub(crate) members: Vec<String>,
}

/// The client's id of a member.
fn client_id(member: &str) -> String {
    format!("client-of-{member}")
}

impl Fleet {
    /// So many members. No operator yet.
    pub(crate) async fn new(cluster: &'static ControlPlane, members: usize) -> Self {
        let scene = Scene::on(cluster, Simulator::start().await, LIFETIME).await;
        let members: Vec<_> = (0..members).map(|n| format!("member-{n:02}")).collect();
        for member in &members {
            let (id, secret) = (client_id(member), format!("secret-of-{member}"));
            scene
                .instance
                .add_client(Client::new(&id, &secret).with_lifetime(LIFETIME));
            let data = json!({"stringData": {"client-id": id, "client-secret": secret}});
            scene.put_secret(&client_id(member), data).await;
            let spec = json!({
                "instance": scene.instance.origin(),
                "client": {"secretRef": {"name": client_id(member)}},
            });
            scene.create(member, spec).await;
        }
        Self { scene, members }
    }

    /// Asks for a renewal of one member.
    pub(crate) async fn renew(&self, member: &str, value: &str) {
        let request =
            json!({"metadata": {"annotations": {"snowcred.dev/renew-requested-at": value}}});
        self.scene.change(member, request).await;
    }

    /// Gives all members work: a renewal, and this label for their Secrets.
    pub(crate) async fn give_all_work(&self, value: &str) {
        let work = json!({
            "metadata": {"annotations": {"snowcred.dev/renew-requested-at": value}},
            "spec": {"target": {"labels": {"work": value}}},
        });
        let all = self.members.iter();
        join_all(all.map(|member| self.scene.change(member, work.clone()))).await;
    }

    /// Waits until each member is well, its last work is done and its token is good.
    pub(crate) async fn is_done(&self, value: &str) {
        for member in &self.members {
            eventually(&format!("the work of {member} is done"), async || {
                self.is_done_by(member, value).await
            })
            .await;
        }
    }

    async fn is_done_by(&self, member: &str, value: &str) -> Option<()> {
        let resource = self.scene.credentials().get(member).await.ok()?;
        let status = resource.status.as_ref()?;
        let requested = resource
            .annotations()
            .get("snowcred.dev/renew-requested-at");
        let well = |kind| condition(&resource, kind).is_some_and(|(status, ..)| status == "True");
        let secret = self.scene.secrets().get_opt(member).await.ok()??;
        let target = status.target.as_ref()?;
        let token = crate::support::data(&secret).remove("token")?;
        let done = status.handled_renew_request.as_ref() == requested
            && status.observed_generation == resource.metadata.generation
            && well("Ready")
            && well("Synced")
            && secret.metadata.resource_version.as_ref() == Some(&target.resource_version)
            && (value.is_empty() || secret.labels().get("work").is_some_and(|is| is == value))
            && self.scene.instance.is_valid(&token);
        done.then_some(())
    }

    /// Whether the last renewal that was asked of a member has been acted on.
    pub(crate) async fn is_renewed(&self, member: &str) -> bool {
        let resource = self.scene.get(member).await;
        let requested = resource
            .annotations()
            .get("snowcred.dev/renew-requested-at");
        let status = resource.status.as_ref();
        requested == status.and_then(|status| status.handled_renew_request.as_ref())
    }

    /// How often the instance was asked for each member.
    pub(crate) fn requests(&self) -> BTreeMap<String, usize> {
        let mut asked: BTreeMap<_, _> = self.members.iter().map(|m| (m.clone(), 0)).collect();
        for request in self.scene.instance.requests() {
            let client = request.client_id.as_deref().unwrap_or_default();
            let member = client.strip_prefix("client-of-").unwrap_or_default();
            if let (true, Some(asked)) = (request.is_token_request(), asked.get_mut(member)) {
                *asked += 1;
            }
        }
        asked
    }

    /// Each member asked so often.
    pub(crate) fn each(&self, requests: usize) -> BTreeMap<String, usize> {
        let members = self.members.iter();
        members.map(|member| (member.clone(), requests)).collect()
    }
}
