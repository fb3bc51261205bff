//! What to do, decided from values: no I/O, no clock, no randomness but what is passed in.
//!
//! [`decide`] is a total function over an ordered chain of checks; the first that applies wins. It
//! answers with one [`Step`]. Whoever drives it carries the step out, adds what came of it to
//! [`Observed`] and asks again, until the step is [`Step::Settle`]. One step at a time, and not a
//! whole plan, because most reads are needed only when an earlier look says so: a fleet at rest
//! reads nothing. Every stop between two steps is a place where the operator may die, so a test
//! can kill it at each of them.

pub mod after;
pub mod backoff;
mod end;
pub mod failure;
pub mod observed;
pub mod ownership;
pub mod renewal;
mod settle;
mod status;
mod synced;
pub mod template;
#[cfg(test)]
mod tests;
mod view;

use jiff::{SignedDuration, Timestamp};

pub use failure::{Class, Failure};
pub use observed::{Credential, Memory, Name, Observed, Seen};
pub use settle::{Outcome, Settle, Transition};

use crate::{
    api::{CreationPolicy, Reason, ServiceNowCredentialSpec, TargetStatus, Workload},
    servicenow::{Exchange, Held, Known, Urgency},
};
use observed::{ClientRead, Judged, Reference, Role, WriteOutcome};
use ownership::{ALLOW_MERGE, Desired, Ownership, TargetObject, TargetWrite};
use view::View;
pub(crate) use view::validity_of;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// Read the client Secret and whatever else a request is made of, and look its key up with the
    /// broker.
    ReadClient,
    /// Read the Secret that the target's name stands for.
    ReadTarget,
    /// Ask the broker for a token, and look at the exchange again.
    Ask(Box<Wish>),
    /// Write the target.
    Write {
        /// How.
        write: Box<TargetWrite>,
        /// It restores what somebody else deleted or edited.
        put_back: bool,
    },
    /// Delete the target that was written under its old name, by uid; or take our keys out of it.
    RemovePrevious {
        /// The Secret's name.
        name: String,
        /// Its uid.
        uid: String,
        /// The policy by which it was written.
        policy: CreationPolicy,
    },
    /// Put our finalizer on the resource, or take it off.
    SetFinalizer(bool),
    /// Restart a workload, because the token's value has changed.
    Restart {
        /// The workload.
        workload: Workload,
        /// What it is restarted for.
        value: after::NewValue,
    },
    /// Write the status if it changed, and wait.
    Settle(Box<Settle>),
}

/// What a resource wants of the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Its place in the queue.
    pub urgency: Urgency,
    /// What it knows of its token.
    pub known: Option<Known>,
    /// The moment before which asking gains nothing: the expiry of a token that is kept until then.
    pub not_before: Option<Timestamp>,
    /// The token came by this very client.
    pub good_before: bool,
    /// Failures in a row that its status remembers, and of which class.
    pub failures: Option<(Class, u32)>,
    /// A person asked for it.
    pub forced: bool,
}

/// Put-backs within a minute that are taken for a fight.
const FIGHT: usize = 3;
/// A resource whose keys cannot be taken out of a Secret is let go after so many tries.
const LETTING_GO_TRIES: u32 = 6;
/// The time within which they are counted, and for which a fight is left alone.
const FIGHT_PERIOD: SignedDuration = SignedDuration::from_secs(60);

/// Decides the next step for one resource.
pub fn decide(observed: &Observed<'_>) -> Step {
    match chain(observed) {
        Ok(step) | Err(step) => step,
    }
}

/// The end of a reconcile whose beginning was told by a clock that has been set back since.
pub fn abandon(observed: &Observed<'_>) -> Settle {
    settle::leave_alone(observed)
}

/// The end of a reconcile that met a bug: it is tried again, backed off.
pub fn fail(observed: &Observed<'_>, failure: &Failure) -> Settle {
    let fallback = ServiceNowCredentialSpec::default().into();
    let spec = observed.credential.spec.as_ref().unwrap_or(&fallback);
    settle::failed_alone(&View::new(observed, spec), failure)
}

