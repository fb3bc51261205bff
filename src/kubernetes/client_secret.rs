//! The client's id and secret, from the Secret that the spec names.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use zeroize::{Zeroize, Zeroizing};

use super::act::Cluster;
use crate::{
    api::Reason,
    decide::{
        Failure, client_secret_missing,
        observed::{CheckedSpec, ClientRead, Credential, Version},
    },
    servicenow::SharingKey,
};

/// The client as read: the key that everyone with the same client shares, and what of it may be
/// seen.
pub type SharedClient = (Arc<SharingKey>, ClientRead);

/// Types of Secrets that are never sent anywhere, whatever their keys are called.
const REFUSED_TYPES: [&str; 3] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/",
    "helm.sh/",
];

/// Reads the client Secret.
pub async fn read_client(
    cluster: &Cluster,
    credential: &Credential,
    spec: &CheckedSpec,
) -> Result<SharedClient, Failure> {
    let name = &spec.client.secret_ref.name;
    let secret = cluster
        .read_secret(&credential.name.namespace, name)
        .await?;
    let Some(mut secret) = secret else {
        return Err(client_secret_missing(spec, &credential.name.namespace));
    };
    let client = client_of(&secret, spec);
    for value in secret.data.iter_mut().flat_map(|data| data.values_mut()) {
        value.0.zeroize();
    }
    client
}

fn client_of(secret: &Secret, spec: &CheckedSpec) -> Result<SharedClient, Failure> {
    let reference = &spec.client.secret_ref;
    let type_ = secret.type_.as_deref().unwrap_or_default();
    if REFUSED_TYPES
        .iter()
        .any(|refused| type_.starts_with(refused))
    {
        return Err(invalid(format!(
            "The Secret {:?}, which spec.client.secretRef names, is of type {type_:?}, which is never \
             sent anywhere. Put the client's id and secret into a Secret of type Opaque.",
            reference.name
        )));
    }
    let (client_id, id_trimmed) = value(secret, &reference.name, reference.client_id_key())?;
    let (client_secret, secret_trimmed) =
        value(secret, &reference.name, reference.client_secret_key())?;
    let instance = spec
        .instance()
        .map_err(|error| Failure::new(Reason::InvalidSpec, error.to_string()))?;
    let read = ClientRead {
        version: Version::from(&secret.metadata),
        client_id: client_id.to_string(),
        trimmed: id_trimmed || secret_trimmed,
    };
    let key = SharingKey::client_credentials(
        instance,
        spec.authentication(),
        client_id,
        client_secret,
        &spec.scopes,
    );
    Ok((Arc::new(key), read))
}

fn invalid(message: String) -> Failure {
    Failure::new(Reason::ClientSecretInvalid, message)
}

/// A value of the client Secret without the whitespace around it, and whether there was any.
fn value(secret: &Secret, name: &str, key: &str) -> Result<(Zeroizing<String>, bool), Failure> {
    let held = secret.data.as_ref().and_then(|data| data.get(key));
    let Some(bytes) = held else {
        return Err(invalid(format!(
            "The Secret {name:?}, which spec.client.secretRef names, has no key {key:?}. Add it, or \
             name the right key in spec.client.secretRef."
        )));
    };
    let text = std::str::from_utf8(&bytes.0).map_err(|_| {
        invalid(format!(
            "The key {key:?} of the Secret {name:?} is not UTF-8 text. Store the value as ServiceNow \
             shows it."
        ))
    })?;
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(invalid(format!(
            "The key {key:?} of the Secret {name:?} is empty. Store the value as ServiceNow shows it."
        )));
    }
    if trimmed.contains(char::is_control) {
        return Err(invalid(format!(
            "The key {key:?} of the Secret {name:?} has a line break or another control character in \
             its middle. Store the value as ServiceNow shows it, on one line."
        )));
    }
    Ok((
        Zeroizing::new(trimmed.to_owned()),
        trimmed.len() != text.len(),
    ))
}
