//! Who may do what on a control plane: its administrator, and ServiceAccounts under RBAC.

use std::path::PathBuf;
use std::time::Instant;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use kube::api::{
    ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams, PostParams,
};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use super::control_plane::{POLL, READY_WITHIN};
use super::kubeconfig::{Credential, client, save};
use super::{ControlPlane, Error};

/// How long a token is asked to be valid: longer than any test run or demo, in seconds.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;
/// The owner of the fields that are set here.
const FIELD_MANAGER: &str = "testkit";

impl ControlPlane {
    /// A client as the administrator, tied to the runtime that calls this.
    ///
    /// # Panics
    ///
    /// If the kubeconfig has been tampered with.
    pub async fn admin(&self) -> Client {
        client(self.kubeconfig())
            .await
            .unwrap_or_else(|error| panic!("no client for the administrator: {error:?}"))
    }

    /// Creates a namespace whose name begins with `prefix` and that nobody else uses.
    ///
    /// # Panics
    ///
    /// If the API server refuses.
    pub async fn fresh_namespace(&self, prefix: &str) -> String {
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let created = Api::<Namespace>::all(self.admin().await)
            .create(&PostParams::default(), &namespace)
            .await;
        created
            .map(|namespace| namespace.metadata.name.unwrap_or_default())
            .unwrap_or_else(|error| panic!("no namespace {prefix}-…: {error}"))
    }

    /// A kubeconfig that authenticates as this ServiceAccount by a token, and may do everywhere
    /// in the cluster what the rules say and nothing else.
    ///
    /// The namespace, the ServiceAccount, a ClusterRole and its binding are created, or made as
    /// asked if they exist. On return the API server already acts on the rules.
    ///
    /// # Panics
    ///
    /// If the API server refuses, or does not act on the rules.
    pub async fn service_account(
        &self,
        namespace: &str,
        name: &str,
        rules: Vec<PolicyRule>,
    ) -> PathBuf {
        // Roles of the whole cluster have no namespace to tell two ServiceAccounts apart by.
        let role = format!("{namespace}:{name}");
        let objects = [
            object(namespace_of(namespace)),
            object(account_of(namespace, name)),
            object(role_of(&role, rules)),
            object(binding_of(&role, namespace, name)),
        ];
        self.service_account_of(namespace, name, &objects).await
    }

    /// As [`ControlPlane::service_account`], with roles and bindings that somebody else has written,
    /// such as a Helm chart: these objects are applied.
    ///
    /// # Panics
    ///
    /// If the API server refuses, or does not act on the rules.
    pub async fn service_account_of(
        &self,
        namespace: &str,
        name: &str,
        objects: &[Value],
    ) -> PathBuf {
        self.grant(namespace, name, objects)
            .await
            .unwrap_or_else(|error| panic!("no ServiceAccount {namespace}/{name}: {error:?}"))
    }

    async fn grant(
        &self,
        namespace: &str,
        name: &str,
        objects: &[Value],
    ) -> Result<PathBuf, Error> {
        let admin = client(self.kubeconfig()).await?;
        for object in objects {
            apply(&admin, object).await?;
        }
        let token = Api::<ServiceAccount>::namespaced(admin.clone(), namespace)
            .create_token_request(name, &PostParams::default(), &token_request())
            .await
            .map_err(Error::api("request a token"))?
            .status
            .and_then(|status| status.token)
            .unwrap_or_default();
        let path = self
            .plan
            .state
            .join("service-accounts")
            .join(format!("{namespace}.{name}.kubeconfig"));
        save(&path, &self.plan.endpoint, name, &Credential::Token(&token))?;
        await_allowed(&client(&path).await?, samples(objects)).await?;
        Ok(path)
    }
}

/// One request that each rule of these roles allows.
fn samples(objects: &[Value]) -> Vec<ResourceAttributes> {
    let of_role = |role: &Value| {
        let rules = role["rules"].clone();
        let rules: Vec<PolicyRule> = serde_json::from_value(rules).unwrap_or_default();
        let namespace = role["metadata"]["namespace"].as_str().map(str::to_owned);
        let samples = rules.iter().filter_map(sample);
        let samples = samples.map(|sample| ResourceAttributes {
            namespace: namespace.clone(),
            ..sample
        });
        samples.collect::<Vec<_>>()
    };
    objects.iter().flat_map(of_role).collect()
}

/// RBAC acts on its own copy of roles and bindings, which follows a moment behind.
async fn await_allowed(client: &Client, samples: Vec<ResourceAttributes>) -> Result<(), Error> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let deadline = Instant::now() + READY_WITHIN;
    for sample in samples {
        let question = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(sample.clone()),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        loop {
            let answer = reviews
                .create(&PostParams::default(), &question)
                .await
                .map_err(Error::api("ask what the ServiceAccount may do"))?;
            if answer.status.is_some_and(|status| status.allowed) {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: format!("that RBAC allows {sample:?}"),
                    seconds: READY_WITHIN.as_secs(),
                });
            }
            sleep(POLL).await;
        }
    }
    Ok(())
}

/// One request that the rule allows. A rule for URLs outside the API's resources has none.
fn sample(rule: &PolicyRule) -> Option<ResourceAttributes> {
    let first = |values: &Option<Vec<String>>| values.as_ref()?.first().cloned();
    let resource = first(&rule.resources)?;
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource.to_owned(), Some(subresource.to_owned())),
        None => (resource, None),
    };
    Some(ResourceAttributes {
        verb: rule.verbs.first().cloned(),
        group: first(&rule.api_groups),
        resource: Some(resource),
        subresource,
        name: first(&rule.resource_names),
        ..ResourceAttributes::default()
    })
}

async fn apply(admin: &Client, object: &Value) -> Result<(), Error> {
    let object: DynamicObject = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("{object} is no object: {error}"));
    let types = object.types.as_ref();
    let kind = types.and_then(|types| GroupVersionKind::try_from(types).ok());
    let kind = kind.unwrap_or_else(|| panic!("{object:?} has no kind"));
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(admin.clone(), namespace, &resource),
        None => Api::all_with(admin.clone(), &resource),
    };
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &params, &Patch::Apply(&object))
        .await
        .map(|_| ())
        .map_err(Error::api(format!("apply the {} {name}", kind.kind)))
}

fn object(object: impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_else(|error| panic!("not an object: {error}"))
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

fn namespace_of(name: &str) -> Namespace {
    Namespace {
        metadata: named(name),
        ..Namespace::default()
    }
}

fn account_of(namespace: &str, name: &str) -> ServiceAccount {
    ServiceAccount {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            ..named(name)
        },
        ..ServiceAccount::default()
    }
}

fn role_of(name: &str, rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole {
        metadata: named(name),
        rules: Some(rules),
        ..ClusterRole::default()
    }
}

fn binding_of(role: &str, namespace: &str, account: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: named(role),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: role.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: Some(namespace.to_owned()),
            ..Subject::default()
        }]),
    }
}

fn token_request() -> TokenRequest {
    TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    }
}
