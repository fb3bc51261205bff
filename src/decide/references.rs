//! The objects that a spec refers to have to exist.

use super::{
    Failure, Seen, Step,
    observed::{Reference, Role},
    settle,
    view::View,
};
use crate::api::{Reason, ServiceNowCredentialSpec};

/// What the spec refers to exists, as far as the caches know.
pub(super) fn references_exist(v: &View<'_>) -> Result<(), Step> {
    let absent = v.references().find(|(_, seen)| **seen == Seen::Absent);
    let Some((reference, _)) = absent else {
        return Ok(());
    };
    let failure = reference_missing(v.spec, reference, &v.o.credential.name.namespace);
    Err(settle::failed_locally(v, &failure).into())
}

/// What a referenced object that does not exist means, whether a cache or a read says so.
pub(crate) fn reference_missing(
    spec: &ServiceNowCredentialSpec,
    reference: &Reference,
    namespace: &str,
) -> Failure {
    let keys = |keys: &[&str]| {
        let quoted: Vec<_> = keys.iter().map(|key| format!("{key:?}")).collect();
        match quoted.as_slice() {
            [key] => format!("the key {key}"),
            keys => format!("the keys {}", keys.join(" and ")),
        }
    };
    let client = &spec.client.secret_ref;
    let (reason, keys) = match reference.role {
        Role::Client => (
            Reason::ClientSecretMissing,
            keys(&[client.client_id_key(), client.client_secret_key()]),
        ),
        Role::User => {
            let user = spec.password_grant().map(|grant| &grant.secret_ref);
            let names = user.map_or(["", ""], |user| [user.username_key(), user.password_key()]);
            (Reason::ReferenceMissing, keys(&names))
        }
        Role::CaBundle => {
            let tls = spec.tls.as_ref();
            let bundle = tls.and_then(|tls| tls.ca_bundle_ref.as_ref());
            let key = bundle.map_or("", |bundle| &bundle.key);
            (Reason::ReferenceMissing, keys(&[key]))
        }
        Role::ClientCertificate => (Reason::ReferenceMissing, keys(&CERTIFICATE_KEYS)),
    };
    Failure::new(
        reason,
        format!(
            "The {} {:?}, which {} names, does not exist in namespace {namespace:?}. Create it with \
             {keys}; it is used as soon as it appears.",
            reference.kind.as_str(),
            reference.name,
            reference.role.field(),
        ),
    )
}

/// The keys of a Secret of type `kubernetes.io/tls` (Kubernetes documentation, "TLS Secrets").
pub(crate) const CERTIFICATE_KEYS: [&str; 2] = ["tls.crt", "tls.key"];
