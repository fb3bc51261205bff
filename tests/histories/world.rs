//! What a resource and its surroundings are made of, as values.

use serde_json::{Value, json};
use testkit::servicenow::Fault;

use crate::support::{CLIENT, CLIENT_ID, CLIENT_SECRET, Scene};

/// The name of a Secret that may belong to somebody else.
pub(crate) const TAKEN: &str = "taken";

/// The state of the client's Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientSecret {
    Good,
    /// With a line's end after the secret.
    Untrimmed,
    WrongSecret,
    WithoutKey,
    Absent,
}

/// Everything that decides what becomes of a fresh resource.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// The spec, but for the instance where it is the scene's own.
    pub(crate) spec: Value,
    pub(crate) client: ClientSecret,
    /// Somebody else's Secret has the name [`TAKEN`].
    pub(crate) is_taken: bool,
    pub(crate) fault: Option<Fault>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            spec: json!({"client": {"secretRef": {"name": CLIENT}}}),
            client: ClientSecret::Good,
            is_taken: false,
            fault: None,
        }
    }

    /// The whole spec in this scene.
    pub(crate) fn spec_in(&self, scene: &Scene) -> Value {
        let mut spec = self.spec.clone();
        if spec.get("instance").is_none() {
            spec["instance"] = json!(scene.instance.origin());
        }
        spec
    }

    /// The name of the target Secret.
    pub(crate) fn target(&self) -> &str {
        self.spec["target"]["name"].as_str().unwrap_or("itsm")
    }

    /// The same world with an instance that is well.
    pub(crate) fn without_fault(&self) -> Self {
        Self {
            fault: None,
            ..self.clone()
        }
    }

    /// Makes the surroundings of a fresh scene so.
    pub(crate) async fn set_up(&self, scene: &Scene) {
        scene.instance.set_fault(self.fault.clone());
        self.put_client(scene).await;
        if self.is_taken {
            put_foreign(scene).await;
        }
    }

    /// Makes the client's Secret so.
    pub(crate) async fn put_client(&self, scene: &Scene) {
        match self.client {
            ClientSecret::Good => scene.put_client_secret(CLIENT_ID, CLIENT_SECRET).await,
            ClientSecret::Untrimmed => {
                let secret = format!("{CLIENT_SECRET}\n");
                scene.put_client_secret(CLIENT_ID, &secret).await;
            }
            ClientSecret::WrongSecret => scene.put_client_secret(CLIENT_ID, "wrong").await,
            ClientSecret::WithoutKey => {
                // Applied by the same manager, what is left out goes.
                let data = json!({"stringData": {"client-id": CLIENT_ID}});
                if scene.secret(CLIENT).await.is_some() {
                    scene.delete_secret(CLIENT).await;
                }
                scene.put_secret(CLIENT, data).await;
            }
            ClientSecret::Absent => {
                if scene.secret(CLIENT).await.is_some() {
                    scene.delete_secret(CLIENT).await;
                }
            }
        }
    }
}

pub(crate) async fn put_foreign(scene: &Scene) {
    scene
        .put_secret(TAKEN, json!({"stringData": {"theirs": "precious"}}))
        .await;
}
