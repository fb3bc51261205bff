//! What `decide` looks at: values, gathered by `controller::Core` from the caches, the broker and
//! what the reconcile has read so far.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use sha2::{Digest, Sha256};

use super::{
    Failure, Memory,
    backoff::LONGEST_WAIT,
    failure::class_of,
    ownership::TargetObject,
    probes::Probes,
    renewal::{Validity, plus},
    restarts::Restarted,
    template,
};
use crate::{
    api::{
        AllowedHosts, CaBundleKind, FailureStatus, Instance, InstanceError,
        ServiceNowCredentialSpec, ServiceNowCredentialStatus,
    },
    servicenow::{Exchange, SharedFailure, Urgency},
};

/// A spec with what follows from it alone, worked out once.
#[derive(Clone, Debug)]
pub struct CheckedSpec(Arc<Checked>);

#[derive(Debug)]
struct Checked {
    spec: ServiceNowCredentialSpec,
    references: Vec<Reference>,
    target: Option<Arc<str>>,
    basis: Basis,
    attempt: Basis,
    instance: Result<Instance, InstanceError>,
    violation: Option<String>,
    templates: Result<(), Failure>,
}

impl CheckedSpec {
    /// What decides which token is written and how.
    pub fn basis(&self) -> Basis {
        self.0.basis
    }

    /// What decides how an attempt ends: a change of it ends the wait after a failure.
    pub(super) fn attempt(&self) -> Basis {
        self.0.attempt
    }

    /// Whether a token for the one is a token for the other, if the objects that both refer to by these
    /// names are the same.
    pub fn asks_like(&self, other: &Self) -> bool {
        let asked = |spec: &Self| ServiceNowCredentialSpec {
            target: None,
            renewal: None,
            verify: None,
            restart: Vec::new(),
            suspend: None,
            ..spec.0.spec.clone()
        };
        asked(self) == asked(other)
    }

    /// The objects that it refers to, each role at most once and in the order of the roles.
    pub fn references(&self) -> &[Reference] {
        &self.0.references
    }

    /// The instance that it names.
    pub fn instance(&self) -> Result<&Instance, &InstanceError> {
        self.0.instance.as_ref()
    }

    /// The rule that it breaks, as a sentence.
    pub fn violation(&self) -> Option<&str> {
        self.0.violation.as_deref()
    }

    /// Whether its templates can be rendered.
    pub(super) fn templates(&self) -> Result<(), &Failure> {
        self.0.templates.as_ref().copied()
    }
}

impl From<ServiceNowCredentialSpec> for CheckedSpec {
    fn from(spec: ServiceNowCredentialSpec) -> Self {
        let target = spec.target.as_ref().and_then(|t| t.name.as_deref());
        Self(Arc::new(Checked {
            references: references_of(&spec),
            target: target.map(Arc::from),
            basis: Basis::of_writing(&spec),
            attempt: Basis::of_asking(&spec),
            instance: spec.parsed_instance(),
            violation: spec.validate().err(),
            templates: template::check(spec.target_data()),
            spec,
        }))
    }
}

impl Deref for CheckedSpec {
    type Target = ServiceNowCredentialSpec;

    fn deref(&self) -> &ServiceNowCredentialSpec {
        &self.0.spec
    }
}

/// The kind of an object that is watched for the resources that name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl Kind {
    /// The kind as it stands in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// What an object is referred to for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It holds the client's id and secret.
    Client,
    /// It holds the name and password of the password grant's user.
    User,
    /// It holds the certificate authorities that are trusted besides the public ones.
    CaBundle,
    /// It holds the certificate that is shown to the instance.
    ClientCertificate,
}

impl Role {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// The field of the resource that refers so.
    pub fn field(self) -> &'static str {
        match self {
            Self::Client => "spec.client.secretRef",
            Self::User => "spec.grant.password.secretRef",
            Self::CaBundle => "spec.tls.caBundleRef",
            Self::ClientCertificate => "spec.tls.clientCertificateRef",
        }
    }

    /// What it holds decides whose token is issued, so a change of it asks for a new one at once. A
    /// certificate serves from the next request on.
    pub(crate) fn decides_token(self) -> bool {
        matches!(self, Self::Client | Self::User)
    }
}

/// An object that a spec refers to, in the resource's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// What for.
    pub role: Role,
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
}

fn references_of(spec: &ServiceNowCredentialSpec) -> Vec<Reference> {
    let secret = |role, name: &str| Reference {
        role,
        kind: Kind::Secret,
        name: name.into(),
    };
    let mut references = vec![secret(Role::Client, &spec.client.secret_ref.name)];
    if let Some(grant) = spec.password_grant() {
        references.push(secret(Role::User, &grant.secret_ref.name));
    }
    let tls = spec.tls.as_ref();
    if let Some(bundle) = tls.and_then(|tls| tls.ca_bundle_ref.as_ref()) {
        references.push(Reference {
            kind: match bundle.kind {
                CaBundleKind::ConfigMap => Kind::ConfigMap,
                CaBundleKind::Secret => Kind::Secret,
            },
            ..secret(Role::CaBundle, &bundle.name)
        });
    }
    if let Some(certificate) = tls.and_then(|tls| tls.client_certificate_ref.as_ref()) {
        references.push(secret(Role::ClientCertificate, &certificate.name));
    }
    references
}

