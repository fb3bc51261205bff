//! Writes of target Secrets, and what goes of them again.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Error, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, Request},
};
use serde_json::{Value, json};

use super::{Cluster, TRIES, bounded, changing, has_changed};
use crate::{
    FIELD_MANAGER,
    api::{CreationPolicy, Reason, ServiceNowCredential},
    decide::{
        Failure,
        observed::{Credential, Metadata, Version, WriteOutcome},
        ownership::{Desired, Fields, Ownership, TargetObject, TargetWrite, field_manager, judge},
    },
    kubernetes::error::{Call, code, failure, said, timed_out},
    redact::blank_likely,
};

impl Cluster {
    /// Writes the target.
    pub(crate) async fn write_target(
        &self,
        credential: &Credential,
        write: &TargetWrite,
    ) -> WriteOutcome {
        let namespace = &*credential.name.namespace;
        let desired = write.desired();
        let url = Request::new(Secret::url_path(&(), Some(namespace)));
        let (verb, request) = match write {
            TargetWrite::Create(desired) => {
                let body = manifest(credential, desired, None);
                let params = PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                ("create", url.create(&params, body.to_string().into_bytes()))
            }
            TargetWrite::Apply { uid, desired } => {
                let body = manifest(credential, desired, Some(uid));
                let params = PatchParams::apply(FIELD_MANAGER).force();
                (
                    "patch",
                    url.patch(&desired.name, &params, &Patch::Apply(body)),
                )
            }
            TargetWrite::Merge { uid, desired } => {
                let body = merged(credential, desired, uid);
                let params = PatchParams::apply(&merge_manager(credential));
                (
                    "patch",
                    url.patch(&desired.name, &params, &Patch::Apply(body)),
                )
            }
            TargetWrite::Replace {
                version,
                desired,
                dropped,
            } => {
                let body = replacement(credential, version, desired, dropped);
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                (
                    "patch",
                    url.patch(&desired.name, &params, &Patch::Merge(body)),
                )
            }
        };
        let call = Call {
            verb,
            resource: "secrets",
            namespace,
            name: &desired.name,
        };
        if let Err(failure) = self.may_begin() {
            return WriteOutcome::Failed(failure);
        }
        let answer = match request {
            Ok(request) => self.request_metadata(request).await,
            Err(error) => Some(Err(Error::BuildRequest(error))),
        };
        match answer {
            None => WriteOutcome::Failed(timed_out(call)),
            Some(Ok(metadata)) => WriteOutcome::Done(Version::from(&metadata)),
            Some(Err(error)) => refused(error, write, call),
        }
    }

    /// Removes what this resource wrote under an earlier name: deletes the Secret, if it is still
    /// the one with this uid and ours, or takes the keys out that it has merged.
    pub(crate) async fn remove_target(
        &self,
        credential: &Credential,
        name: &str,
        uid: &str,
        policy: CreationPolicy,
    ) -> Result<(), Failure> {
        if policy == CreationPolicy::Merge {
            return self.take_keys_out(credential, name).await;
        }
        let namespace = &*credential.name.namespace;
        let Some(secret) = self.read_secret(namespace, name).await? else {
            return Ok(());
        };
        let target = TargetObject::new(secret, FIELD_MANAGER);
        if target.version.uid != uid || judge(&target, credential, policy) != Ownership::Ours {
            return Ok(());
        }
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: Some(target.version.resource_version.clone()),
            }),
            ..DeleteParams::default()
        };
        let call = Call {
            verb: "delete",
            resource: "secrets",
            namespace,
            name,
        };
        self.may_begin()?;
        match bounded(secrets.delete(name, &params)).await {
            None => Err(timed_out(call)),
            Some(Err(error)) if code(&error) == Some(404) => Ok(()),
            Some(Err(error)) => Err(failure(&error, call)),
            Some(Ok(_)) => Ok(()),
        }
    }

    /// Takes out of somebody's Secret what only this resource holds of it. It is a JSON merge patch,
    /// because an apply of nothing takes out `data` as a whole, with keys that no manager holds.
    async fn take_keys_out(&self, credential: &Credential, name: &str) -> Result<(), Failure> {
        let namespace = &*credential.name.namespace;
        let call = Call {
            verb: "patch",
            resource: "secrets",
            namespace,
            name,
        };
        let manager = merge_manager(credential);
        for _ in 0..TRIES {
            let Some(secret) = self.read_secret(namespace, name).await? else {
                return Ok(());
            };
            let target = TargetObject::new(secret, &manager);
            let held = target.ours.data.iter();
            let nulls = held.filter(|key| !target.theirs.contains_key(*key));
            let nulls: BTreeMap<_, _> = nulls.map(|key| (key, Value::Null)).collect();
            if nulls.is_empty() {
                return Ok(());
            }
            let Version {
                uid,
                resource_version,
            } = &target.version;
            let patch = json!({
                "metadata": {"uid": uid, "resourceVersion": resource_version},
                "data": nulls,
            });
            let params = PatchParams {
                field_manager: Some(manager.clone()),
                ..PatchParams::default()
            };
            let request = Request::new(Secret::url_path(&(), Some(namespace)))
                .patch(name, &params, &Patch::Merge(patch))
                .map_err(|error| failure(&Error::BuildRequest(error), call))?;
            if self.send(request, call).await?.is_some() {
                return Ok(());
            }
        }
        Err(changing("Secret", name))
    }
}

