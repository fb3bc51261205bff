//! What a token request is made of, from the objects that the spec refers to.

use std::sync::Arc;

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use zeroize::{Zeroize, Zeroizing};

use super::act::Cluster;
use crate::{
    api::Reason,
    decide::{
        CERTIFICATE_KEYS, Failure,
        observed::{ByRole, CheckedSpec, ClientRead, Credential, Kind, Reference, Role, Version},
        reference_missing,
    },
    servicenow::{
        SharingKey, Tls,
        stored::{self, AS_SHOWN},
    },
};

/// The client as read: the key that everyone with the same client shares, and what of it may be
/// seen.
pub type SharedClient = (Arc<SharingKey>, ClientRead);

/// What reading the objects that a spec refers to came to.
pub struct ReferencesRead {
    /// The states in which they were found, `None` for one that does not exist. Those after the
    /// first that cannot be used were not looked at.
    pub found: ByRole<Option<Version>>,
    /// What the request is made of.
    pub client: Result<SharedClient, Failure>,
}

/// Types of Secrets that are never sent anywhere, whatever their keys are called.
const REFUSED_TYPES: [&str; 3] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/",
    "helm.sh/",
];

/// Reads the objects that the spec refers to.
pub async fn read_references(
    cluster: &Cluster,
    credential: &Credential,
    spec: &CheckedSpec,
) -> ReferencesRead {
    let mut found = ByRole::default();
    let client = read(cluster, credential, spec, &mut found).await;
    ReferencesRead { found, client }
}

async fn read(
    cluster: &Cluster,
    credential: &Credential,
    spec: &CheckedSpec,
    found: &mut ByRole<Option<Version>>,
) -> Result<SharedClient, Failure> {
    let namespace = &*credential.name.namespace;
    let mut objects: ByRole<Object> = ByRole::default();
    for reference in spec.references() {
        let name = &*reference.name;
        let object = match reference.kind {
            Kind::Secret => cluster
                .read_secret(namespace, name)
                .await?
                .map(Object::from),
            Kind::ConfigMap => {
                let config_map = cluster.read_config_map(namespace, name).await?;
                config_map.map(Object::from)
            }
        };
        let role = reference.role as usize;
        found[role] = Some(object.as_ref().map(|object| object.version.clone()));
        let object = object.ok_or_else(|| reference_missing(spec, reference, namespace))?;
        object.may_be_sent(reference)?;
        objects[role] = Some(object);
    }
    shared_client(spec, &objects)
}

/// A Secret or a ConfigMap. It holds secrets, so it has no `Debug`.
struct Object {
    version: Version,
    type_: String,
    data: Vec<(String, Vec<u8>)>,
}

impl From<Secret> for Object {
    fn from(secret: Secret) -> Self {
        let data = secret.data.unwrap_or_default();
        Self::new(&secret.metadata, secret.type_, data)
    }
}

