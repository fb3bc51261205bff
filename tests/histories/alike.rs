//! Whether an end is what a fresh resource comes to, and what history may decide of it.

use serde_json::{Map, Value, json};

use crate::{
    kept::Kept,
    rival,
    step::EDITED,
    support::end::difference,
    world::{NAME, TAKEN, World},
};

/// The reasons that the instance gives. What it was asked with is what was used.
const OF_THE_INSTANCE: &[&str] = &[
    "AccessDenied",
    "RateLimited",
    "InstanceHibernating",
    "InstanceUnavailable",
    "TlsFailed",
    "InvalidResponse",
];

/// How this end differs from a fresh resource's, but for what history may decide.
pub(crate) fn differs(world: &World, kept: &Kept, fresh: &Value, end: &Value) -> Option<String> {
    if reason(fresh) != "TokenSynced" {
        return differs_in_failure(world, fresh, end).or_else(|| ready_is_wrong(end));
    }
    let orphans = kept.orphans_beside(Some(world.target())).into_keys();
    let orphans = orphans.map(|name| format!("Secret {name}"));
    let left: Vec<_> = orphans.filter(|name| fresh.get(name).is_none()).collect();
    let end = without(without_what_is_theirs(end, fresh), &left);
    let end = without(end.clone(), &rival::objects(&end));
    let fresh = without(fresh.clone(), &rival::objects(fresh));
    (fresh != end).then(|| difference(&fresh, &end))
}

/// Of a failure reason and message are compared. Who is suspended keeps the failure that was before.
fn differs_in_failure(world: &World, fresh: &Value, end: &Value) -> Option<String> {
    let (one, other) = match reason(end) {
        "Suspended" => (synced(fresh).clone(), synced(end).clone()),
        _ => (failure(fresh), failure(end)),
    };
    // A fresh resource learns that its target is somebody else's when it writes; what fails before
    // comes first there.
    let taken = world.is_taken && world.target() == TAKEN;
    let in_the_way = taken && reason(end) == "TargetConflict";
    (one != other && !in_the_way).then(|| difference(&one, &other))
}

/// `Ready` is True exactly if the Secret that was written last still stands, with the token.
fn ready_is_wrong(end: &Value) -> Option<String> {
    let away = match synced(end)["status"].as_str() {
        Some("False") => ("False", reason(end)),
        _ => ("Unknown", "Pending"),
    };
    // An edit that took the token away shows only where the Secret is read.
    let edited = status(end)["token"]["sha256"] != "<of a token in the Secret>";
    let ready = condition(end, "Ready");
    let is_away = ready["status"] == away.0 && ready["reason"] == away.1;
    let right = match target_stands(end) {
        true => is_ready(end) || edited && is_away,
        false => is_away,
    };
    (!right).then(|| format!("Ready is {ready}"))
}

/// Whether `Ready` says that the target holds a valid token.
pub(crate) fn is_ready(end: &Value) -> bool {
    let ready = condition(end, "Ready");
    ready["status"] == "True" && ready["reason"] == "TokenValid"
}

/// Whether the status has a token, and the Secret that it names is the one that was written.
pub(crate) fn target_stands(end: &Value) -> bool {
    let status = status(end);
    status["token"].is_object() && status["target"]["uid"] == "<of the present object>"
}

/// Whether the instance was asked with what the spec refers to as it is now.
pub(crate) fn used_what_is_there(end: &Value) -> bool {
    let observed = status(end)["observed"].as_array();
    OF_THE_INSTANCE.contains(&reason(end))
        && observed.into_iter().flatten().all(|one| {
            [&one["uid"], &one["resourceVersion"]]
                .iter()
                .all(|is| **is == "<of the present object>")
        })
}

pub(crate) fn without_probe(mut end: Value) -> Value {
    let conditions = &mut end[format!("resource {NAME}")]["status"]["conditions"];
    let conditions = conditions.as_array_mut().unwrap();
    conditions.retain(|condition| condition["type"] != "Verified");
    end
}

pub(crate) fn without_history(mut end: Value) -> Value {
    let resource = &mut end[format!("resource {NAME}")];
    for field in ["annotations", "generation"] {
        resource[field] = Value::Null;
    }
    let status = resource["status"].as_object_mut().unwrap();
    status.remove("handledRenewRequest");
    // Only those after the first token are told of.
    status.remove("restarted");
    status.remove("observedGeneration");
    for condition in status["conditions"].as_array_mut().unwrap() {
        condition["observedGeneration"] = Value::Null;
    }
    end
}

/// A key that somebody edited and that the spec no longer has, before it was put back, is theirs.
fn without_what_is_theirs(end: &Value, fresh: &Value) -> Value {
    let mut end = end.clone();
    for (name, object) in end.as_object_mut().unwrap() {
        if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
            let ours = &fresh[name]["data"];
            data.retain(|key, value| value != EDITED || !ours[key].is_null());
        }
    }
    end
}

fn without(mut end: Value, objects: &[String]) -> Value {
    let all: &mut Map<String, Value> = end.as_object_mut().unwrap();
    all.retain(|name, _| !objects.contains(name));
    end
}

fn status(end: &Value) -> &Value {
    &end[format!("resource {NAME}")]["status"]
}

fn condition<'a>(end: &'a Value, kind: &str) -> &'a Value {
    let conditions = status(end)["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|c| c["type"] == kind));
    found.unwrap_or(&Value::Null)
}

fn synced(end: &Value) -> &Value {
    condition(end, "Synced")
}

/// The reason of the condition `Synced`.
pub(crate) fn reason(end: &Value) -> &str {
    synced(end)["reason"].as_str().unwrap_or_default()
}

/// What of an end tells of a failure.
fn failure(end: &Value) -> Value {
    let failure = &status(end)["failure"];
    json!({"synced": synced(end), "failure": [failure["reason"], failure["message"]]})
}

pub(crate) fn target(end: &Value, name: &str) -> Value {
    end[format!("Secret {name}")].clone()
}

/// The resource that owns a Secret.
pub(crate) fn owner<'a>(end: &'a Value, name: &str) -> Option<&'a str> {
    end[format!("Secret {name}")]["owners"][0][0].as_str()
}