/// What became of a write that the API server refused: judged by what it said, and told without what
/// was sent.
fn refused(error: Error, write: &TargetWrite, call: Call<'_>) -> WriteOutcome {
    let desired = write.desired();
    if is_held_by_another(&error) {
        return WriteOutcome::Conflict(said(&without_data(error, desired)));
    }
    if has_changed(&error) {
        return WriteOutcome::Changed;
    }
    if code(&error) != Some(422) {
        return WriteOutcome::Failed(failure(&without_data(error, desired), call));
    }
    let advice = advice(write, &error);
    let said = said(&without_data(error, desired));
    WriteOutcome::Failed(not_accepted(&desired.name, &said, advice))
}

/// A merge met a key that another field manager holds (Kubernetes documentation, "Server-Side
/// Apply", conflicts).
fn is_held_by_another(error: &Error) -> bool {
    let Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 409
        && causes
            .into_iter()
            .any(|cause| cause.reason == "FieldManagerConflict")
}

fn merge_manager(credential: &Credential) -> String {
    field_manager(&credential.name.name, CreationPolicy::Merge).into_owned()
}

/// The API server does not take the Secret as it was sent, and will not before a person changes
/// something.
fn not_accepted(name: &str, said: &str, advice: &str) -> Failure {
    Failure::new(
        Reason::InternalError,
        format!("The Kubernetes API does not accept the Secret {name:?}: {said}. {advice}"),
    )
}

/// What that person is to do.
fn advice(write: &TargetWrite, error: &Error) -> &'static str {
    match (said(error).contains("`immutable` is set"), write) {
        (true, TargetWrite::Merge { .. }) => {
            "It was made immutable, so it takes no token: whose it is has to create it anew."
        }
        (true, _) => {
            "Somebody made it immutable, so it takes no new token: delete it, and it is created anew \
             within a minute."
        }
        (false, _) => {
            "Correct spec.target: its type says which keys its data must have, and each key what its \
             template must give."
        }
    }
}

/// No message repeats what was sent or a long piece of it, which is looked for before anything is cut
/// off.
fn without_data(mut error: Error, desired: &Desired) -> Error {
    if let Error::Api(status) = &mut error {
        let sent: Vec<_> = desired.data.spellings().collect();
        status.message = blank_likely(&status.message, &sent);
    }
    error
}

fn owner(credential: &Credential) -> Value {
    json!({
        "apiVersion": ServiceNowCredential::api_version(&()),
        "kind": ServiceNowCredential::kind(&()),
        "name": &*credential.name.name,
        "uid": credential.uid,
        "controller": true,
    })
}

/// The target as a whole, for a create or an apply.
fn manifest(credential: &Credential, desired: &Desired, uid: Option<&str>) -> Value {
    let data: BTreeMap<_, _> = desired.data.encoded().collect();
    let mut manifest = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": desired.name,
            "namespace": &*credential.name.namespace,
            "labels": desired.labels,
            "annotations": desired.annotations,
        },
        "data": data,
    });
    if desired.owned {
        manifest["metadata"]["ownerReferences"] = json!([owner(credential)]);
    }
    match uid {
        Some(uid) => manifest["metadata"]["uid"] = json!(uid),
        // A type never changes, so only a create says it.
        None => manifest["type"] = json!(desired.type_),
    }
    manifest
}

