//! Whose a Secret is, and what a write has to do to it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use k8s_openapi::{
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference},
};
use kube::Resource;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize;

use super::{
    observed::{Credential, Metadata, Version},
    template::{Rendered, digest},
};
use crate::{
    FIELD_MANAGER,
    api::{CreationPolicy, ServiceNowCredential, ServiceNowCredentialSpec, TargetStatus},
    servicenow::Held,
};

/// Says when the token in the Secret expires (RFC 3339).
pub const EXPIRES_AT: &str = "snowcred.dev/expires-at";
/// Says when the token in the Secret was asked for (RFC 3339).
pub const ISSUED_AT: &str = "snowcred.dev/issued-at";
/// Names the resource that writes the Secret.
pub const CREDENTIAL: &str = "snowcred.dev/credential";
/// The Kubernetes recommended label for the tool that manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Names the resources, separated by commas, that may merge keys into the Secret: the word of
/// whoever owns it.
pub const ALLOW_MERGE: &str = "snowcred.dev/allow-merge";
/// The finalizer of resources that merge: their keys are taken out before they go.
pub const FINALIZER: &str = "snowcred.dev/merged-keys";

/// The field manager by which a resource writes its target. The API server takes out what one
/// manager no longer applies, so whoever merges has one of its own (at most 128 characters).
pub fn field_manager(credential: &str, policy: CreationPolicy) -> Cow<'static, str> {
    const LONGEST: usize = 128;
    if policy != CreationPolicy::Merge {
        return Cow::Borrowed(FIELD_MANAGER);
    }
    let manager = format!("{FIELD_MANAGER}/{credential}");
    if manager.len() <= LONGEST {
        return Cow::Owned(manager);
    }
    let digest = crate::hex(&Sha256::digest(credential));
    let kept = LONGEST - digest.len() - 1;
    Cow::Owned(format!("{}.{digest}", &manager[..kept]))
}

/// A Secret as it stands in the cluster.
#[derive(Clone, PartialEq)]
pub struct TargetObject {
    /// Its uid and resourceVersion.
    pub version: Version,
    /// `type`.
    pub type_: String,
    /// `metadata.labels`.
    pub labels: Metadata,
    /// `metadata.annotations`.
    pub annotations: Metadata,
    /// The owner reference that is a controller.
    pub controller: Option<OwnerReference>,
    /// `data`, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
    /// What our field manager holds.
    pub ours: Fields,
    /// The keys of `data` that other field managers hold, each with one of them.
    pub theirs: BTreeMap<String, String>,
    /// The other field managers, the last writer first.
    pub others: Vec<String>,
    /// Nobody else has written to it since we did.
    pub last_written_by_us: bool,
}

/// Names in a Secret that a field manager may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Keys of `data`.
    pub data: BTreeSet<String>,
    /// Labels.
    pub labels: BTreeSet<String>,
    /// Annotations.
    pub annotations: BTreeSet<String>,
}

impl Fields {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.labels.is_empty() && self.annotations.is_empty()
    }
}

impl std::fmt::Debug for TargetObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetObject")
            .field("version", &self.version)
            .field("keys", &self.data.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Drop for TargetObject {
    fn drop(&mut self) {
        self.data.values_mut().for_each(Zeroize::zeroize);
    }
}

impl TargetObject {
    /// The digest of what it holds under the keys of this spec.
    pub fn digest(&self, spec: &ServiceNowCredentialSpec) -> String {
        let keys = spec.target_data().keys();
        digest(keys.filter_map(|key| Some((key.as_str(), self.data.get(key)?.as_slice()))))
    }

    /// A Secret as it was read, by whoever writes under the name of `manager`.
    pub fn new(secret: Secret, manager: &str) -> Self {
        let metadata = secret.metadata;
        let mut entries = metadata.managed_fields.unwrap_or_default();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.time.as_ref().map(|t| t.0)));
        let (ours, others): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|entry| entry.manager.as_deref() == Some(manager));
        // These times are whole seconds, so a tie says nothing.
        let last = |of: &[ManagedFieldsEntry]| {
            let times = of.iter().filter_map(|entry| entry.time.as_ref());
            times.map(|time| time.0).max()
        };
        let last_written_by_us = last(&ours) > last(&others);
        Self {
            last_written_by_us,
            version: Version {
                uid: metadata.uid.unwrap_or_default(),
                resource_version: metadata.resource_version.unwrap_or_default(),
            },
            type_: secret.type_.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            controller: metadata
                .owner_references
                .unwrap_or_default()
                .into_iter()
                .find(|owner| owner.controller == Some(true)),
            data: secret
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect(),
            ours: fields(&ours),
            theirs: others
                .iter()
                .flat_map(|entry| {
                    let manager = entry.manager.clone().unwrap_or_default();
                    let keys = fields(std::slice::from_ref(entry)).data;
                    keys.into_iter().map(move |key| (key, manager.clone()))
                })
                .collect(),
            others: others.into_iter().filter_map(|e| e.manager).collect(),
        }
    }
}

