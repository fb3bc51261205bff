//! What the operator answers. The documentation of the types and fields is what `kubectl explain`
//! prints. Maxima are no tighter than what the operator may have to write: a status that the API
//! server refuses would be a failure that nobody sees.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{schema, spec::CreationPolicy};

/// What the operator last saw and did. Times are RFC 3339 with microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceNowCredentialStatus {
    /// The generation of the spec that this status answers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: the Secret holds a token that has not expired. Synced: the last attempt worked and
    /// the Secret is as the spec says. Verified: the instance accepted the token on the path of
    /// spec.verify. Ready True with Synced False means that workloads are fine and somebody
    /// should look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]),
        transform = schema::condition
    )]
    pub conditions: Vec<Condition>,

    /// The token in the Secret; never the token itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenStatus>,

    /// The Secret that was written last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetStatus>,

    /// The objects that the spec refers to, as they were when last used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub observed: Vec<ObservedObject>,

    /// The last failure; absent when the last attempt succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureStatus>,

    /// The last restart of the workloads of spec.restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted: Option<RestartedStatus>,

    /// The value of the annotation snowcred.dev/renew-requested-at when it was last acted on,
    /// with success or without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // As long as all annotations of an object together may be.
    #[schemars(length(max = 262_144))]
    pub handled_renew_request: Option<String>,
}

/// The token in the Secret; never the token itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    /// When the token was asked for.
    #[schemars(length(max = 64))]
    pub issued_at: MicroTime,

    /// When the token expires.
    #[schemars(length(max = 64))]
    pub expires_at: MicroTime,

    /// When the token will be renewed.
    #[schemars(length(max = 64))]
    pub renewal_time: MicroTime,

    /// The scope that the instance granted, if it named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // As long as the longest answer that is read.
    #[schemars(length(max = 65_536))]
    pub scope: Option<String>,

    /// The SHA-256 of the token in hexadecimal, which tells whether two tokens are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sha256: Option<String>,
}

/// The Secret that was written last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// The name of the Secret.
    #[schemars(length(max = 253))]
    pub name: String,

    /// The uid of the Secret.
    #[schemars(length(max = 128))]
    pub uid: String,

    /// The resourceVersion of the Secret after the write.
    #[schemars(length(max = 128))]
    pub resource_version: String,

    /// The policy by which the Secret was written.
    pub creation_policy: CreationPolicy,

    /// The SHA-256 over the data that was written, in hexadecimal.
    #[schemars(length(max = 64))]
    pub sha256: String,
}

/// An object that the spec refers to, as it was when last used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedObject {
    /// Secret or ConfigMap.
    #[schemars(length(max = 63))]
    pub kind: String,

    /// The name of the object.
    #[schemars(length(max = 253))]
    pub name: String,

    /// The uid of the object.
    #[schemars(length(max = 128))]
    pub uid: String,

    /// The resourceVersion of the object.
    #[schemars(length(max = 128))]
    pub resource_version: String,
}

/// The last failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// The reason, as in the condition Synced.
    #[schemars(length(max = 128))]
    pub reason: String,

    /// What happened, its likely cause, and the next step.
    #[schemars(length(max = 32_768))]
    pub message: String,

    /// How many attempts in a row have failed.
    pub count: u32,

    /// When the last attempt failed.
    #[schemars(length(max = 64))]
    pub last_time: MicroTime,

    /// When the next attempt is due; absent when only a change of an object helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub retry_time: Option<MicroTime>,
}

/// The last restart of the workloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartedStatus {
    /// The SHA-256 of the token for which the workloads were restarted, in hexadecimal.
    #[schemars(length(max = 64))]
    pub sha256: String,

    /// When the workloads were restarted.
    #[schemars(length(max = 64))]
    pub time: MicroTime,
}