/// The checks in their order. `Err` is the first that applied, `Ok` the end of the chain.
fn chain(o: &Observed<'_>) -> Result<Step, Step> {
    if o.credential.deleting {
        return Err(deleted(o));
    }
    let spec = match &o.credential.spec {
        Ok(spec) => spec,
        Err(unreadable) => {
            let failure = Failure::new(
                Reason::InvalidSpec,
                format!(
                    "This operator cannot read the spec: {unreadable}. The CRD may be newer than the \
                     operator: upgrade the operator, or correct the spec."
                ),
            );
            return Err(settle::unreadable(o, &failure).into());
        }
    };
    let v = View::new(o, spec);
    if spec.suspended() {
        return Err(settle::suspended(&v).into());
    }
    spec_is_acceptable(&v)?;
    let v = v.with_renewal_time_fit();
    target_is_free(&v)?;
    references_exist(&v)?;
    write_has_not_failed(&v)?;
    let v = with_target_read(v)?;
    if !v.needs_token() {
        return Ok(finish(&v, None));
    }
    // A token at hand serves in spite of what its instance has come to since.
    let nothing_at_hand = v.token.is_none() && v.has_failed_like_this();
    let only_a_new_token_helps = nothing_at_hand || (v.target_stands() && !v.basis_has_changed());
    if only_a_new_token_helps || v.waits_for_the_cluster() {
        no_wait_is_left(&v)?;
    }
    let (client, exchange) = client_is_read(&v)?;
    let held = match token_is_held(&v, exchange) {
        Ok(held) => held,
        Err(step) => {
            old_token_is_put_back(&v, client, exchange)?;
            if v.has_written() {
                previous_is_removed(&v)?;
                // What was written has to be on record before another token can be: it is asked
                // for, or found to be there by now, in a round of its own.
                if matches!(step, Step::Ask(_)) {
                    return Err(settle::put_back(&v).into());
                }
            }
            return Err(step);
        }
    };
    target_is_written(&v, client, held)?;
    Ok(finish(&v, Some((client, held))))
}

/// The spec is one that this operator can act upon.
fn spec_is_acceptable(v: &View<'_>) -> Result<(), Step> {
    let local = |reason, message: String| {
        Step::from(settle::failed_locally(v, &Failure::new(reason, message)))
    };
    if let Some(sentence) = v.spec.violation() {
        return Err(local(Reason::InvalidSpec, sentence.to_owned()));
    }
    // What the Secret was last written for has passed the rest already.
    if v.o.memory.basis == Some(v.basis) {
        return Ok(());
    }
    let instance = v
        .spec
        .instance()
        .map_err(|error| local(Reason::InvalidSpec, error.to_string()))?;
    if !v.o.policy.allowed_hosts.allows(instance) {
        let message = format!(
            "The operator was not allowed to send credentials to {}: its --allowed-hosts does not \
             list that host. Correct spec.instance, or ask whoever runs the operator to add the host.",
            instance.origin()
        );
        return Err(local(Reason::HostNotAllowed, message));
    }
    v.spec
        .templates()
        .map_err(|failure| settle::failed_locally(v, failure).into())
}

/// No other resource has the same target and comes first.
fn target_is_free(v: &View<'_>) -> Result<(), Step> {
    let Some(rival) = &v.o.rival else {
        return Ok(());
    };
    let failure = Failure::new(
        Reason::TargetConflict,
        format!(
            "The Secret {:?} is the target of the ServiceNowCredential {:?} too, which came first. \
             Give this one another spec.target.name, or delete the other.",
            v.target_name(),
            rival.name
        ),
    );
    Err(settle::failed_locally(v, &failure).into())
}

