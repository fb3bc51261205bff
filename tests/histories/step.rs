//! What may happen to a resource, drawn at random.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use testkit::servicenow::{Fault, RetryAfter};

use crate::world::{ClientSecret, TAKEN, World};

/// One thing that somebody does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The spec is changed to this one.
    Spec(Value),
    /// The spec is changed to this one, and admission refuses it.
    Refused(Value),
    Client(ClientSecret),
    /// Somebody else's Secret under the name [`TAKEN`] comes, or goes.
    Taken(bool),
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
        match random.random_range(0..20) {
            0..=9 => Self::Spec(changed(world, random)),
            10 => Self::Refused(refused(world, random)),
            11..=12 => {
                let all = [
                    ClientSecret::Good,
                    ClientSecret::Untrimmed,
                    ClientSecret::WrongSecret,
                    ClientSecret::WithoutKey,
                    ClientSecret::Absent,
                ];
                // Half of them good, so that other things happen too.
                let good = random.random_bool(0.4);
                Self::Client(if good {
                    all[0]
                } else {
                    *all.choose(random).unwrap()
                })
            }
            // Where the name is the target's, the Secret may be ours.
            13 if world.is_taken || world.target() != TAKEN => Self::Taken(!world.is_taken),
            14..=15 => Self::Fault(match world.fault {
                Some(_) => None,
                None => Some(fault(random)),
            }),
            16 => Self::DeleteTarget,
            17 => Self::EditTarget,
            18 => Self::Recreate,
            _ => Self::Renew,
        }
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
            retry_after: Some(RetryAfter::Seconds(1)),
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
        (
            &["target", "name"],
            &[json!("other"), json!("another"), json!(TAKEN)],
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
            &[json!({"caBundleRef": {"kind": "ConfigMap", "name": "none", "key": "ca.crt"}})],
        ),
    ];
    let (path, values) = fields.choose(random).unwrap();
    // Taken out as often as not, so that no trouble lasts for ever.
    let value = random
        .random_bool(0.5)
        .then(|| values.choose(random).unwrap().clone());
    set(&mut spec, path, value);
    spec
}

/// The spec with a field that admission refuses.
fn refused(world: &World, random: &mut StdRng) -> Value {
    let mut spec = world.spec.clone();
    let fields: &[(&[&str], Value)] = &[
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
