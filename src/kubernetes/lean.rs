//! Objects without what nobody acts upon. `managedFields` is the largest part of what the API server
//! tells of an object whose content is small, and is passed over unread.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::ServiceNowCredential;

/// The metadata of an object of kind `K`: name, namespace, uid and resourceVersion. Its requests ask
/// for metadata alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "")]
pub(super) struct Identified<K> {
    #[serde(deserialize_with = "identity")]
    pub(super) metadata: ObjectMeta,
    #[serde(skip)]
    kind: PhantomData<K>,
}

/// A `ServiceNowCredential` of which only the metadata has to make sense: one that somebody else
/// stored in another form is still one object of a list.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Trimmed {
    #[serde(deserialize_with = "acted_upon")]
    pub(super) metadata: ObjectMeta,
    /// The spec, as it came.
    #[serde(default)]
    pub(super) spec: Value,
    /// The status, as it came.
    #[serde(default)]
    pub(super) status: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl From<Identity> for ObjectMeta {
    fn from(identity: Identity) -> Self {
        Self {
            name: identity.name,
            namespace: identity.namespace,
            uid: identity.uid,
            resource_version: identity.resource_version,
            ..Self::default()
        }
    }
}

fn identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Identity::deserialize(deserializer).map(ObjectMeta::from)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActedUpon {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    annotations: Option<BTreeMap<String, String>>,
}

fn acted_upon<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    ActedUpon::deserialize(deserializer).map(|lean| ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version,
        generation: lean.generation,
        creation_timestamp: lean.creation_timestamp,
        deletion_timestamp: lean.deletion_timestamp,
        finalizers: lean.finalizers,
        annotations: lean.annotations,
        ..ObjectMeta::default()
    })
}

impl<K: Resource<DynamicType = ()>> Resource for Identified<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn metadata_api() -> bool {
        true
    }
}

impl Resource for Trimmed {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        ServiceNowCredential::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        ServiceNowCredential::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        ServiceNowCredential::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        ServiceNowCredential::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
