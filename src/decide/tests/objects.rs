//! The objects and values that the tests put together.

use std::{collections::BTreeMap, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};

use super::scene::Scene;
use crate::{
    api::{Reason, ServiceNowCredentialSpec, ServiceNowCredentialStatus},
    decide::{
        Credential, Failure, Name,
        observed::Version,
        ownership::{Desired, Fields, TargetObject},
        renewal::Validity,
    },
    servicenow::{AccessToken, Held, SharedFailure},
};

/// A moment, in seconds after the beginning of these tests.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(crate) fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

pub(crate) fn version(uid: &str, resource_version: u32) -> Version {
    Version {
        uid: uid.to_owned(),
        resource_version: resource_version.to_string(),
    }
}

/// A token in memory, asked for at `issued` and valid for `lifetime` seconds.
pub(crate) fn held(token: &str, issued: i64, lifetime: i64) -> Held {
    let token = AccessToken::parse(token).unwrap();
    Held {
        sha256: token.sha256(),
        token,
        scope: "useraccount".to_owned(),
        validity: Validity {
            issued_at: at(issued),
            expires_at: at(issued + lifetime),
        },
        sent_at: at(issued),
        at: at(issued),
        kept: false,
    }
}

/// A failure that the broker shares: the `count`th in a row, met at `when`.
pub(crate) fn shared(reason: Reason, count: u32, when: i64, retry: i64) -> SharedFailure {
    SharedFailure {
        failure: Failure::new(reason, format!("It failed: {reason}.")),
        count,
        sent_at: at(when),
        at: at(when),
        retry_at: at(retry),
    }
}

pub(crate) fn spec() -> ServiceNowCredentialSpec {
    let mut spec = ServiceNowCredentialSpec {
        instance: "dev12345".to_owned(),
        ..ServiceNowCredentialSpec::default()
    };
    spec.client.secret_ref.name = "client".to_owned();
    spec
}

pub(crate) fn credential(name: &str) -> Credential {
    Credential {
        name: Name::new("team-a", name),
        uid: format!("{name}-uid"),
        generation: 1,
        resource_version: "1".to_owned(),
        created_at: at(-60),
        deleting: false,
        finalizer: false,
        renew_request: None,
        spec: Ok(spec().into()),
        status: Default::default(),
    }
}

/// Somebody writes another spec.
pub(crate) fn change_spec(
    credential: &mut Credential,
    change: impl FnOnce(&mut ServiceNowCredentialSpec),
) {
    let mut spec = ServiceNowCredentialSpec::clone(credential.spec.as_ref().unwrap());
    change(&mut spec);
    credential.spec = Ok(spec.into());
}

/// Status and reason of a condition.
pub(crate) fn state(status: &ServiceNowCredentialStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == kind);
    found.map_or_else(Default::default, |c| (c.status.clone(), c.reason.clone()))
}

pub(crate) fn is(status: &str, reason: Reason) -> (String, String) {
    (status.to_owned(), reason.as_str().to_owned())
}

/// A condition that is so since this second.
pub(crate) fn condition(
    kind: &str,
    status: &str,
    reason: Reason,
    since: i64,
    message: &str,
) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(at(since)),
        observed_generation: None,
    }
}

/// The Secret that a write leaves behind.
pub(crate) fn secret_of(
    credential: &Credential,
    desired: &Desired,
    version: Version,
) -> TargetObject {
    let data: BTreeMap<_, _> = desired
        .data
        .encoded()
        .map(|(key, value)| (key.to_owned(), STANDARD.decode(value).unwrap()))
        .collect();
    TargetObject {
        version,
        type_: desired.type_.clone(),
        labels: desired.labels.clone(),
        annotations: desired.annotations.clone(),
        controller: Some(owner(
            "ServiceNowCredential",
            &credential.name.name,
            &credential.uid,
        )),
        ours: Fields {
            data: data.keys().cloned().collect(),
            labels: desired.labels.keys().cloned().collect(),
            annotations: desired.annotations.keys().cloned().collect(),
        },
        data,
        theirs: BTreeMap::new(),
        others: Vec::new(),
        last_written_by_us: true,
    }
}

pub(crate) fn owner(kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: if kind == "ServiceNowCredential" {
            "snowcred.dev/v1alpha1".to_owned()
        } else {
            "apps/v1".to_owned()
        },
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// A Secret that nobody of ours wrote.
pub(crate) fn foreign_secret(version: Version) -> TargetObject {
    TargetObject {
        version,
        type_: "Opaque".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        controller: None,
        data: BTreeMap::from([("token".to_owned(), b"theirs".to_vec())]),
        ours: Fields::default(),
        theirs: BTreeMap::from([("token".to_owned(), "kubectl".to_owned())]),
        others: vec!["kubectl".to_owned()],
        last_written_by_us: false,
    }
}

/// The target of [`Scene::synced`], as it was written.
pub(crate) fn first_secret(resource_version: u32) -> TargetObject {
    static FIRST: LazyLock<TargetObject> = LazyLock::new(|| {
        let scene = Scene::new().holding(held("first", 0, 1800)).reads_client();
        let (write, _) = scene.writes();
        secret_of(&scene.credential, write.desired(), version("", 0))
    });
    let mut target = FIRST.clone();
    target.version = version("itsm-secret-uid", resource_version);
    target
}
