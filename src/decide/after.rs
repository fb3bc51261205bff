//! What is done with a new token once it stands in its Secret: workloads are restarted, and the
//! token is tried out. Neither holds up the Secret.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::{
    Failure, Step, Transition,
    end::End,
    observed::{ClientRead, Name, Seen},
    renewal::plus,
    status::{self, FALSE, TRUE, Verdict},
    template,
    view::View,
};
use crate::{
    api::{Reason, RestartedStatus, ServiceNowCredentialStatus, Workload, condition},
    micro_time,
    servicenow::{AccessToken, Held, Probed},
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
/// A token that is not tried out because its instance is left alone is looked at again after so long.
const PROBE_AGAIN: SignedDuration = SignedDuration::from_mins(1);
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

/// A token to try out.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The path of the instance.
    pub path: String,
    /// The token.
    pub token: AccessToken,
    /// Its digest.
    pub sha256: String,
}

/// The tokens that are being tried out, or were of late: one request serves all who would send the
/// same.
#[derive(Default)]
pub struct Probes(HashMap<(String, String), Trial>);

/// How somebody waits for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nobody did before: it is to be sent.
    First,
    /// It has been sent.
    WithOthers,
    /// It is answered by now.
    Over,
}

#[derive(Default)]
struct Trial {
    probed: Option<Probed>,
    waiters: BTreeSet<Name>,
    /// When it was last of use.
    at: Timestamp,
}

/// What a trial came to is kept for so long.
const KEPT: SignedDuration = SignedDuration::from_mins(10);

impl Probes {
    /// Somebody waits for what comes of a probe.
    pub fn wait(&mut self, probe: &Probe, name: &Name, now: Timestamp) -> Wait {
        let key = (probe.sha256.clone(), probe.path.clone());
        let first = !self.0.contains_key(&key);
        let trial = self.0.entry(key).or_default();
        trial.at = now;
        if trial.probed.is_some() {
            return Wait::Over;
        }
        trial.waiters.insert(name.clone());
        if first { Wait::First } else { Wait::WithOthers }
    }

    /// What came of it; returns who is to wake.
    pub fn done(&mut self, probe: &Probe, probed: Probed, now: Timestamp) -> BTreeSet<Name> {
        let key = (probe.sha256.clone(), probe.path.clone());
        let trial = self.0.entry(key).or_default();
        trial.at = now;
        trial.probed = Some(probed);
        std::mem::take(&mut trial.waiters)
    }

    /// Forgets what everybody has read by now.
    pub fn sweep(&mut self, now: Timestamp) {
        let waited_for = |trial: &Trial| trial.probed.is_none() && !trial.waiters.is_empty();
        self.0
            .retain(|_, trial| waited_for(trial) || trial.at >= now - KEPT);
    }

    fn of(&self, sha256: &str, path: &str) -> Option<&Trial> {
        // Trials are few, and owned keys would be made for each look.
        let mut trials = self.0.iter();
        let found = trials.find(|((digest, of), _)| digest == sha256 && of == path);
        found.map(|(_, trial)| trial)
    }
}

/// The condition's message tells of which token it speaks: a restart repeats no probe.
fn mark(sha256: &str) -> String {
    format!(
        " (Token with SHA-256 {}…)",
        sha256.get(..8).unwrap_or(sha256)
    )
}

/// The status says what came of trying this token out.
fn is_told(status: &ServiceNowCredentialStatus, path: &str, sha256: &str) -> bool {
    status::get(status, condition::VERIFIED).is_some_and(|verified| {
        let message = &verified.message;
        message.starts_with(&format!("GET {path}: ")) && message.ends_with(&mark(sha256))
    })
}

fn verdict_of(probed: &Probed, sha256: &str) -> Verdict {
    let status = if probed.reason == Reason::ProbeSucceeded {
        TRUE
    } else {
        FALSE
    };
    Verdict::new(
        status,
        probed.reason,
        format!("{}{}", probed.message, mark(sha256)),
    )
}

/// The digest of the token in the Secret.
fn current<'a>(v: &'a View<'_>, fresh: Option<&'a Held>) -> Option<&'a str> {
    match fresh {
        Some(held) => Some(&held.sha256),
        None => v.token.as_deref()?.sha256.as_deref(),
    }
}

/// The token to try out, if the spec wants it and nothing says what came of it yet. `Err` is what has
/// to be read first.
pub(super) fn token_to_probe(
    v: &View<'_>,
    fresh: Option<(&ClientRead, &Held)>,
) -> Result<Option<Probe>, Step> {
    let fresh = fresh.map(|(_, held)| held);
    let (Some(verify), Some(sha256)) = (&v.spec.verify, current(v, fresh)) else {
        return Ok(None);
    };
    let told = is_told(&v.o.credential.status, &verify.path, sha256);
    let known = v.o.probes.of(sha256, &verify.path);
    let done = known.is_some_and(|trial| trial.probed.is_some());
    if told || done || v.o.hold.is_some() {
        return Ok(None);
    }
    let probe = |token: AccessToken| Probe {
        path: verify.path.clone(),
        sha256: sha256.to_owned(),
        token,
    };
    if let Some(held) = fresh {
        return Ok(Some(probe(held.token.clone())));
    }
    let exchange = match (v.o.client, &v.o.exchange) {
        (Some(Ok(_)), Some(exchange)) => exchange,
        (Some(_), _) => return Ok(None),
        (None, _) => return Err(Step::ReadClient),
    };
    if let Some(held) = exchange.held.as_ref().filter(|held| held.sha256 == sha256) {
        return Ok(Some(probe(held.token.clone())));
    }
    // Another process has fetched it: the Secret has it.
    match (v.o.target, v.o.target_seen) {
        (Some(Some(target)), _) => {
            let token = template::recover_token(&v.spec.target_data(), &target.data);
            Ok(token.filter(|token| token.sha256() == sha256).map(probe))
        }
        (None, Seen::Present(_)) if v.o.unreadable.is_none() => Err(Step::ReadTarget),
        _ => Ok(None),
    }
}

/// Says what came of the probe, or that none is wanted any more.
pub(super) fn record_probe(end: &mut End<'_>) {
    let v = end.v;
    let Some(verify) = &v.spec.verify else {
        if status::get(&end.status, condition::VERIFIED).is_some() {
            let conditions = &mut end.status_mut().conditions;
            conditions.retain(|condition| condition.type_ != condition::VERIFIED);
        }
        return;
    };
    let sha256 = end
        .status
        .token
        .as_ref()
        .and_then(|token| token.sha256.clone());
    let Some(sha256) = sha256 else { return };
    let trial = v.o.probes.of(&sha256, &verify.path);
    let told = is_told(&end.status, &verify.path, &sha256);
    if !told && trial.is_none() && end.probe.is_none() && v.o.hold.is_some() {
        let again = plus(end.now(), PROBE_AGAIN);
        end.wake = Some(end.wake.map_or(again, |wake| wake.min(again)));
    }
    if let Some(probed) = trial.and_then(|trial| trial.probed.as_ref()) {
        let generation = v.o.credential.generation;
        let verdict = verdict_of(probed, &sha256);
        let now = end.now();
        status::set(
            &mut end.status,
            condition::VERIFIED,
            verdict,
            generation,
            now,
        );
    }
}
