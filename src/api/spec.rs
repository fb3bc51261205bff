//! What a person writes. The documentation of the types and fields is what `kubectl explain`
//! prints, so it speaks to the person who writes a manifest; the maxima keep the cost of the
//! admission rules bounded.
#![allow(
    rustdoc::bare_urls,
    reason = "kubectl would print the brackets of a link"
)]

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{schema, status::ServiceNowCredentialStatus};

/// Which token is wanted, where it comes from, and into which Secret it goes. Every Secret,
/// ConfigMap and workload named here is looked for in the resource's own namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "snowcred.dev",
    version = "v1alpha1",
    kind = "ServiceNowCredential",
    plural = "servicenowcredentials",
    shortname = "snowcred",
    shortname = "snc",
    category = "snowcred",
    namespaced,
    status = "ServiceNowCredentialStatus",
    doc = "A ServiceNowCredential keeps a valid OAuth bearer token of a ServiceNow instance in a Secret, and renews it before it expires.",
    printcolumn = r#"{"name": "Instance", "type": "string", "jsonPath": ".spec.instance", "description": "The ServiceNow instance."}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "description": "Whether the Secret holds a token that has not expired."}"#,
    printcolumn = r#"{"name": "Synced", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Synced\")].status", "description": "Whether the last attempt worked and the Secret is as the spec says."}"#,
    printcolumn = r#"{"name": "Secret", "type": "string", "jsonPath": ".status.target.name", "description": "The Secret that was written last."}"#,
    printcolumn = r#"{"name": "Expires", "type": "string", "jsonPath": ".status.token.expiresAt", "description": "When the token expires."}"#,
    printcolumn = r#"{"name": "Renews", "type": "string", "priority": 1, "jsonPath": ".status.token.renewalTime", "description": "When the token will be renewed."}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type==\"Synced\")].reason", "description": "Why Synced is as it is."}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceNowCredentialSpec {
    /// The ServiceNow instance: its name, such as dev12345, which means
    /// https://dev12345.service-now.com; or, for a custom URL, an https origin such as
    /// https://itsm.example.com or https://itsm.example.com:8443, without user, path, query or
    /// fragment. The operator contacts only hosts that it was started to allow.
    #[schemars(length(max = 267))]
    pub instance: String,

    /// The OAuth client registered at the instance (there: System OAuth, Application Registry).
    pub client: Client,

    /// How the token is asked for; at most one member. Default: clientCredentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,

    /// The OAuth scopes to ask for, one for each entry. Default: none, and the instance decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 256)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub scopes: Vec<String>,

    /// The Secret that the token is written to. Default: a Secret with the name of this resource,
    /// owned by it, with the key token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,

    /// When the token is renewed; one of the two fields. Default: when a third of its lifetime is
    /// left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,

    /// Use each new token once on a path of the instance, and report in the condition Verified
    /// what came back. Default: tokens are not tried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,

    /// TLS settings for connections to the instance. Default: the public certificate authorities,
    /// and no client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// Workloads that are restarted, as by kubectl rollout restart, when the token's value has
    /// changed; neither the first token nor a new entry restarts anything. Default: none. Needed
    /// only for programs that do not read the Secret's mounted file again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "name"])
    )]
    pub restart: Vec<Workload>,

    /// Whether the operator leaves this resource alone: no token request, no write to the Secret,
    /// no restart. The token in the Secret then expires. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// The OAuth client registered at the instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// The Secret that holds the client's id and secret.
    pub secret_ref: ClientSecretRef,

    /// How the client's id and secret are sent: Basic in the Authorization header, Body as fields
    /// of the form. Default: Basic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // With the enum's own schema, or its description would replace this one.
    #[schemars(with = "ClientAuthentication")]
    pub authentication: Option<ClientAuthentication>,
}

/// A Secret that holds an OAuth client's id and secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientSecretRef {
    /// The name of the Secret, in the namespace of this resource.
    #[schemars(length(max = 253))]
    pub name: String,

    /// The key in the Secret that holds the client's id. Default: client-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub client_id_key: Option<String>,

    /// The key in the Secret that holds the client's secret. Default: client-secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub client_secret_key: Option<String>,
}

/// How the client's id and secret are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ClientAuthentication {
    /// In the Authorization header (RFC 6749, section 2.3.1).
    #[default]
    Basic,
    /// As the form fields `client_id` and `client_secret`.
    Body,
}

/// How the token is asked for; at most one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The client-credentials grant: the token acts as the user that the client's registration
    /// names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_credentials: Option<ClientCredentialsGrant>,

    /// The password grant: the token acts as a user whose name and password a Secret holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordGrant>,
}