/// What the spec refers to exists, as far as the caches know.
fn references_exist(v: &View<'_>) -> Result<(), Step> {
    let absent = v.references().find(|(_, seen)| **seen == Seen::Absent);
    let Some((reference, _)) = absent else {
        return Ok(());
    };
    let failure = reference_missing(v.spec, reference, &v.o.credential.name.namespace);
    Err(settle::failed_locally(v, &failure).into())
}

/// What a referenced object that does not exist means, whether a cache or a read says so.
pub(crate) fn reference_missing(
    spec: &ServiceNowCredentialSpec,
    reference: &Reference,
    namespace: &str,
) -> Failure {
    let keys = |keys: &[&str]| {
        let quoted: Vec<_> = keys.iter().map(|key| format!("{key:?}")).collect();
        match quoted.as_slice() {
            [key] => format!("the key {key}"),
            keys => format!("the keys {}", keys.join(" and ")),
        }
    };
    let client = &spec.client.secret_ref;
    let (reason, keys) = match reference.role {
        Role::Client => (
            Reason::ClientSecretMissing,
            keys(&[client.client_id_key(), client.client_secret_key()]),
        ),
        Role::User => {
            let user = spec.password_grant().map(|grant| &grant.secret_ref);
            let names = user.map_or(["", ""], |user| [user.username_key(), user.password_key()]);
            (Reason::ReferenceMissing, keys(&names))
        }
        Role::CaBundle => {
            let tls = spec.tls.as_ref();
            let bundle = tls.and_then(|tls| tls.ca_bundle_ref.as_ref());
            let key = bundle.map_or("", |bundle| &bundle.key);
            (Reason::ReferenceMissing, keys(&[key]))
        }
        Role::ClientCertificate => (Reason::ReferenceMissing, keys(&CERTIFICATE_KEYS)),
    };
    Failure::new(
        reason,
        format!(
            "The {} {:?}, which {} names, does not exist in namespace {namespace:?}. Create it with \
             {keys}; it is used as soon as it appears.",
            reference.kind.as_str(),
            reference.name,
            reference.role.field(),
        ),
    )
}

/// The keys of a Secret of type `kubernetes.io/tls` (Kubernetes documentation, "TLS Secrets").
pub(crate) const CERTIFICATE_KEYS: [&str; 2] = ["tls.crt", "tls.key"];

/// The write of this round has not failed. One that has is tried again later, with what is at hand
/// then: nothing is read or asked for meanwhile.
fn write_has_not_failed(v: &View<'_>) -> Result<(), Step> {
    match v.o.written {
        Some((_, WriteOutcome::Failed(failure))) => Err(settle::failed_alone(v, failure).into()),
        _ => Ok(()),
    }
}

/// The target is as it was left, or it is known what became of it and that it is ours.
fn with_target_read<'a>(v: View<'a>) -> Result<View<'a>, Step> {
    // What was read for another spec is looked at by this one.
    let merges = v.policy() == CreationPolicy::Merge;
    let unread = v.o.target.is_none() || !merges;
    if v.has_written() || (v.target_is_as_recorded() && unread) {
        return Ok(v);
    }
    if let Some(judged) = v.judged().filter(|_| v.o.target.is_none()) {
        return Err(settle::failed_locally(&v, &judged.failure).into());
    }
    let target = match (v.o.target, v.o.target_seen) {
        (Some(target), _) => target.as_ref(),
        (None, Seen::Present(_)) => return Err(target_to_be_read(&v)),
        (None, Seen::Unknown) if merges || v.recorded_target().is_some() => {
            return Err(target_to_be_read(&v));
        }
        (None, Seen::Unknown | Seen::Absent) => None,
    };
    let Some(target) = target else {
        return if merges {
            Err(target_missing(&v))
        } else {
            Ok(v)
        };
    };
    match foreign(&v, target) {
        Some((failure, lost)) => {
            let judged = Judged {
                version: target.version.clone(),
                basis: v.basis,
                failure,
                lost,
            };
            Err(settle::in_conflict(v, judged).into())
        }
        None => Ok(v.adopting(target)),
    }
}

