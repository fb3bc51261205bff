//! What may happen to a resource, drawn at random.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use testkit::servicenow::{Fault, RetryAfter};

use crate::{
    workload::WORKLOAD,
    world::{CaBundle, ClientSecret, NAME, SHARED, TAKEN, World},
};

/// What somebody writes over a value.
pub(crate) const EDITED: &str = "edited";

/// The name of a ConfigMap that nobody creates.
pub(crate) const MISSING: &str = "none";
/// What is put back more often within a minute is a fight.
const PEACEFUL: usize = 3;

/// One thing that somebody does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The spec is changed to this one.
    Spec(Value),
    /// The spec is changed to this one, and admission refuses it.
    Refused(Value),
    Client(ClientSecret),
    Ca(CaBundle),
    /// Somebody else's Secret under the name [`TAKEN`] comes, or goes.
    Taken(bool),
    /// The Secret [`SHARED`] comes, or goes.
    Shared(bool),
    /// A second resource that wants this target comes, or goes.
    Rival(Option<String>),
    Fault(Option<Fault>),
    /// A renewal is asked for.
    Renew,
    DeleteTarget,
    EditTarget,
    /// The resource is deleted, and created again with the same spec.
    Recreate,
}

impl Step {
    /// Something that can happen in this world.
    pub(crate) fn drawn(world: &World, random: &mut StdRng) -> Self {
        match random.random_range(0..26) {
            0..=6 => Self::Spec(changed(world, random)),
            7..=9 => Self::Spec(retargeted(world, random)),
            10 => Self::Refused(refused(world, random)),
            11..=12 => Self::Client(client(random)),
            // It serves from the next request on, so one is asked for, and nothing else may fail it.
            13..=14 if world.fault.is_none() => Self::Ca(ca(random)),
            // Where the name is the target's, the Secret may be ours.
            15 if world.is_taken || world.target() != TAKEN => Self::Taken(!world.is_taken),
            16 => Self::Shared(!world.is_shared),
            17..=18 if world.rival.is_some() => Self::Rival(None),
            17..=18 if !world.merges() => Self::Rival(Some(world.target().to_owned())),
            19..=20 => Self::Fault(match world.fault {
                Some(_) => None,
                None => Some(fault(random)),
            }),
            21..=22 if world.disturbances < PEACEFUL => Self::DeleteTarget,
            23 if world.disturbances < PEACEFUL => Self::EditTarget,
            24 => Self::Recreate,
            _ => Self::Renew,
        }
    }

    /// Whether it makes the operator ask the instance, whatever it has in hand.
    pub(crate) fn forces_a_request(&self) -> bool {
        matches!(self, Self::Fault(_) | Self::Renew)
    }
}

// Of clients and CAs many are good, so that other things happen too.

fn client(random: &mut StdRng) -> ClientSecret {
    let others = [
        ClientSecret::Untrimmed,
        ClientSecret::WrongSecret,
        ClientSecret::WithoutKey,
        ClientSecret::Absent,
    ];
    match random.random_bool(0.5) {
        true => ClientSecret::Good,
        false => *others.choose(random).unwrap(),
    }
}

fn ca(random: &mut StdRng) -> CaBundle {
    let others = [
        CaBundle::AnothersCa,
        CaBundle::NoCertificate,
        CaBundle::Absent,
    ];
    match random.random_bool(0.5) {
        true => CaBundle::Good,
        false => *others.choose(random).unwrap(),
    }
}

fn fault(random: &mut StdRng) -> Fault {
    let all = [
        Fault::AccessDenied,
        Fault::HibernationPage,
        Fault::Maintenance,
        Fault::LoginPage,
        Fault::NoAccessToken,
        Fault::RateLimited {
            retry_after: Some(RetryAfter::Seconds(60)),
        },
    ];
    all.choose(random).unwrap().clone()
}

