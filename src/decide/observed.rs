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
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use super::{Class, Failure, Transition, ownership::TargetObject, template};
use crate::{
    api::{
        AllowedHosts, FailureStatus, Instance, InstanceError, ServiceNowCredentialSpec,
        ServiceNowCredentialStatus,
    },
    servicenow::{Exchange, SharedFailure},
};

/// A spec with what follows from it alone, worked out once.
#[derive(Clone, Debug)]
pub struct CheckedSpec(Arc<Checked>);

#[derive(Debug)]
struct Checked {
    spec: ServiceNowCredentialSpec,
    client_secret: Arc<str>,
    target: Option<Arc<str>>,
    basis: Basis,
    instance: Result<Instance, InstanceError>,
    violation: Option<String>,
    templates: Result<(), Failure>,
}

impl CheckedSpec {
    /// What decides which token is written and how.
    pub fn basis(&self) -> Basis {
        self.0.basis
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
            client_secret: spec.client.secret_ref.name.as_str().into(),
            target: target.map(Arc::from),
            basis: Basis::of(&spec),
            instance: spec.parsed_instance(),
            violation: spec.validate().err(),
            templates: template::check(&spec.target_data()),
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
        self.cmp(other).is_eq()
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.namespace, &self.name).hash(state);
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

    /// The Secret of the client that the spec names.
    pub fn client_secret(&self) -> Option<Name> {
        let spec = self.spec.as_ref().ok()?;
        Some(self.neighbour(&spec.0.client_secret))
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

/// Digest of the parts of a spec that decide which token is written and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis([u8; 32]);

impl Basis {
    /// The digest of a spec: everything but when to renew and whether to do anything at all.
    fn of(spec: &ServiceNowCredentialSpec) -> Self {
        let relevant = ServiceNowCredentialSpec {
            renewal: None,
            suspend: None,
            ..spec.clone()
        };
        let bytes = serde_json::to_vec(&relevant).unwrap_or_default();
        Self(Sha256::digest(bytes).into())
    }
}

/// What this process remembers of a resource between two reconciles. Losing it costs no
/// correctness.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The spec that the Secret was last written for.
    pub basis: Option<Basis>,
    /// The last failure: waiting is not written each time.
    pub failure: Option<Arc<Remembered>>,
    /// The last failure that the instance was the cause of, and how many in a row: what the cluster
    /// comes to meanwhile does not make it the first again.
    pub shared: Option<(Class, u32)>,
    /// The value of the renew annotation, and when it was first seen.
    pub renew_request: Option<(String, Timestamp)>,
    /// When the target was put back, of late.
    pub put_backs: Vec<Timestamp>,
    /// Writes of the status that failed in a row.
    pub unwritten: u32,
    /// The event that was to go with the last one of them: it may have taken effect all the same.
    pub untold: Option<Transition>,
    /// The clock was set back since the token with this beginning was recorded: its times are wrong.
    pub distrusted: Option<Timestamp>,
    /// A state of the target that was found to be somebody else's, and what was said of it.
    pub judged_target: Option<(Version, Failure)>,
}

impl Memory {
    /// The clock was set back by this much, and the token on record began at `issued_at`.
    pub fn clock_set_back(&mut self, by: SignedDuration, issued_at: Option<Timestamp>) {
        self.distrusted = issued_at;
        if let Some(remembered) = self.failure.as_mut().map(Arc::make_mut) {
            let failure = &mut remembered.failure;
            failure.last_time.0 -= by;
            if let Some(retry) = &mut failure.retry_time {
                retry.0 -= by;
            }
        }
        if let Some((_, since)) = &mut self.renew_request {
            *since -= by;
        }
        self.put_backs.iter_mut().for_each(|at| *at -= by);
    }
}

/// A failure, and what it was met with: a change of either ends the wait.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// The failure as the status would say it.
    pub failure: FailureStatus,
    /// The spec.
    pub basis: Basis,
    /// The client Secret.
    pub client: Seen,
}

/// The client Secret as it was read, without what it held.
#[derive(Clone, PartialEq)]
pub struct ClientRead {
    /// The state that was read.
    pub version: Version,
    /// The client's id, for templates.
    pub client_id: String,
    /// The id or the secret had whitespace around it, which was taken off.
    pub trimmed: bool,
}

impl fmt::Debug for ClientRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRead")
            .field("version", &self.version)
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
}

/// How a write of the target ended.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteOutcome {
    /// Written; this is its state now.
    Done(Version),
    /// It exists already, was replaced, has changed or is gone: look again.
    Changed,
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
    /// The cache's view of the client Secret.
    pub client_seen: &'a Seen,
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
    /// How the removal of the previous target ended.
    pub removed: Option<&'a Result<(), Failure>>,
}

/// Labels or annotations.
pub type Metadata = BTreeMap<String, String>;