impl From<ConfigMap> for Object {
    fn from(config_map: ConfigMap) -> Self {
        let binary = config_map.binary_data.unwrap_or_default().into_iter();
        let text = config_map.data.unwrap_or_default().into_iter();
        let text = text.map(|(key, value)| (key, ByteString(value.into_bytes())));
        Self::new(&config_map.metadata, None, text.chain(binary))
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.data.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

impl Object {
    fn new(
        metadata: &ObjectMeta,
        type_: Option<String>,
        data: impl IntoIterator<Item = (String, ByteString)>,
    ) -> Self {
        Self {
            version: Version::from(metadata),
            type_: type_.unwrap_or_default(),
            data: data
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect(),
        }
    }

    fn may_be_sent(&self, reference: &Reference) -> Result<(), Failure> {
        let type_ = &self.type_;
        if !REFUSED_TYPES
            .iter()
            .any(|refused| type_.starts_with(refused))
        {
            return Ok(());
        }
        Err(invalid(
            reference,
            &format!(
                "is of type {type_:?}, which is never sent anywhere. Put what the field asks for \
                 into a Secret of its own"
            ),
        ))
    }

    fn bytes(&self, reference: &Reference, key: &str) -> Result<&[u8], Failure> {
        let held = self.data.iter().find(|(held, _)| held == key);
        held.map(|(_, value)| value.as_slice()).ok_or_else(|| {
            let field = reference.role.field();
            invalid(
                reference,
                &format!("has no key {key:?}. Add it, or name the right key in {field}"),
            )
        })
    }

    /// A value as ServiceNow shows it.
    fn text(&self, reference: &Reference, key: &str) -> Result<&str, Failure> {
        let bytes = self.bytes(reference, key)?;
        std::str::from_utf8(bytes).map_err(|_| unusable(reference, key, "is not UTF-8 text"))
    }
}

fn shared_client(spec: &CheckedSpec, objects: &ByRole<Object>) -> Result<SharedClient, Failure> {
    let instance = spec
        .instance()
        .map_err(|error| Failure::new(Reason::InvalidSpec, error.to_string()))?;
    let referred = |role: Role| {
        let reference = spec.references().iter().find(|r| r.role == role)?;
        Some((reference, objects[role as usize].as_ref()?))
    };
    let bug = || Failure::new(Reason::InternalError, "The client Secret was not read.");
    let (reference, object) = referred(Role::Client).ok_or_else(bug)?;
    let keys = &spec.client.secret_ref;
    let (client_id, id_trimmed) = trimmed(object, reference, keys.client_id_key())?;
    let (client_secret, secret_trimmed) = trimmed(object, reference, keys.client_secret_key())?;
    let read = ClientRead {
        versions: objects
            .each_ref()
            .map(|object| Some(object.as_ref()?.version.clone())),
        client_id: client_id.to_string(),
        trimmed: id_trimmed || secret_trimmed,
    };
    let mut key = SharingKey::client_credentials(
        instance,
        spec.authentication(),
        client_id,
        client_secret,
        &spec.scopes,
    );
    if let (Some((reference, object)), Some(grant)) = (referred(Role::User), spec.password_grant())
    {
        let keys = &grant.secret_ref;
        let (name, _) = trimmed(object, reference, keys.username_key())?;
        let password = password(object, reference, keys.password_key())?;
        key = key.for_user(name, password);
    }
    let mut tls = Tls::default();
    let bundle = spec.tls.as_ref().and_then(|tls| tls.ca_bundle_ref.as_ref());
    if let (Some((reference, object)), Some(bundle)) = (referred(Role::CaBundle), bundle) {
        let pem = object.bytes(reference, &bundle.key)?;
        tls = tls.trusting(pem).map_err(|what| {
            let what = format!(
                "has a key {:?} that {what}. Store CA certificates in PEM",
                bundle.key
            );
            invalid(reference, &what)
        })?;
    }
    if let Some((reference, object)) = referred(Role::ClientCertificate) {
        let [chain, private] = CERTIFICATE_KEYS.map(|key| object.bytes(reference, key));
        tls = tls.showing(chain?, private?).map_err(|what| {
            let what = format!(
                "{what}. Store a certificate and its key in PEM, as kubectl create secret tls does"
            );
            invalid(reference, &what)
        })?;
    }
    Ok((Arc::new(key.over(tls)), read))
}

fn invalid(reference: &Reference, what: &str) -> Failure {
    let reason = match reference.role {
        Role::Client => Reason::ClientSecretInvalid,
        _ => Reason::ReferenceInvalid,
    };
    let (kind, name) = (reference.kind.as_str(), &reference.name);
    let field = reference.role.field();
    Failure::new(
        reason,
        format!("The {kind} {name:?}, which {field} names, {what}."),
    )
}

/// An id, a name or a secret, and whether there was white space around it.
fn trimmed(
    object: &Object,
    reference: &Reference,
    key: &str,
) -> Result<(Zeroizing<String>, bool), Failure> {
    let text = object.text(reference, key)?;
    let value = stored::trimmed(text).map_err(|wrong| unusable(reference, key, wrong))?;
    let trimmed = value.len() != text.len();
    Ok((value, trimmed))
}

fn password(
    object: &Object,
    reference: &Reference,
    key: &str,
) -> Result<Zeroizing<String>, Failure> {
    let text = object.text(reference, key)?;
    stored::password(text).map_err(|wrong| unusable(reference, key, wrong))
}

fn unusable(reference: &Reference, key: &str, wrong: &str) -> Failure {
    invalid(
        reference,
        &format!("has a key {key:?} that {wrong}. {AS_SHOWN}"),
    )
}