/// The spec with one field changed, or taken out.
fn changed(world: &World, random: &mut StdRng) -> Value {
    let mut spec = world.spec.clone();
    let fields: &[(&[&str], &[Value])] = &[
        (
            &["target", "data"],
            &[
                json!({"token": "{{ token }}", "authorization": "Bearer {{ token }}"}),
                json!({"password": "{{ token }}", "id": "{{ client_id }}"}),
                json!({"env": "TOKEN={{ token }}\nURL={{ instance_url }}\n", "fixed": "text"}),
                json!({"token": "{{ token | b64encode }}"}),
                json!({"token": "{{ tokn }}"}),
                json!({"token": "{{ token"}),
            ],
        ),
        (
            &["target", "labels"],
            &[json!({"team": "a"}), json!({"team": "b", "more": "x"})],
        ),
        (
            &["target", "annotations"],
            &[json!({"note": "a"}), json!({"note": "b", "more": "x"})],
        ),
        (&["scopes"], &[json!(["useraccount"]), json!(["unknown"])]),
        (
            &["client", "authentication"],
            &[json!("Body"), json!("Basic")],
        ),
        (
            &["renewal"],
            &[
                json!({"renewBefore": "10m"}),
                json!({"renewBefore": "2h"}),
                json!({"renewBeforePercentage": 50}),
            ],
        ),
        (
            &["client", "secretRef", "clientIdKey"],
            &[json!("client-id"), json!("id")],
        ),
        (&["instance"], &[json!("https://evil.example")]),
        (&["suspend"], &[json!(true), json!(false)]),
        (
            &["restart"],
            &[json!([{"kind": "Deployment", "name": WORKLOAD}])],
        ),
        (&["verify"], &[json!({"path": "/api/now/table/sys_user"})]),
        (
            &["grant"],
            &[
                json!({"clientCredentials": {}}),
                json!({"password": {"secretRef": {"name": "nobody"}}}),
            ],
        ),
        (
            &["tls"],
            &[
                json!({"caBundleRef": {"kind": "ConfigMap", "name": MISSING, "key": "ca.crt"}}),
                json!({}),
            ],
        ),
    ];
    let may_change = |path: &[&str]| match path {
        ["target", "labels" | "annotations"] => !world.merges(),
        ["tls"] => world.fault.is_none(),
        _ => true,
    };
    let fields: Vec<_> = fields.iter().filter(|(path, _)| may_change(path)).collect();
    let (path, values) = fields.choose(random).unwrap();
    // Taken out as often as not, so that no trouble lasts for ever.
    let value = random
        .random_bool(0.5)
        .then(|| values.choose(random).unwrap().clone());
    set(&mut spec, path, value);
    spec
}

/// The spec with another target's name, and with any creation policy.
fn retargeted(world: &World, random: &mut StdRng) -> Value {
    let mut spec = world.spec.clone();
    let names = [NAME, "other", "another", TAKEN, SHARED];
    let names: Vec<_> = names.iter().filter(|n| **n != world.target()).collect();
    let name = **names.choose(random).unwrap();
    let policy = match name {
        SHARED => Some("Merge"),
        _ => *[None, Some("Owner"), Some("Orphan")]
            .choose(random)
            .unwrap(),
    };
    let named = (name != NAME).then(|| json!(name));
    set(&mut spec, &["target", "name"], named);
    let policy = policy.map(|policy| json!(policy));
    set(&mut spec, &["target", "creationPolicy"], policy);
    if name == SHARED {
        set(&mut spec, &["target", "labels"], None);
        set(&mut spec, &["target", "annotations"], None);
    }
    spec
}

/// The spec with a field that admission refuses.
fn refused(world: &World, random: &mut StdRng) -> Value {
    let mut spec = world.spec.clone();
    let another_policy = match world.spec["target"]["creationPolicy"].as_str() {
        Some("Orphan") => "Owner",
        _ => "Orphan",
    };
    let fields: &[(&[&str], Value)] = &[
        (&["target", "creationPolicy"], json!(another_policy)),
        (&["instance"], json!("http://dev12345.service-now.com")),
        (&["instance"], json!("two words")),
        (
            &["renewal"],
            json!({"renewBefore": "10m", "renewBeforePercentage": 50}),
        ),
        (&["renewal"], json!({"renewBefore": "10 minutes"})),
        (&["renewal"], json!({"renewBeforePercentage": 81})),
        (&["target", "data"], json!({})),
        (&["target", "labels"], json!({"snowcred.dev/x": "y"})),
        (&["target", "type"], json!("helm.sh/release.v1")),
        (&["verify"], json!({"path": "//evil.example"})),
        (&["client", "secretRef", "name"], json!("Not A Name")),
    ];
    let (path, value) = fields.choose(random).unwrap();
    set(&mut spec, path, Some(value.clone()));
    spec
}

/// Sets a field, or takes it out, with what is empty then.
fn set(spec: &mut Value, path: &[&str], value: Option<Value>) {
    let [first, rest @ ..] = path else {
        return;
    };
    let fields = spec.as_object_mut().unwrap();
    if let (true, Some(value)) = (rest.is_empty(), &value) {
        fields.insert((*first).to_owned(), value.clone());
    } else if rest.is_empty() {
        fields.remove(*first);
    } else {
        let inner = fields.entry(*first).or_insert_with(|| json!({}));
        set(inner, rest, value);
        if inner.as_object().is_some_and(serde_json::Map::is_empty) {
            fields.remove(*first);
        }
    }
}