/// Something for each role; `None` where the spec has no such reference.
pub type ByRole<T> = [Option<T>; Role::COUNT];

/// Namespace and name of a resource.
#[derive(Clone, Debug, Eq)]
pub struct Name {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Name {
    /// The name of a resource.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// Most names that are compared are copies of one: then their letters need no look.
fn compare(a: &Arc<str>, b: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(a, b) {
        Ordering::Equal
    } else {
        a.cmp(b)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b) || a == b;
        same(&self.name, &other.name) && same(&self.namespace, &other.namespace)
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Without a mark between the two, which a table does not need.
        state.write(self.namespace.as_bytes());
        state.write(self.name.as_bytes());
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.namespace, &other.namespace).then_with(|| compare(&self.name, &other.name))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A `ServiceNowCredential` as it is kept in memory: what is acted upon, and nothing else.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Namespace and name.
    pub name: Name,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.finalizers` has ours.
    pub finalizer: bool,
    /// The annotation `snowcred.dev/renew-requested-at`.
    pub renew_request: Option<String>,
    /// The spec, or why it could not be read.
    pub spec: Result<CheckedSpec, String>,
    /// The status as last read or written.
    pub status: Arc<ServiceNowCredentialStatus>,
}

impl Credential {
    fn neighbour(&self, name: &Arc<str>) -> Name {
        Name {
            namespace: self.name.namespace.clone(),
            name: name.clone(),
        }
    }

    /// The objects that the spec refers to; none where it cannot be read.
    pub fn references(&self) -> impl Iterator<Item = (Role, Kind, Name)> {
        let references = self.spec.as_ref().map_or(&[][..], CheckedSpec::references);
        references.iter().map(|reference| {
            let name = self.neighbour(&reference.name);
            (reference.role, reference.kind, name)
        })
    }

    /// The failure on record, if it was met by this very spec and its wait was not over at `since`. No
    /// wait is longer than an hour, and none begins in the future: what seems so was told by another
    /// clock.
    pub fn recorded_failure(&self, since: Timestamp, now: Timestamp) -> Option<&FailureStatus> {
        let failure = self.status.failure.as_ref()?;
        let same = self.status.observed_generation == Some(self.generation);
        let longest = plus(now, LONGEST_WAIT);
        let waits = |at: &MicroTime| at.0 > since && at.0 <= longest;
        let waits = failure.retry_time.as_ref().is_some_and(waits);
        (same && waits && failure.last_time.0 <= now).then_some(failure)
    }

    /// The failure on record, if another resource of the namespace that has read this client would
    /// have met it too, as its key is the same.
    pub fn failure_shared_with(
        &self,
        other: &Self,
        client: &ClientRead,
        now: Timestamp,
    ) -> Option<&FailureStatus> {
        // How often it failed is remembered for as long as the longest wait.
        let failure = self.recorded_failure(now - LONGEST_WAIT, now)?;
        let class = class_of(failure.reason.parse().ok()?);
        let (Ok(spec), Ok(others)) = (&self.spec, &other.spec) else {
            return None;
        };
        let mut deciding = self.references().filter(|(role, ..)| role.decides_token());
        let as_read = deciding.all(|(role, kind, object)| {
            let read = client.versions[role as usize].as_ref();
            let mut observed = self.status.observed.iter();
            observed.any(|o| {
                let is_it = o.kind == kind.as_str() && *o.name == *object.name;
                is_it && read.is_some_and(|read| read.is(&o.uid, &o.resource_version))
            })
        });
        let shared = class.is_shared() && !class.is_of_origin();
        (shared && as_read && spec.asks_like(others)).then_some(failure)
    }

    /// A renewal was asked for by the annotation, and has not been acted on.
    pub fn asks_for_renewal(&self) -> bool {
        self.renew_request.is_some() && self.renew_request != self.status.handled_renew_request
    }

    /// Its place among others, with this token and this target. Whoever is waited for goes with the new.
    pub fn urgency(&self, token: Option<Validity>, target: &Seen, now: Timestamp) -> Urgency {
        let urgency = Urgency::of(token, now);
        match self.is_awaited(target) {
            true => urgency.min(Urgency::New),
            false => urgency,
        }
    }

    /// Somebody waits for it, whatever its token has left: they changed it, or its target Secret, as
    /// seen, is gone.
    fn is_awaited(&self, target: &Seen) -> bool {
        self.status.observed_generation != Some(self.generation)
            || self.deleting
            || self.asks_for_renewal()
            || *target == Seen::Absent
    }

    /// The Secret that the spec names as its target.
    pub fn target_secret(&self) -> Option<Name> {
        let spec = self.spec.as_ref().ok()?;
        Some(self.neighbour(spec.0.target.as_ref().unwrap_or(&self.name.name)))
    }

    /// The Secret that was written last, as the status says.
    pub fn written_secret(&self) -> Option<Name> {
        let written = self.status.target.as_ref()?;
        let wanted = self
            .target_secret()
            .filter(|name| *name.name == *written.name);
        wanted.or_else(|| Some(self.neighbour(&written.name.as_str().into())))
    }
}

/// One state of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

impl Version {
    /// It is the state with this uid and this resourceVersion.
    pub fn is(&self, uid: &str, resource_version: &str) -> bool {
        self.uid == uid && self.resource_version == resource_version
    }
}

impl From<&ObjectMeta> for Version {
    fn from(metadata: &ObjectMeta) -> Self {
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }
}

/// What the cache knows of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// It was not watched when it last changed.
    #[default]
    Unknown,
    /// It does not exist.
    Absent,
    /// It exists in this state.
    Present(Version),
}

/// What the operator was started with, as far as decisions need it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `--allowed-hosts`, with `--allow-insecure-http`.
    pub allowed_hosts: AllowedHosts,
    /// `--min-renew-interval`.
    pub min_renew_interval: SignedDuration,
}

/// Digest of the parts of a spec from which something follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis([u8; 32]);

impl Basis {
    /// What decides how an attempt ends: everything but when to renew, what is done with the token
    /// afterwards, and whether to do anything at all.
    fn of_asking(spec: &ServiceNowCredentialSpec) -> Self {
        Self::of(ServiceNowCredentialSpec {
            renewal: None,
            verify: None,
            restart: Vec::new(),
            suspend: None,
            ..spec.clone()
        })
    }

    /// What decides which token is written and how. Certificates serve from the next request on.
    fn of_writing(spec: &ServiceNowCredentialSpec) -> Self {
        Self::of_asking(&ServiceNowCredentialSpec {
            tls: None,
            ..spec.clone()
        })
    }

    fn of(relevant: ServiceNowCredentialSpec) -> Self {
        let bytes = serde_json::to_vec(&relevant).unwrap_or_default();
        Self(Sha256::digest(bytes).into())
    }
}

/// The client Secret, and what else a request is made of, as it was read, without what it held.
#[derive(Clone, PartialEq)]
pub struct ClientRead {
    /// The states that were read.
    pub versions: ByRole<Version>,
    /// The client's id, for templates.
    pub client_id: String,
    /// The id or the secret had whitespace around it, which was taken off.
    pub trimmed: bool,
}

impl fmt::Debug for ClientRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRead")
            .field("versions", &self.versions)
            .field("trimmed", &self.trimmed)
            .finish_non_exhaustive()
    }
}

/// Another resource with the same target, which comes first: it wrote the Secret that exists, or
/// it is older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// It is known to have written the Secret that exists.
    pub owns: bool,
}

/// How a write of the target ended.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteOutcome {
    /// Written; this is its state now.
    Done(Version),
    /// It exists already, was replaced, has changed or is gone: look again.
    Changed,
    /// Somebody else holds a key that was to be merged; in the API server's words.
    Conflict(String),
    /// It cannot be written.
    Failed(Failure),
}

/// Everything a decision is made from.
pub struct Observed<'a> {
    /// The moment of the decision.
    pub now: Timestamp,
    /// One draw from `[0, 1)`.
    pub random: f64,
    /// The operator's settings.
    pub policy: &'a Policy,
    /// The resource.
    pub credential: &'a Credential,
    /// What this process remembers.
    pub memory: &'a Memory,
    /// The caches' view of the objects that the spec refers to.
    pub references: ByRole<&'a Seen>,
    /// The cache's view of the target.
    pub target_seen: &'a Seen,
    /// The cache's view of the target that was written under another name.
    pub previous_seen: &'a Seen,
    /// Another resource with the same target that comes first.
    pub rival: Option<Rival>,
    /// Its origin is held, whether or not that keeps it waiting.
    pub origin_is_held: bool,
    /// The failure of its origin that keeps it waiting.
    pub hold: Option<SharedFailure>,
    /// The client Secret as read in this reconcile (or in the one that asked for the token).
    pub client: Option<Result<&'a ClientRead, &'a Failure>>,
    /// When this resource asked for the token that it waits for.
    pub asked_at: Option<Timestamp>,
    /// The broker's knowledge of the client's key; present when `client` is.
    pub exchange: Option<Exchange>,
    /// The target as read in this reconcile: `None` not read, `Some(None)` absent.
    pub target: &'a Option<Option<TargetObject>>,
    /// Why the target could not be read.
    pub unreadable: Option<&'a Failure>,
    /// How the write of this reconcile ended, and the digest of what was written.
    pub written: Option<&'a (String, WriteOutcome)>,
    /// How the removal of earlier targets ended, by their names.
    pub removed: &'a BTreeMap<String, Result<(), Failure>>,
    /// How the change of our finalizer ended.
    pub finalized: Option<&'a Result<(), Failure>>,
    /// How the restarts of workloads ended.
    pub restarted: &'a [Restarted],
    /// Tokens that are being tried out, or were of late.
    pub probes: &'a Probes,
}

/// Labels or annotations.
pub type Metadata = BTreeMap<String, String>;
