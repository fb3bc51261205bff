//! The checks about the target: whose it is, how it is written, and what goes of it again.

use jiff::SignedDuration;

use super::{
    Failure, Seen, Step,
    memory::Judged,
    observed::{ClientRead, Observed, WriteOutcome},
    ownership::{self, ALLOW_MERGE, Desired, Ownership, TargetObject, TargetWrite},
    settle,
    view::View,
};
use crate::{
    api::{CreationPolicy, Reason, TargetStatus},
    servicenow::{Exchange, Held},
};

/// Put-backs within a minute that are taken for a fight.
const FIGHT: usize = 3;
/// The time within which they are counted, and for which a fight is left alone.
pub(super) const FIGHT_PERIOD: SignedDuration = SignedDuration::from_secs(60);
/// A resource whose keys cannot be taken out of a Secret is let go after so many tries.
const LETTING_GO_TRIES: u32 = 6;

/// What somebody touched since it was written has been looked at, whatever else keeps the resource
/// from doing anything about it: whether it still holds the token is to be said.
pub(super) fn target_is_looked_at(v: &View<'_>) -> Result<(), Step> {
    let (Seen::Present(seen), None, None) = (v.o.target_seen, v.o.target, v.o.unreadable) else {
        return Ok(());
    };
    let looked_at = v.o.memory.looked_at.as_ref();
    let known = looked_at.is_some_and(|(version, _)| version == seen);
    let ours = v.recorded_target().is_some_and(|last| last.uid == seen.uid);
    if ours && !known && !v.target_is_as_recorded() && !v.has_written() {
        return Err(Step::ReadTarget);
    }
    Ok(())
}

/// No other resource has the same target and comes first. Where nobody is known to own a Secret that
/// exists, it says itself whose it is: the status that was to tell may not have been written.
pub(super) fn target_is_free(v: &View<'_>) -> Result<(), Step> {
    let Some(rival) = &v.o.rival else {
        return Ok(());
    };
    let exists = match (v.o.target_seen, v.o.target) {
        (Seen::Absent, _) => false,
        _ if v.has_written() => true,
        // A read is news to the watch.
        (_, Some(read)) => read.is_some(),
        (Seen::Present(_), None) => true,
        (Seen::Unknown, None) => return Err(target_to_be_read(v)),
    };
    if exists && !rival.owns {
        return Ok(());
    }
    Err(settle::failed_locally(v, &anothers(v, &rival.name)).into())
}

/// Another resource comes first: how that is known makes no difference to what is said.
fn anothers(v: &View<'_>, name: &str) -> Failure {
    Failure::new(
        Reason::TargetConflict,
        format!(
            "The Secret {:?} belongs to the ServiceNowCredential {name:?}, which came first. It is left \
             untouched. Give this one another spec.target.name, or delete the other.",
            v.target_name()
        ),
    )
}

/// The target is as it was left, or it is known what became of it and that it is ours.
pub(super) fn with_target_read<'a>(v: View<'a>) -> Result<View<'a>, Step> {
    let merges = v.policy() == CreationPolicy::Merge;
    // What was read is judged, whatever is on record of it.
    if v.has_written() || (v.target_is_as_recorded() && v.o.target.is_none()) {
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
        (Ownership::Anothers(owner), _) => Some((anothers(v, &owner), false)),
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
        Some(failure) => settle::unread(v, failure).into(),
        None => Step::ReadTarget,
    }
}

/// While no new token can be had, one that is due and at hand still is put back where somebody took
/// it away.
pub(super) fn old_token_is_put_back(
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
pub(super) fn target_is_written(
    v: &View<'_>,
    client: &ClientRead,
    held: &Held,
) -> Result<(), Step> {
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
pub(super) fn previous_is_removed(v: &View<'_>) -> Result<(), Step> {
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
pub(super) fn finalizer_is(v: &View<'_>, there: bool) -> Result<(), Step> {
    match v.o.finalized {
        None => Err(Step::SetFinalizer(there)),
        Some(Ok(())) => Ok(()),
        Some(Err(failure)) => Err(settle::failed_alone(v, failure).into()),
    }
}

/// The resource is on its way out. What it owns goes by its owner reference, and the keys that it
/// has merged are taken out; if they cannot be, that is said, and it goes all the same.
pub(super) fn deleted(o: &Observed<'_>) -> Step {
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