/// Our keys of somebody's Secret, and nothing else of it.
fn merged(credential: &Credential, desired: &Desired, uid: &str) -> Value {
    let data: BTreeMap<_, _> = desired.data.encoded().collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": desired.name,
            "namespace": &*credential.name.namespace,
            "uid": uid,
        },
        "data": data,
    })
}

/// The JSON merge patch (RFC 7386) that sets what is desired and takes out what was dropped.
fn replacement(
    credential: &Credential,
    version: &Version,
    desired: &Desired,
    dropped: &Fields,
) -> Value {
    let with_nulls = |wanted: &Metadata, dropped: &std::collections::BTreeSet<String>| {
        let nulls = dropped.iter().map(|name| (name.clone(), Value::Null));
        let values = wanted
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)));
        nulls.chain(values).collect::<serde_json::Map<_, _>>()
    };
    let data: Metadata = desired
        .data
        .encoded()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let owners = if desired.owned {
        json!([owner(credential)])
    } else {
        Value::Null
    };
    json!({
        "metadata": {
            "uid": version.uid,
            "resourceVersion": version.resource_version,
            "labels": with_nulls(&desired.labels, &dropped.labels),
            "annotations": with_nulls(&desired.annotations, &dropped.annotations),
            "ownerReferences": owners,
        },
        "data": with_nulls(&data, &dropped.data),
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kube::core::Status;

    use super::*;
    use crate::{
        decide::template::{Variables, render},
        servicenow::AccessToken,
    };

    const TOKEN: &str = "a-bearer-token-0123456789";

    /// The create of a Secret with these values, and what becomes of it where the API server says so.
    fn refused_with(templates: [(&str, &str); 2], code: u16, message: String) -> WriteOutcome {
        let templates = templates.map(|(key, template)| (key.to_owned(), template.to_owned()));
        let variables = Variables {
            token: &AccessToken::parse(TOKEN).unwrap(),
            scope: "useraccount",
            expires_at: Timestamp::UNIX_EPOCH,
            instance_url: "https://dev1.service-now.com",
            client_id: "the-client",
        };
        let write = TargetWrite::Create(Desired {
            name: "itsm".to_owned(),
            owned: true,
            type_: "Opaque".to_owned(),
            labels: Metadata::new(),
            annotations: Metadata::new(),
            data: render(&templates.into(), &variables).unwrap(),
        });
        let call = Call {
            verb: "create",
            resource: "secrets",
            namespace: "team-a",
            name: "itsm",
        };
        let status = Status {
            code,
            message,
            ..Status::default()
        };
        refused(Error::Api(Box::new(status)), &write, call)
    }

    fn told(outcome: WriteOutcome) -> String {
        match outcome {
            WriteOutcome::Failed(failure) => failure.message().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_that_was_sent_is_told_not_even_in_part_where_the_answer_is_cut() {
        let values = [("header", "Bearer {{ token }}"), ("token", "{{ token }}")];
        for code in [400, 403, 422] {
            for before in 340..420 {
                let message = format!("{} Bearer {TOKEN} {TOKEN}", "x".repeat(before));
                let told = told(refused_with(values, code, message));
                assert!(!told.contains("a-be"), "{told}");
            }
            // A part of what was sent, too.
            let of_the_client = format!("the token {TOKEN} of the-client");
            let told = self::told(refused_with(values, code, of_the_client));
            assert!(told.contains("the token *** of ***"), "{told}");
            let joined = "it holds aWQ6UkZKcTgtc0hlSGpxZjJYMUN0RUhMZkozTnplSWNC".to_owned();
            let told = self::told(refused_with(values, code, joined));
            assert!(told.contains("it holds ***"), "{told}");
        }
    }

    #[test]
    fn what_was_sent_does_not_change_what_an_answer_means() {
        let values = [("a", "metadata.uid"), ("b", "immutable")];
        let replaced = "metadata.uid: Invalid value: it is another".to_owned();
        let outcome = refused_with(values, 422, replaced);
        assert!(matches!(outcome, WriteOutcome::Changed), "{outcome:?}");
        let immutable = "data: Forbidden: field is immutable when `immutable` is set".to_owned();
        let told = told(refused_with(values, 422, immutable));
        assert!(told.contains("Somebody made it immutable"), "{told}");
        assert!(told.contains("when `***` is set"), "{told}");
    }
}