/// What keeps this resource from writing to the Secret as it was read, and whether a key of ours is
/// lost to somebody.
fn foreign(v: &View<'_>, target: &TargetObject) -> Option<(Failure, bool)> {
    let name = v.target_name();
    let conflict = |message| Some((Failure::new(Reason::TargetConflict, message), false));
    match (v.whose(target), v.policy()) {
        (Ownership::Foreign(whose), CreationPolicy::Merge) => conflict(format!(
            "The Secret {name:?} is left untouched: {whose}. Set that annotation if it is yours, or \
             give this resource another spec.target.name."
        )),
        (Ownership::Foreign(whose), _) => conflict(format!(
            "The Secret {name:?} exists and is not this resource's: {whose}. It is left untouched. \
             Give this resource another spec.target.name, or delete that Secret if nobody needs it."
        )),
        (_, CreationPolicy::Merge) => ownership::contested(target, v.spec).map(|(key, held)| {
            let holder = held.map_or_else(|| "somebody else".to_owned(), |held| format!("{held:?}"));
            let message = format!(
                "The key {key:?} of the Secret {name:?} is {holder}'s, who wrote it or has edited it. \
                 It is left untouched. Take that key out of the Secret, or name another one in \
                 spec.target.data."
            );
            (Failure::new(Reason::TargetConflict, message), true)
        }),
        _ if target.type_ != v.spec.target_type() => Some((other_type(v, target), false)),
        _ => None,
    }
}

/// The Secret to merge into does not exist.
fn target_missing(v: &View<'_>) -> Step {
    let failure = Failure::new(
        Reason::TargetMissing,
        format!(
            "The Secret {:?} does not exist, and with creationPolicy Merge it is not created. Create \
             it with the annotation {ALLOW_MERGE}: {}; the keys are written as soon as it appears.",
            v.target_name(),
            v.o.credential.name.name
        ),
    );
    settle::failed_locally(v, &failure).into()
}

/// Only a look at the target tells what to do. One that could not be read is looked at later.
fn target_to_be_read(v: &View<'_>) -> Step {
    match v.o.unreadable {
        Some(failure) => settle::failed_alone(v, failure).into(),
        None => Step::ReadTarget,
    }
}

/// Neither a wait of this resource's own is left, remembered or read from its status, nor is the
/// whole origin held by an outage or a rate limit.
fn no_wait_is_left(v: &View<'_>) -> Result<(), Step> {
    // An answer that came in for this resource is looked at first.
    if v.forced || v.o.asked_at.is_some() {
        return Ok(());
    }
    // A write that was begun is seen through.
    if let Some(failure) = v.wait().filter(|_| !v.has_written()) {
        return Err(settle::still_waiting(v, failure).into());
    }
    match &v.o.hold {
        Some(hold) => Err(settle::failed_together(v, hold).into()),
        None => Ok(()),
    }
}

/// The client Secret has been read, and holds a client.
fn client_is_read<'a>(v: &View<'a>) -> Result<(&'a ClientRead, &'a Exchange), Step> {
    match (v.o.client, &v.o.exchange) {
        (Some(Ok(client)), Some(exchange)) => Ok((client, exchange)),
        (Some(Err(failure)), _) if failure.class() == Class::Local => {
            Err(settle::failed_locally(v, failure).into())
        }
        (Some(Err(failure)), _) => Err(settle::failed_alone(v, failure).into()),
        _ => Err(Step::ReadClient),
    }
}

/// The broker holds a token that serves; if not, one is asked for or waited for.
fn token_is_held<'a>(v: &View<'a>, exchange: &'a Exchange) -> Result<&'a Held, Step> {
    if let Some(held) = exchange.held.as_ref().filter(|held| v.serves(held)) {
        return Ok(held);
    }
    if let Some(since) = exchange.asked_at
        && exchange.queued.is_none_or(|queued| queued <= v.urgency())
    {
        return Err(settle::asked(v, since).into());
    }
    if let Some(failure) = &exchange.failure
        && failure.retry_at > v.o.now
        && !v.is_older_than_force(failure.sent_at)
    {
        return Err(settle::failed_together(v, failure).into());
    }
    no_wait_is_left(v)?;
    if let Some(not_before) = exchange.not_before.filter(|at| *at > v.o.now) {
        return Err(settle::too_soon(v, not_before).into());
    }
    Err(Step::Ask(Box::new(v.wish(exchange))))
}