/// The client-credentials grant. It has no fields: write {}.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClientCredentialsGrant {}

/// The password grant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordGrant {
    /// The Secret that holds the user's name and password.
    pub secret_ref: UserSecretRef,
}

/// A Secret that holds a user's name and password.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserSecretRef {
    /// The name of the Secret, in the namespace of this resource.
    #[schemars(length(max = 253))]
    pub name: String,

    /// The key in the Secret that holds the user's name. Default: username.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub username_key: Option<String>,

    /// The key in the Secret that holds the password. Default: password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub password_key: Option<String>,
}

/// The Secret that the token is written to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The name of the Secret. Default: the name of this resource. When the name changes, the new
    /// Secret is written first; then the old one is deleted (Owner), left (Orphan), or loses our
    /// keys (Merge).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,

    /// Owner: the Secret is created, belongs to this resource and is deleted with it. Orphan: the
    /// Secret is created and left behind. Merge: only the keys of data are written, into an
    /// existing Secret whose owner has annotated it with snowcred.dev/allow-merge and this
    /// resource's name, and are taken out again with this resource. Cannot change without name.
    /// Default: Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // With the enum's own schema, or its description would replace this one.
    #[schemars(with = "CreationPolicy")]
    pub creation_policy: Option<CreationPolicy>,

    /// The type of the Secret that is created; not with Merge. Cannot change without name.
    /// Default: Opaque.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub type_: Option<String>,

    /// Labels for the Secret that is created, besides the operator's own; not with Merge.
    /// Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), transform = schema::values_at_most::<63>)]
    pub labels: BTreeMap<String, String>,

    /// Annotations for the Secret that is created, besides the operator's own; not with Merge.
    /// Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), transform = schema::values_at_most::<8192>)]
    pub annotations: BTreeMap<String, String>,

    /// The keys of the Secret, each with the template of its value. They know
    /// {{ token }}, {{ token_type }}, {{ scope }}, {{ expires_at }} (RFC 3339),
    /// {{ expires_at_unix }} (seconds), {{ instance_url }} and {{ client_id }}, and a filter
    /// b64encode; there are no statements. All values together are at most 64 KiB. Default: the key token with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64), transform = schema::values_at_most::<65536>)]
    pub data: Option<BTreeMap<String, String>>,
}

/// What becomes of the target Secret when it does not exist, and when the resource goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CreationPolicy {
    /// Created, owned, garbage-collected with the resource.
    #[default]
    Owner,
    /// Created, left behind.
    Orphan,
    /// Our keys in an existing Secret, taken out again when the resource goes.
    Merge,
}

/// When the token is renewed; one of the two fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Renewal {
    /// Renew when this much of the token's lifetime is left: a duration such as 90s, 10m or
    /// 1h30m. It is kept within 10 and 80 percent of the lifetime. Default: a third of the
    /// lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub renew_before: Option<String>,

    /// Renew when this share of the token's lifetime is left, in percent, 10 to 80. Default: a
    /// third of the lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before_percentage: Option<i32>,
}

/// A request that tries out each new token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verify {
    /// The path, with its query, that is requested by GET with each new token. It begins with
    /// /api/, such as /api/now/table/sys_user?sysparm_limit=1.
    #[schemars(length(max = 2048))]
    pub path: String,
}

/// TLS settings for connections to the instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificate authorities in PEM that the instance's certificate may come from, besides the
    /// public ones. Default: the public ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,

    /// A Secret of type kubernetes.io/tls with the certificate and key that the operator shows to
    /// the instance (mutual TLS). Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<LocalSecretRef>,
}

/// A ConfigMap or Secret that holds certificate authorities.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaBundleRef {
    /// ConfigMap or Secret.
    pub kind: CaBundleKind,

    /// The name of the ConfigMap or Secret, in the namespace of this resource.
    #[schemars(length(max = 253))]
    pub name: String,

    /// The key that holds the certificates, such as ca.crt.
    #[schemars(length(max = 253))]
    pub key: String,
}

/// What kind of object holds certificate authorities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CaBundleKind {
    /// A ConfigMap.
    #[default]
    ConfigMap,
    /// A Secret.
    Secret,
}

/// A Secret, by its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LocalSecretRef {
    /// The name of the Secret, in the namespace of this resource.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// A workload that is restarted when the token's value has changed.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Workload {
    /// Deployment, StatefulSet or DaemonSet.
    pub kind: WorkloadKind,

    /// The name of the workload, in the namespace of this resource.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// What kind of workload is restarted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
}
