//! What the resources and their Secrets say at one moment.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Reads the resources of one namespace, and the Secrets that they write.
pub(super) struct Observer {
    resources: Api<DynamicObject>,
    secrets: Api<Secret>,
}

/// One resource and its Secret.
pub(super) struct Look {
    pub(super) name: String,
    pub(super) shown: Shown,
    /// The token in the Secret. Never shown.
    pub(super) token: Option<String>,
    /// There is a status, and the Secret holds the token of which it speaks. The two are written
    /// one after the other, so for a moment it does not.
    pub(super) is_settled: bool,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) renews_at: Option<Timestamp>,
    /// What the operator says where the last attempt failed.
    pub(super) failure: Option<String>,
}

/// What makes a line of the view: a change of it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Status and reason of the condition.
    pub(super) ready: String,
    pub(super) synced: String,
    /// The SHA-256 of the token in the Secret, in hexadecimal.
    pub(super) sha256: Option<String>,
    /// Another Secret of the same name has another one.
    pub(super) secret_uid: Option<String>,
}

impl Observer {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        let kind = GroupVersionKind::gvk("snowcred.dev", "v1alpha1", "ServiceNowCredential");
        // The operator's own types are out of reach here: its tests depend on this crate.
        let resource = ApiResource::from_gvk(&kind);
        Self {
            resources: Api::namespaced_with(client.clone(), namespace, &resource),
            secrets: Api::namespaced(client, namespace),
        }
    }

    /// Looks at every resource.
    pub(super) async fn look(&self) -> Result<Vec<Look>, kube::Error> {
        let mut looks = Vec::new();
        for resource in self.resources.list(&ListParams::default()).await? {
            let status = resource.data.get("status").unwrap_or(&Value::Null);
            let target = status["target"]["name"].as_str();
            let secret = match target {
                Some(name) => self.secrets.get_opt(name).await?,
                None => None,
            };
            looks.push(look(
                resource.metadata.name.unwrap_or_default(),
                status,
                secret,
            ));
        }
        Ok(looks)
    }
}

fn look(name: String, status: &Value, secret: Option<Secret>) -> Look {
    let time = |field: &str| status["token"][field].as_str()?.parse().ok();
    let uid = secret.as_ref().and_then(|s| s.metadata.uid.clone());
    let held = secret.and_then(|secret| secret.data?.remove("token"));
    let token = held.and_then(|bytes| String::from_utf8(bytes.0).ok());
    let sha256 = token.as_deref().map(digest);
    let is_answered = status["conditions"].is_array();
    Look {
        name,
        is_settled: is_answered && sha256.as_deref() == status["token"]["sha256"].as_str(),
        token,
        expires_at: time("expiresAt"),
        renews_at: time("renewalTime"),
        failure: status["failure"]["message"].as_str().map(str::to_owned),
        shown: Shown {
            ready: condition(status, "Ready"),
            synced: condition(status, "Synced"),
            sha256,
            secret_uid: uid,
        },
    }
}

/// Status and reason of a condition.
fn condition(status: &Value, kind: &str) -> String {
    let conditions = status["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind);
    match found {
        Some(c) => format!(
            "{} {}",
            c["status"].as_str().unwrap_or_default(),
            c["reason"].as_str().unwrap_or_default()
        ),
        None => "-".to_owned(),
    }
}

fn digest(token: &str) -> String {
    Sha256::digest(token)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn secret(token: &str) -> Secret {
        let data = [("token".to_owned(), ByteString(token.into()))];
        Secret {
            data: Some(data.into()),
            ..Secret::default()
        }
    }

    #[test]
    fn a_secret_is_settled_when_the_status_speaks_of_its_token() {
        let status = json!({"conditions": [], "token": {"sha256": digest("a")}});
        assert!(look(String::new(), &status, Some(secret("a"))).is_settled);
        assert!(!look(String::new(), &status, Some(secret("b"))).is_settled);
        assert!(!look(String::new(), &status, None).is_settled);
        assert!(!look(String::new(), &Value::Null, None).is_settled);
    }

    #[test]
    fn a_condition_is_told_by_status_and_reason() {
        let status = json!({"conditions": [
            {"type": "Ready", "status": "True", "reason": "TokenValid"},
        ]});
        assert_eq!(condition(&status, "Ready"), "True TokenValid");
        assert_eq!(condition(&status, "Synced"), "-");
    }
}