/// While no new token can be had, one that is due and at hand still is put back where somebody took
/// it away.
fn old_token_is_put_back(
    v: &View<'_>,
    client: &ClientRead,
    exchange: &Exchange,
) -> Result<(), Step> {
    match exchange.held.as_ref().filter(|held| v.is_missing(held)) {
        Some(held) => target_is_written(v, client, held),
        None => Ok(()),
    }
}

/// The target holds the token, as the spec says.
fn target_is_written(v: &View<'_>, client: &ClientRead, held: &Held) -> Result<(), Step> {
    match v.o.written {
        Some((_, WriteOutcome::Done(_))) => return Ok(()),
        Some((_, WriteOutcome::Changed)) if v.o.target.is_none() => {
            return Err(target_to_be_read(v));
        }
        Some((_, WriteOutcome::Conflict(said))) => return Err(merge_refused(v, said)),
        Some((_, WriteOutcome::Changed | WriteOutcome::Failed(_))) | None => {}
    }
    let data = v
        .render(client, held)
        .map_err(|failure| Step::from(settle::failed_locally(v, &failure)))?;
    if v.is_in_place(held, &data) {
        return Ok(());
    }
    let put_back = v.is_put_back(held);
    if put_back && v.recent_put_backs() >= FIGHT {
        return Err(settle::failed_alone(v, &fight(v)).into());
    }
    let desired = Desired::new(v.o.credential, v.spec, held, data);
    let merges = v.policy() == CreationPolicy::Merge;
    // Its keys are taken out again by the finalizer, so that is there first.
    if merges && !v.o.credential.finalizer {
        finalizer_is(v, true)?;
    }
    let write = match (v.o.target, v.o.target_seen) {
        // Another spec may have other names: only a look at the Secret tells.
        (None, Seen::Present(_)) if !v.basis_is_recorded() => return Err(target_to_be_read(v)),
        (Some(Some(TargetObject { version, .. })), _) | (None, Seen::Present(version))
            if merges =>
        {
            TargetWrite::Merge {
                uid: version.uid.clone(),
                desired,
            }
        }
        _ if merges => return Err(target_missing(v)),
        (Some(None), _) | (None, Seen::Absent | Seen::Unknown) => TargetWrite::Create(desired),
        (Some(Some(target)), _) => {
            let dropped = desired.dropped(target);
            let takeover = v.whose(target) != Ownership::Ours;
            if takeover || !dropped.is_empty() {
                TargetWrite::Replace {
                    version: target.version.clone(),
                    desired,
                    dropped,
                }
            } else {
                TargetWrite::Apply {
                    uid: target.version.uid.clone(),
                    desired,
                }
            }
        }
        (None, Seen::Present(seen)) => TargetWrite::Apply {
            uid: seen.uid.clone(),
            desired,
        },
    };
    Err(Step::Write {
        write: Box::new(write),
        put_back,
    })
}

fn other_type(v: &View<'_>, target: &TargetObject) -> Failure {
    Failure::new(
        Reason::TargetConflict,
        format!(
            "The Secret {:?} is of type {:?} and spec.target.type wants {:?}; a Secret's type never \
             changes. Delete that Secret, or give this resource another spec.target.name.",
            v.target_name(),
            target.type_,
            v.spec.target_type()
        ),
    )
}