/// The names under `f:data`, `f:labels` and `f:annotations` (FieldsV1 of server-side apply).
fn fields(entries: &[ManagedFieldsEntry]) -> Fields {
    let mut fields = Fields::default();
    for entry in entries {
        let Some(set) = entry.fields_v1.as_ref().map(|f| &f.0) else {
            continue;
        };
        let collect = |into: &mut BTreeSet<String>, value: &Value| {
            let names = value.as_object().into_iter().flat_map(|o| o.keys());
            into.extend(names.filter_map(|name| name.strip_prefix("f:").map(str::to_owned)));
        };
        collect(&mut fields.data, &set["f:data"]);
        collect(&mut fields.labels, &set["f:metadata"]["f:labels"]);
        collect(&mut fields.annotations, &set["f:metadata"]["f:annotations"]);
    }
    fields
}

/// Whose a Secret is, as one resource sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Its controller owner reference carries this resource's uid.
    Ours,
    /// An earlier resource of the same name left it.
    Predecessors,
    /// The resource of this name owns it.
    Anothers(String),
    /// Somebody else's; the words say whose.
    Foreign(String),
}

/// Judges whose a Secret is, for a resource that writes it by this policy.
pub fn judge(target: &TargetObject, credential: &Credential, policy: CreationPolicy) -> Ownership {
    let name = &*credential.name.name;
    if policy == CreationPolicy::Merge {
        return opened(target, name);
    }
    let orphan = policy == CreationPolicy::Orphan;
    let ours = |owner: &OwnerReference| {
        owner.kind == ServiceNowCredential::kind(&())
            && owner.api_version.starts_with("snowcred.dev/")
    };
    match &target.controller {
        Some(owner) if ours(owner) && owner.uid == credential.uid && !orphan => Ownership::Ours,
        Some(owner) if ours(owner) && owner.name == name => Ownership::Predecessors,
        Some(owner) if ours(owner) => Ownership::Anothers(owner.name.clone()),
        Some(owner) => Ownership::Foreign(format!(
            "it is controlled by {} {:?}",
            owner.kind, owner.name
        )),
        None => {
            let writer = target.annotations.get(CREDENTIAL);
            match writer.filter(|_| !target.ours.is_empty()) {
                // Nothing tells an orphan's present resource from an earlier one.
                Some(writer) if writer == name && orphan => Ownership::Ours,
                Some(writer) if writer == name => Ownership::Predecessors,
                Some(writer) => Ownership::Foreign(format!(
                    "the ServiceNowCredential {writer:?} wrote it, with creationPolicy Orphan"
                )),
                None => Ownership::Foreign(match target.others.first() {
                    Some(manager) => format!("it was last written by {manager:?}"),
                    None => "nothing says who wrote it".to_owned(),
                }),
            }
        }
    }
}

/// Whether the Secret's owner lets this resource merge its keys into it.
fn opened(target: &TargetObject, name: &str) -> Ownership {
    let allowed = target.annotations.get(ALLOW_MERGE);
    let mut names = allowed.into_iter().flat_map(|names| names.split(','));
    if names.any(|allowed| allowed.trim() == name) {
        return Ownership::Ours;
    }
    let owner = target.controller.as_ref();
    let owner = owner.map(|owner| format!(", {} {:?},", owner.kind, owner.name));
    Ownership::Foreign(format!(
        "its owner{} has not opened it to this resource by the annotation {ALLOW_MERGE}: {name}",
        owner.unwrap_or_default()
    ))
}

/// A key that the spec asks for and that somebody else holds in the Secret, with whoever it is.
pub fn contested<'a>(
    target: &'a TargetObject,
    spec: &ServiceNowCredentialSpec,
) -> Option<(String, Option<&'a str>)> {
    let data = spec.target_data();
    let mut keys = data.keys();
    let key =
        keys.find(|key| target.data.contains_key(*key) && !target.ours.data.contains(*key))?;
    Some((key.clone(), target.theirs.get(key).map(String::as_str)))
}

/// The Secrets that a resource may have merged keys into: the one on record, and the one that its
/// spec names, for the day the operator died between the two writes.
pub fn merged_into(credential: &Credential) -> Vec<TargetStatus> {
    let recorded = credential.status.target.clone();
    let named = credential.spec.as_ref().ok().map(|spec| TargetStatus {
        name: spec.target_name(&credential.name.name).to_owned(),
        uid: String::new(),
        resource_version: String::new(),
        creation_policy: spec.creation_policy(),
        sha256: String::new(),
    });
    let mut merged: Vec<_> = recorded.into_iter().chain(named).collect();
    merged.retain(|target| target.creation_policy == CreationPolicy::Merge);
    merged.dedup_by(|a, b| a.name == b.name);
    merged
}

