//! A new token is tried out, once it stands in its Secret, which waits for nothing.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::{
    Step,
    end::End,
    observed::{ClientRead, Name, Seen},
    renewal::plus,
    status::{self, FALSE, TRUE, Verdict},
    template,
    view::View,
};
use crate::{
    api::{Reason, ServiceNowCredentialStatus, condition},
    servicenow::{AccessToken, Held, Probed},
};

/// A token that is not tried out because its instance is left alone is looked at again after so long.
const PROBE_AGAIN: SignedDuration = SignedDuration::from_mins(1);

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
            let token = template::recover_token(v.spec.target_data(), &target.data);
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
