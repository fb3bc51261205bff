//! What people and the instance do in a scenario, and when the operator is done with it.

use kube::api::{Patch, PatchParams};
use serde_json::json;
use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::servicenow::Fault;

use crate::support::{CLIENT, CLIENT_ID, CLIENT_SECRET, Scene, condition, data};

/// The resource of every scenario.
const NAME: &str = "itsm";
/// Somebody's Secret that it merges into.
const SHARED: &str = "app";
/// What a client's secret is changed to.
const ROTATED: &str = "marked/rotated+secret";

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) steps: &'static [Step],
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a token's life",
        steps: &[
            Step::Create,
            Step::Renew("1"),
            Step::Rotate,
            Step::ChangeData,
            Step::DeleteTarget,
            Step::Renew("2"),
        ],
    },
    Scenario {
        name: "a target under other names",
        steps: &[
            Step::Create,
            Step::EditTarget,
            Step::Rename("other"),
            Step::Rename("another"),
            Step::Share,
            Step::Delete,
        ],
    },
    Scenario {
        name: "keys in somebody's Secret",
        steps: &[
            Step::Merge,
            Step::Renew("1"),
            Step::RemoveKey,
            Step::Renew("2"),
            Step::Delete,
        ],
    },
    Scenario {
        name: "failures and what ends them",
        steps: &[
            Step::Create,
            Step::Refuse("1"),
            Step::Recover("2"),
            Step::DeleteClient,
            Step::PutClientBack,
            Step::BreakTemplate,
            Step::ChangeData,
            Step::Suspend(true),
            Step::Suspend(false),
        ],
    },
];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Create,
    /// It is created, and merges its key into the Secret [`SHARED`].
    Merge,
    /// Somebody takes that key out.
    RemoveKey,
    Renew(&'static str),
    Rotate,
    ChangeData,
    BreakTemplate,
    DeleteTarget,
    EditTarget,
    Rename(&'static str),
    /// A second resource with the same client.
    Share,
    Refuse(&'static str),
    Recover(&'static str),
    DeleteClient,
    PutClientBack,
    Suspend(bool),
    Delete,
}

impl Step {
    /// What people or the instance do.
    pub(crate) async fn act(self, scene: &Scene) {
        match self {
            Self::Create => {
                scene.create(NAME, scene.spec()).await;
            }
            Self::Merge => {
                let open = json!({
                    "metadata": {"annotations": {"snowcred.dev/allow-merge": NAME}},
                    "stringData": {"url": "https://example.com"},
                });
                scene.put_secret(SHARED, open).await;
                let mut spec = scene.spec();
                spec["target"] = json!({"name": SHARED, "creationPolicy": "Merge"});
                scene.create(NAME, spec).await;
            }
            Self::RemoveKey => {
                let removed = Patch::Merge(json!({"data": {"token": null}}));
                let secrets = scene.secrets();
                secrets
                    .patch(SHARED, &PatchParams::default(), &removed)
                    .await
                    .unwrap();
            }
            Self::Renew(value) => ask(scene, value).await,
            Self::Rotate => {
                let rotated = |client: &mut testkit::servicenow::Client| {
                    ROTATED.clone_into(&mut client.secret);
                };
                scene.instance.update_client(CLIENT_ID, rotated);
                scene.put_client_secret(CLIENT_ID, ROTATED).await;
            }
            Self::ChangeData => {
                let keys = json!({"token": null, "bearer": "Bearer {{ token }}"});
                change(scene, json!({"target": {"data": keys}})).await;
            }
            Self::BreakTemplate => {
                change(
                    scene,
                    json!({"target": {"data": {"bearer": "{{ nothing }}"}}}),
                )
                .await;
            }
            Self::DeleteTarget => scene.delete_secret(NAME).await,
            Self::EditTarget => {
                scene
                    .put_secret(NAME, json!({"stringData": {"token": "edited"}}))
                    .await;
            }
            Self::Rename(name) => change(scene, json!({"target": {"name": name}})).await,
            Self::Share => {
                scene.create("second", scene.spec()).await;
            }
            Self::Refuse(value) => {
                scene.instance.set_fault(Some(Fault::AccessDenied));
                ask(scene, value).await;
            }
            Self::Recover(value) => {
                scene.instance.set_fault(None);
                ask(scene, value).await;
            }
            Self::DeleteClient => scene.delete_secret(CLIENT).await,
            Self::PutClientBack => scene.put_client_secret(CLIENT_ID, CLIENT_SECRET).await,
            Self::Suspend(suspend) => change(scene, json!({"suspend": suspend})).await,
            Self::Delete => scene.delete(NAME).await,
        }
    }

    /// Whether the operator has done what follows.
    pub(crate) async fn is_done(self, scene: &Scene) -> bool {
        if matches!(self, Self::Delete) {
            return scene.credentials().get_opt(NAME).await.unwrap().is_none()
                && scene.secret("another").await.is_none()
                && scene.token(SHARED).await.is_none();
        }
        let name = if matches!(self, Self::Share) {
            "second"
        } else {
            NAME
        };
        let resource = scene.get(name).await;
        match self {
            Self::Create | Self::Share | Self::Merge => {
                is(&resource, "TokenSynced") && is_current(&resource)
            }
            Self::Renew(value) | Self::Recover(value) => {
                handled(&resource) == Some(value) && is(&resource, "TokenSynced")
            }
            Self::Rotate => {
                let client = scene.secret(CLIENT).await.unwrap();
                let observed = resource.status.iter().flat_map(|status| &status.observed);
                let versions: Vec<_> = observed.map(|o| o.resource_version.clone()).collect();
                is(&resource, "TokenSynced")
                    && versions.contains(&client.metadata.resource_version.unwrap())
            }
            Self::ChangeData => {
                let target = scene.secret(NAME).await;
                let keys: Vec<_> = target.iter().flat_map(data).map(|(key, _)| key).collect();
                keys == ["bearer"] && is(&resource, "TokenSynced") && is_current(&resource)
            }
            Self::BreakTemplate => is(&resource, "TemplateInvalid"),
            Self::DeleteTarget => recorded(scene, &resource, NAME).await,
            Self::RemoveKey => {
                scene.token(SHARED).await.is_some() && recorded(scene, &resource, SHARED).await
            }
            Self::EditTarget => {
                scene.token(NAME).await.as_deref() != Some("edited")
                    && recorded(scene, &resource, NAME).await
            }
            Self::Rename(name) => {
                let mut old = [NAME, "other", "another"]
                    .into_iter()
                    .filter(|n| *n != name);
                let gone = async |name| scene.secret(name).await.is_none();
                recorded(scene, &resource, name).await
                    && gone(old.next().unwrap()).await
                    && gone(old.next().unwrap()).await
            }
            Self::Refuse(value) => {
                handled(&resource) == Some(value) && is(&resource, "AccessDenied")
            }
            Self::DeleteClient => is(&resource, "ClientSecretMissing"),
            Self::PutClientBack => is(&resource, "TokenSynced"),
            Self::Suspend(true) => is(&resource, "Suspended") && is_current(&resource),
            Self::Suspend(false) => is(&resource, "TokenSynced") && is_current(&resource),
            Self::Delete => true,
        }
    }
}

async fn ask(scene: &Scene, value: &str) {
    let annotation = json!({"snowcred.dev/renew-requested-at": value});
    scene
        .change(NAME, json!({"metadata": {"annotations": annotation}}))
        .await;
}

async fn change(scene: &Scene, spec: serde_json::Value) {
    scene.change(NAME, json!({"spec": spec})).await;
}

fn is(resource: &ServiceNowCredential, reason: &str) -> bool {
    condition(resource, "Synced").is_some_and(|(_, is, _)| is == reason)
}

fn is_current(resource: &ServiceNowCredential) -> bool {
    let status = resource.status.as_ref();
    status.and_then(|status| status.observed_generation) == resource.metadata.generation
}

fn handled(resource: &ServiceNowCredential) -> Option<&str> {
    resource.status.as_ref()?.handled_renew_request.as_deref()
}

/// Whether the Secret of this name is there and what the status says was written last.
async fn recorded(scene: &Scene, resource: &ServiceNowCredential, name: &str) -> bool {
    let Some(secret) = scene.secret(name).await else {
        return false;
    };
    let target = resource.status.as_ref().and_then(|s| s.target.as_ref());
    target.is_some_and(|target| {
        target.name == name && Some(&target.uid) == secret.metadata.uid.as_ref()
    }) && is(resource, "TokenSynced")
}
