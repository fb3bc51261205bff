//! What a resource and its surroundings are made of, as values.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use testkit::servicenow::{Authority, Fault};

use crate::{
    support::{CLIENT, CLIENT_ID, CLIENT_SECRET, Scene},
    workload::WORKLOAD,
};

/// The name of every history's resource.
pub(crate) const NAME: &str = "itsm";
/// The name of a Secret that may belong to somebody else.
pub(crate) const TAKEN: &str = "taken";
/// Somebody's Secret, opened for the resource to merge into.
pub(crate) const SHARED: &str = "app";
/// The ConfigMap with the instance's CA.
const CA: &str = "corp-ca";

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

/// The state of the ConfigMap [`CA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaBundle {
    Good,
    AnothersCa,
    NoCertificate,
    Absent,
}

/// Everything that decides what becomes of a fresh resource.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// The spec, but for the instance and its CA where they are the scene's own.
    pub(crate) spec: Value,
    pub(crate) client: ClientSecret,
    pub(crate) ca: CaBundle,
    /// Somebody else's Secret has the name [`TAKEN`].
    pub(crate) is_taken: bool,
    /// The Secret [`SHARED`] is there.
    pub(crate) is_shared: bool,
    /// The target of a second resource.
    pub(crate) rival: Option<String>,
    pub(crate) fault: Option<Fault>,
    /// How often somebody has deleted or edited the target.
    pub(crate) disturbances: usize,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            spec: json!({
                "client": {"secretRef": {"name": CLIENT}},
                "restart": [{"kind": "Deployment", "name": WORKLOAD}],
            }),
            client: ClientSecret::Good,
            ca: CaBundle::Good,
            is_taken: false,
            is_shared: true,
            rival: None,
            fault: None,
            disturbances: 0,
        }
    }

    /// The world without any trouble. Under its name a target keeps its policy, and who is listed for a
    /// restart stays so.
    pub(crate) fn recovered(&self) -> Self {
        let mut world = Self::new();
        world.spec["restart"] = self.spec.get("restart").cloned().unwrap_or(json!([]));
        let policy = &self.spec["target"]["creationPolicy"];
        if self.target() == NAME && policy.is_string() {
            world.spec["target"] = json!({"creationPolicy": policy});
        }
        world
    }

    /// The whole spec in this scene.
    pub(crate) fn spec_in(&self, scene: &Scene) -> Value {
        let mut spec = self.spec.clone();
        if spec.get("instance").is_none() {
            spec["instance"] = json!(scene.instance.origin());
        }
        if spec.get("tls").is_none() {
            spec["tls"] =
                json!({"caBundleRef": {"kind": "ConfigMap", "name": CA, "key": "ca.crt"}});
        }
        spec
    }

    /// The name of the target Secret.
    pub(crate) fn target(&self) -> &str {
        self.spec["target"]["name"].as_str().unwrap_or(NAME)
    }

    /// Whether the resource merges its keys into somebody's Secret.
    pub(crate) fn merges(&self) -> bool {
        self.spec["target"]["creationPolicy"] == "Merge"
    }

    /// The same world with an instance that is well.
    pub(crate) fn without_fault(&self) -> Self {
        Self {
            fault: None,
            ..self.clone()
        }
    }

    /// Makes the surroundings of a scene so, but for the rival.
    pub(crate) async fn set_up(&self, scene: &Scene) {
        scene.instance.set_fault(self.fault.clone());
        self.put_client(scene).await;
        self.put_ca(scene).await;
        if self.is_taken {
            put_foreign(scene).await;
        }
        if self.is_shared {
            put_shared(scene).await;
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

    /// Makes the ConfigMap with the CA so.
    pub(crate) async fn put_ca(&self, scene: &Scene) {
        let config_maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), &scene.namespace);
        let pem = match self.ca {
            CaBundle::Good => scene.instance.ca_pem().unwrap().to_owned(),
            CaBundle::AnothersCa => Authority::generate().unwrap().pem().to_owned(),
            CaBundle::NoCertificate => "not a certificate".to_owned(),
            CaBundle::Absent => {
                if config_maps.get_opt(CA).await.unwrap().is_some() {
                    let now = DeleteParams::default();
                    config_maps.delete(CA, &now).await.unwrap();
                }
                return;
            }
        };
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CA}, "data": {"ca.crt": pem},
        });
        let somebody = PatchParams::apply("somebody").force();
        let put = config_maps.patch(CA, &somebody, &Patch::Apply(body)).await;
        put.unwrap();
    }
}

pub(crate) async fn put_foreign(scene: &Scene) {
    scene
        .put_secret(TAKEN, json!({"stringData": {"theirs": "precious"}}))
        .await;
}

pub(crate) async fn put_shared(scene: &Scene) {
    let open = json!({
        "metadata": {"annotations": {"snowcred.dev/allow-merge": NAME}},
        "stringData": {"url": "https://example.com"},
    });
    scene.put_secret(SHARED, open).await;
}
