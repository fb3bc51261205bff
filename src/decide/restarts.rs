//! Workloads are restarted for a new token, once it stands in its Secret.

use jiff::{SignedDuration, Timestamp};

use super::{Failure, Step, Transition, end::End, renewal::plus, status, view::View};
use crate::{
    api::{Reason, RestartedStatus, ServiceNowCredentialStatus, Workload, condition},
    micro_time,
    servicenow::Held,
};

/// What a workload is told: which value of the token it is restarted for.
#[derive(Clone, Debug, PartialEq)]
pub struct NewValue {
    /// The token's digest.
    pub sha256: String,
    /// When the token was asked for. Told twice, it restarts once.
    pub at: Timestamp,
}

/// How the restart of a workload ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Restart {
    /// Its pod template says that it was.
    Done,
    /// It does not exist.
    Missing,
    /// It could not be changed.
    Failed(Failure),
}

/// A workload that was to be restarted for a value, and what came of it.
pub type Restarted = (Workload, NewValue, Restart);

/// Workloads that are still to be restarted.
#[derive(Clone, Debug, PartialEq)]
pub struct Unrestarted {
    value: NewValue,
    workloads: Vec<Workload>,
    /// When it was last tried.
    pub(super) tried: Timestamp,
}

/// A workload that could not be restarted is tried again after so long.
const RESTART_AGAIN: SignedDuration = SignedDuration::from_mins(1);
/// Where the condition's message begins to tell of workloads.
const NOT_RESTARTED: &str = " Not restarted: ";

/// How the condition's message names a workload.
fn named(workload: &Workload) -> String {
    format!("{} {:?}: ", workload.kind.as_str(), workload.name)
}

/// What the condition's message tells of workloads.
fn note(status: &ServiceNowCredentialStatus) -> Option<String> {
    let synced = status::get(status, condition::SYNCED)?;
    let (_, said) = synced.message.split_once(NOT_RESTARTED)?;
    Some(format!("{NOT_RESTARTED}{said}"))
}

/// What is left to restart when the token on record is this one: everything if its value is another
/// than before, else what could not be restarted yet.
fn left(v: &View<'_>, sha256: &str, at: Timestamp) -> Option<Unrestarted> {
    let recorded = v.o.credential.status.token.as_ref()?;
    let mut left = if recorded.sha256.as_deref() == Some(sha256) {
        unrestarted(v).filter(|left| left.value.sha256 == sha256)?
    } else {
        let sha256 = sha256.to_owned();
        Unrestarted {
            value: NewValue { sha256, at },
            workloads: v.spec.restart.clone(),
            tried: Timestamp::MIN,
        }
    };
    left.workloads
        .retain(|workload| v.spec.restart.contains(workload));
    (!left.workloads.is_empty()).then_some(left)
}

/// What was left to restart, as this process remembers it, or else as the status tells.
fn unrestarted(v: &View<'_>) -> Option<Unrestarted> {
    if let Some(left) = &v.o.memory.unrestarted {
        return Some(left.clone());
    }
    let status = &v.o.credential.status;
    // This process knows of no trouble.
    if v.o.memory.restarts.is_some() {
        return None;
    }
    let token = status.token.as_ref()?;
    let sha256 = token.sha256.clone()?;
    let told = note(status)?;
    if status
        .restarted
        .as_ref()
        .is_some_and(|r| r.sha256 == sha256)
    {
        return None;
    }
    let mut workloads = v.spec.restart.clone();
    workloads.retain(|workload| told.contains(&named(workload)));
    let at = token.issued_at.0;
    Some(Unrestarted {
        value: NewValue { sha256, at },
        workloads,
        tried: Timestamp::MIN,
    })
}