/// A target as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The Secret's name.
    pub name: String,
    /// Whether it is owned by the resource.
    pub owned: bool,
    /// `type`; only a create can set it.
    pub type_: String,
    /// Labels, ours among them.
    pub labels: Metadata,
    /// Annotations, ours among them.
    pub annotations: Metadata,
    /// `data`.
    pub data: Rendered,
}

impl Desired {
    /// What the spec asks for, filled with a token.
    pub fn new(
        credential: &Credential,
        spec: &ServiceNowCredentialSpec,
        held: &Held,
        data: Rendered,
    ) -> Self {
        let policy = spec.creation_policy();
        let name = &credential.name.name;
        if policy == CreationPolicy::Merge {
            return Self {
                name: spec.target_name(name).to_owned(),
                owned: false,
                type_: String::new(),
                labels: Metadata::new(),
                annotations: Metadata::new(),
                data,
            };
        }
        let mut labels = spec.labels().clone();
        labels.insert(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned());
        let mut annotations = spec.annotations().clone();
        for (key, value) in [
            (EXPIRES_AT, timestamp(held.validity.expires_at)),
            (ISSUED_AT, timestamp(held.validity.issued_at)),
            (CREDENTIAL, name.to_string()),
        ] {
            annotations.insert(key.to_owned(), value);
        }
        Self {
            name: spec.target_name(name).to_owned(),
            owned: policy == CreationPolicy::Owner,
            type_: spec.target_type().to_owned(),
            labels,
            annotations,
            data,
        }
    }

    /// What our field manager holds in the Secret and the spec no longer names.
    pub fn dropped(&self, target: &TargetObject) -> Fields {
        let missing = |held: &BTreeSet<String>, wanted: &dyn Fn(&str) -> bool| {
            held.iter().filter(|name| !wanted(name)).cloned().collect()
        };
        let keys: BTreeSet<_> = self.data.keys().collect();
        Fields {
            data: missing(&target.ours.data, &|key| keys.contains(key)),
            labels: missing(&target.ours.labels, &|key| self.labels.contains_key(key)),
            annotations: missing(&target.ours.annotations, &|key| {
                self.annotations.contains_key(key)
            }),
        }
    }
}

/// The one form in which times are written: RFC 3339 in UTC with microseconds.
pub fn timestamp(at: Timestamp) -> String {
    const MICROSECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    MICROSECONDS.timestamp_to_string(&at)
}

/// Reads a time back from an annotation.
pub fn recorded(target: &TargetObject, annotation: &str) -> Option<Timestamp> {
    target.annotations.get(annotation)?.parse().ok()
}

/// Whether a Secret still holds everything that was last written to it.
pub fn is_intact(
    target: &TargetObject,
    spec: &ServiceNowCredentialSpec,
    expires_at: Timestamp,
    written_sha256: &str,
) -> bool {
    let holds = |have: &Metadata, want: &Metadata| want.iter().all(|(k, v)| have.get(k) == Some(v));
    let same = target.digest(spec) == written_sha256;
    if spec.creation_policy() == CreationPolicy::Merge {
        return same;
    }
    same && holds(&target.labels, spec.labels())
        && holds(&target.annotations, spec.annotations())
        && target.labels.get(MANAGED_BY).map(String::as_str) == Some(FIELD_MANAGER)
        && target.annotations.contains_key(CREDENTIAL)
        && target.annotations.contains_key(ISSUED_AT)
        && target.annotations.get(EXPIRES_AT) == Some(&timestamp(expires_at))
}

/// One write of the target.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetWrite {
    /// Our keys go into somebody's Secret: server-side apply, not forced, with the uid that was
    /// seen.
    Merge {
        /// The uid that was seen.
        uid: String,
        /// What is ours of it.
        desired: Desired,
    },
    /// It does not exist, as far as is known.
    Create(Desired),
    /// It is ours: server-side apply, forced, with the uid that was seen.
    Apply {
        /// The uid that was seen.
        uid: String,
        /// What it shall be.
        desired: Desired,
    },
    /// Names of ours have to go, or it is taken over from a predecessor: a JSON merge patch with
    /// uid and resourceVersion, because an apply after a create keeps dropped keys, and cannot
    /// replace a controller.
    Replace {
        /// The state that was seen.
        version: Version,
        /// What it shall be.
        desired: Desired,
        /// What goes.
        dropped: Fields,
    },
}

impl TargetWrite {
    /// What the target shall be.
    pub fn desired(&self) -> &Desired {
        match self {
            Self::Create(desired)
            | Self::Apply { desired, .. }
            | Self::Replace { desired, .. }
            | Self::Merge { desired, .. } => desired,
        }
    }
}
