//! What to do, decided from values: no I/O, no clock, no randomness but what is passed in.
//!
//! [`decide`] is a total function over an ordered chain of checks; the first that applies wins. It
//! answers with one [`Step`]. Whoever drives it carries the step out, adds what came of it to
//! [`Observed`] and asks again, until the step is [`Step::Settle`]. One step at a time, and not a
//! whole plan, because most reads are needed only when an earlier look says so: a fleet at rest
//! reads nothing. Every stop between two steps is a place where the operator may die, so a test
//! can kill it at each of them.

pub mod backoff;
mod end;
pub mod failure;
pub mod memory;
pub mod observed;
pub mod ownership;
pub mod probes;
mod references;
pub mod renewal;
pub mod restarts;
mod serving;
mod settle;
mod status;
mod synced;
mod target;
pub mod template;
#[cfg(test)]
mod tests;
mod view;
mod waits;

use jiff::Timestamp;

pub use failure::{Class, Failure};
pub use memory::Memory;
pub use observed::{Credential, Name, Observed, Seen};
pub(crate) use references::{CERTIFICATE_KEYS, reference_missing};
pub use settle::{Outcome, Settle, Transition};

use crate::{
    api::{CreationPolicy, Reason, ServiceNowCredentialSpec, Workload},
    servicenow::{Exchange, Held, Known, Urgency},
};
use observed::{ClientRead, WriteOutcome};
use ownership::TargetWrite;
use references::references_exist;
pub(crate) use status::validity_of;
use target::{
    FIGHT_PERIOD, deleted, finalizer_is, old_token_is_put_back, previous_is_removed,
    target_is_free, target_is_looked_at, target_is_written, with_target_read,
};
use view::View;

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
        value: restarts::NewValue,
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
    /// How often the client was refused since it was good.
    pub refusals: u32,
    /// A person asked for it.
    pub forced: bool,
}

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
    target_is_looked_at(&v)?;
    if spec.suspended() {
        return Err(settle::suspended(&v).into());
    }
    spec_is_acceptable(&v)?;
    let v = v.with_renewal_time_fit();
    target_is_free(&v)?;
    references_exist(&v)?;
    write_has_not_failed(&v)?;
    let v = with_target_read(v)?;
    if v.waits_for_the_cluster() {
        own_wait_is_over(&v)?;
    }
    if !v.needs_token() {
        if v.names_what_was_never_seen() {
            client_is_read(&v)?;
        }
        return Ok(finish(&v, None));
    }
    // A token at hand serves in spite of what its instance has come to since.
    let nothing_at_hand = v.token.is_none() && v.has_failed_like_this();
    let only_a_new_token_helps = nothing_at_hand || (v.target_stands() && !v.basis_has_changed());
    if only_a_new_token_helps {
        own_wait_is_over(&v)?;
        // Another's request may have brought a token before: that is looked for once.
        if v.has_looked_under_a_hold() {
            origin_is_open(&v)?;
        }
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
        let origin = instance.origin();
        let message = if instance.is_plain_http() {
            format!(
                "The operator sends no credentials to {origin} over plain http: that is for tests, \
                 and wants --allow-insecure-http. Write an https origin in spec.instance."
            )
        } else {
            format!(
                "The operator was not allowed to send credentials to {origin}: its --allowed-hosts \
                 does not list that host. Correct spec.instance, or ask whoever runs the operator to \
                 add the host."
            )
        };
        return Err(local(Reason::HostNotAllowed, message));
    }
    v.spec
        .templates()
        .map_err(|failure| settle::failed_locally(v, failure).into())
}

/// The write of this round has not failed. One that has is tried again later, with what is at hand
/// then: nothing is read or asked for meanwhile.
fn write_has_not_failed(v: &View<'_>) -> Result<(), Step> {
    match v.o.written {
        Some((_, WriteOutcome::Failed(failure))) => Err(settle::failed_alone(v, failure).into()),
        _ => Ok(()),
    }
}

/// A person asked for a renewal now, or an answer came in for this resource, which is looked at first.
fn is_not_to_wait(v: &View<'_>) -> bool {
    v.forced || v.o.asked_at.is_some()
}

/// No wait of this resource's own is left, remembered or read from its status.
fn own_wait_is_over(v: &View<'_>) -> Result<(), Step> {
    // A write that was begun is seen through.
    match v.wait().filter(|_| !is_not_to_wait(v) && !v.has_written()) {
        Some(failure) => Err(settle::still_waiting(v, failure).into()),
        None => Ok(()),
    }
}

/// The whole origin is not held by an outage or a rate limit.
fn origin_is_open(v: &View<'_>) -> Result<(), Step> {
    match v.o.hold.as_ref().filter(|_| !is_not_to_wait(v)) {
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
        (Some(Err(failure)), _) => Err(settle::unread(v, failure).into()),
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
        && v.retry_at(failure) > v.o.now
        && !v.is_older_than_force(failure.sent_at)
    {
        // What went out in spite of a rate limit does not end it, and may bring a token still.
        if exchange.under_way && failure.failure.class() == Class::Held {
            return Err(Step::Ask(Box::new(v.wish(exchange))));
        }
        return Err(settle::failed_together(v, failure).into());
    }
    own_wait_is_over(v)?;
    origin_is_open(v)?;
    let not_before = exchange.not_before.or_else(|| v.not_before_on_record());
    if let Some(not_before) = not_before.filter(|at| *at > v.o.now) {
        return Err(settle::too_soon(v, not_before).into());
    }
    Err(Step::Ask(Box::new(v.wish(exchange))))
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
    let done = restarts::workloads_are_restarted(v, fresh.map(|(_, held)| held))
        .and_then(|()| previous_is_removed(v))
        .and_then(|()| finalizer_fits())
        .and_then(|()| probes::token_to_probe(v, fresh));
    match done {
        Ok(probe) => synced::succeeded(v, fresh, probe).into(),
        Err(step) => step,
    }
}