/// Every workload that is to be restarted has been told of its value, or could not be.
pub(super) fn workloads_are_restarted(v: &View<'_>, fresh: Option<&Held>) -> Result<(), Step> {
    let token = v.token.as_deref();
    let (sha256, at) = match fresh {
        Some(held) => (Some(held.sha256.as_str()), Some(held.validity.issued_at)),
        None => (
            token.and_then(|token| token.sha256.as_deref()),
            token.map(|token| token.issued_at.0),
        ),
    };
    let left = sha256.zip(at).and_then(|(sha256, at)| left(v, sha256, at));
    let Some(left) = left.filter(|left| plus(left.tried, RESTART_AGAIN) <= v.o.now) else {
        return Ok(());
    };
    let tried = |workload: &Workload| v.o.restarted.iter().any(|(other, ..)| other == workload);
    match left.workloads.iter().find(|workload| !tried(workload)) {
        Some(workload) => Err(Step::Restart {
            workload: workload.clone(),
            value: left.value.clone(),
        }),
        None => Ok(()),
    }
}

/// Records what the restarts of this round came to, and what is left of them, however it ends.
pub(super) fn record_restarts(end: &mut End<'_>) {
    let v = end.v;
    let (now, restarted) = (end.now(), v.o.restarted);
    let token = end.status.token.as_ref();
    let current = token.and_then(|token| Some((token.sha256.clone()?, token.issued_at.0)));
    let left = current
        .as_ref()
        .and_then(|(sha256, at)| left(v, sha256, *at));
    let Some(mut left) = left else {
        end.memory.unrestarted = None;
        return;
    };
    for (workload, value, restart) in restarted {
        if !matches!(restart, Restart::Failed(_)) && value.sha256 == left.value.sha256 {
            left.workloads.retain(|other| other != workload);
        }
    }
    if let Some((_, value, _)) = restarted.first() {
        left.tried = now;
        left.value = value.clone();
    }
    if left.workloads.is_empty() {
        end.memory.unrestarted = None;
        end.status_mut().restarted = Some(RestartedStatus {
            sha256: left.value.sha256,
            time: micro_time(now),
        });
    } else {
        end.memory.unrestarted = Some(left);
    }
}

/// What the condition says of workloads that are not restarted, or will never be.
pub(super) fn restarts_told(end: &mut End<'_>) -> String {
    let v = end.v;
    if let Some(left) = &end.memory.unrestarted {
        let soonest = plus(end.now(), SignedDuration::from_secs(1));
        let again = plus(left.tried, RESTART_AGAIN).max(soonest);
        end.wake = Some(end.wake.map_or(again, |wake| wake.min(again)));
    }
    let mut troubles = match (&end.memory.restarts, v.o.restarted) {
        // Another process has told of them.
        (None, []) if !v.spec.restart.is_empty() => {
            return note(&v.o.credential.status).unwrap_or_default();
        }
        (known, _) => known.clone().unwrap_or_default(),
    };
    let before = troubles.clone();
    let mut worst = None;
    for (workload, _, restart) in v.o.restarted {
        troubles.retain(|(other, _)| other != workload);
        let why = match restart {
            Restart::Done => continue,
            Restart::Missing => {
                worst.get_or_insert(Reason::ReferenceMissing);
                "it does not exist; create it, or correct spec.restart"
            }
            Restart::Failed(failure) => {
                worst = Some(failure.reason());
                failure.message()
            }
        };
        troubles.push((workload.clone(), why.to_owned()));
    }
    troubles.retain(|(workload, _)| v.spec.restart.contains(workload));
    let told: Vec<_> = troubles
        .iter()
        .map(|(workload, why)| format!("{}{why}", named(workload)))
        .collect();
    let told = told.join("; ");
    if let Some(reason) = worst.filter(|_| troubles != before) {
        end.news = Some(Transition {
            reason,
            message: format!("{NOT_RESTARTED}{told}").trim_start().to_owned(),
            is_failure: true,
        });
    }
    end.memory.restarts = Some(troubles);
    if told.is_empty() {
        return told;
    }
    format!("{NOT_RESTARTED}{told}")
}