fn fight(v: &View<'_>) -> Failure {
    let other = match v.o.target {
        Some(Some(target)) => target.others.first().cloned(),
        _ => None,
    };
    let whom = other.map_or_else(
        || "somebody deletes it (an audit log of the API server says who)".to_owned(),
        |manager| format!("{manager:?} edits it"),
    );
    Failure::new(
        Reason::TargetConflict,
        format!(
            "The Secret {:?} was put back {FIGHT} times within a minute, and {whom} again and again. \
             It is put back at most that often; stop the other, or give this resource another \
             spec.target.name.",
            v.target_name()
        ),
    )
    .with_retry_after(Some(FIGHT_PERIOD))
}

/// What was written under an old name is gone.
fn previous_is_removed(v: &View<'_>) -> Result<(), Step> {
    let Some(last) = v.previous_target() else {
        return Ok(());
    };
    match v.o.removed.get(&last.name) {
        Some(Ok(())) => Ok(()),
        Some(Err(failure)) => Err(settle::failed_alone(v, failure).into()),
        None => Err(removal(last)),
    }
}

fn removal(last: &TargetStatus) -> Step {
    Step::RemovePrevious {
        name: last.name.clone(),
        uid: last.uid.clone(),
        policy: last.creation_policy,
    }
}

/// Our finalizer is on the resource, or off it.
fn finalizer_is(v: &View<'_>, there: bool) -> Result<(), Step> {
    match v.o.finalized {
        None => Err(Step::SetFinalizer(there)),
        Some(Ok(())) => Ok(()),
        Some(Err(failure)) => Err(settle::failed_alone(v, failure).into()),
    }
}

/// The resource is on its way out. What it owns goes by its owner reference, and the keys that it
/// has merged are taken out; if they cannot be, that is said, and it goes all the same.
fn deleted(o: &Observed<'_>) -> Step {
    if !o.credential.finalizer {
        return settle::leave_alone(o).into();
    }
    let merged = ownership::merged_into(o.credential);
    let to_do = merged
        .iter()
        .find(|last| !o.removed.contains_key(&last.name));
    if let Some(last) = to_do {
        return removal(last);
    }
    // What passes is waited for a while. What does not pass keeps nobody.
    let passes = |failure: &Failure| failure.reason() == Reason::InternalError;
    let mut failed = o
        .removed
        .values()
        .filter_map(|removed| removed.as_ref().err());
    let failed = failed.find(|failure| passes(failure));
    if let Some(failure) = failed.filter(|_| o.memory.let_go < LETTING_GO_TRIES) {
        return settle::held_back(o, failure).into();
    }
    match o.finalized {
        None => Step::SetFinalizer(false),
        Some(done) => settle::finalized(o, done).into(),
    }
}

/// Somebody else holds a key, and the API server says who.
fn merge_refused(v: &View<'_>, said: &str) -> Step {
    let failure = Failure::new(
        Reason::TargetConflict,
        format!(
            "A key of the Secret {:?} is somebody else's: {said}. It is left untouched. Take that key \
             out of the Secret, or name another one in spec.target.data.",
            v.target_name()
        ),
    );
    match v.o.target_seen {
        Seen::Present(version) => {
            let judged = Judged {
                version: version.clone(),
                basis: v.basis,
                failure,
                lost: false,
            };
            settle::in_conflict(v.clone(), judged).into()
        }
        Seen::Unknown | Seen::Absent => settle::failed_locally(v, &failure).into(),
    }
}

/// The end of the chain: workloads are told of a new token, what was written under an old name goes,
/// and the status says so.
fn finish(v: &View<'_>, fresh: Option<(&ClientRead, &Held)>) -> Step {
    let finalizer_fits = || {
        let merges = v.policy() == CreationPolicy::Merge;
        if v.o.credential.finalizer == merges {
            Ok(())
        } else {
            finalizer_is(v, merges)
        }
    };
    let done = after::workloads_are_restarted(v, fresh.map(|(_, held)| held))
        .and_then(|()| previous_is_removed(v))
        .and_then(|()| finalizer_fits())
        .and_then(|()| after::token_to_probe(v, fresh));
    match done {
        Ok(probe) => synced::succeeded(v, fresh, probe).into(),
        Err(step) => step,
    }
}
