//! The status as a function of what was decided: conditions and their sentences.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{ownership::timestamp, renewal::Validity};
use crate::api::{Reason, ServiceNowCredentialStatus, TokenStatus, condition};

/// A condition to be, without its transition time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) status: &'static str,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn new(status: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }
}

pub(super) const TRUE: &str = "True";
pub(super) const FALSE: &str = "False";
pub(super) const UNKNOWN: &str = "Unknown";

/// Puts a condition in its place; its transition time moves only when its status does
/// (Kubernetes API conventions, "Typical status properties").
pub(super) fn set(
    status: &mut Arc<ServiceNowCredentialStatus>,
    kind: &str,
    verdict: Verdict,
    generation: i64,
    now: Timestamp,
) {
    let old = status.conditions.iter().position(|c| c.type_ == kind);
    let same = old
        .map(|at| &status.conditions[at])
        .filter(|c| c.status == verdict.status);
    if same.is_some_and(|c| {
        c.reason == verdict.reason.as_str()
            && c.message == verdict.message
            && c.observed_generation == Some(generation)
    }) {
        return;
    }
    let since = same.map(|c| c.last_transition_time.clone());
    // Kubernetes stores these times in whole seconds.
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let condition = Condition {
        type_: kind.to_owned(),
        status: verdict.status.to_owned(),
        reason: verdict.reason.as_str().to_owned(),
        message: verdict.message,
        last_transition_time: since.unwrap_or(Time(seconds)),
        observed_generation: Some(generation),
    };
    let conditions = &mut Arc::make_mut(status).conditions;
    match old {
        Some(at) => conditions[at] = condition,
        None => {
            let rank = rank(kind);
            let behind = conditions.iter().position(|c| rank < self::rank(&c.type_));
            conditions.insert(behind.unwrap_or(conditions.len()), condition);
        }
    }
}

/// Conditions stand in one order, whichever was known first; what others have put there comes last.
fn rank(kind: &str) -> usize {
    let ours = [condition::READY, condition::SYNCED, condition::VERIFIED];
    let found = ours.iter().position(|one| *one == kind);
    found.unwrap_or(ours.len())
}

/// A condition by its type.
pub(super) fn get<'a>(status: &'a ServiceNowCredentialStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|c| c.type_ == kind)
}

/// Whether the last attempt worked.
pub(super) fn is_synced(status: &ServiceNowCredentialStatus) -> bool {
    get(status, condition::SYNCED).is_some_and(|c| c.status == TRUE)
}

/// Whether a token that has expired is to be called so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// At once.
    Strict,
    /// Not while an attempt after the expiry is under way and young.
    UnderRenewal,
}

/// Ready: the target holds a token that has not expired; it is over at this moment.
pub(super) fn ready(
    status: &ServiceNowCredentialStatus,
    over: Option<Timestamp>,
    synced: &Verdict,
    target_is_there: bool,
    expiry: Expiry,
    now: Timestamp,
) -> Verdict {
    let (Some(over), Some(target), true) = (over, &status.target, target_is_there) else {
        if synced.status == FALSE {
            return Verdict::new(FALSE, synced.reason, synced.message.clone());
        }
        let message = match &status.target {
            Some(target) => {
                let when = if synced.reason == Reason::Suspended {
                    "spec.suspend is not true any more"
                } else {
                    "a token is at hand"
                };
                format!(
                    "The Secret {:?} is not there, or does not hold the token. It is put back as \
                     soon as {when}.",
                    target.name
                )
            }
            None => "No token has been fetched yet.".to_owned(),
        };
        return Verdict::new(UNKNOWN, Reason::Pending, message);
    };
    let at = timestamp(over);
    if now < over || expiry == Expiry::UnderRenewal {
        let message = format!(
            "The Secret {:?} holds a token that is valid until {at}.",
            target.name
        );
        return Verdict::new(TRUE, Reason::TokenValid, message);
    }
    let message = format!(
        "The token in the Secret {:?} expired at {at} and has not been renewed. See the condition \
         Synced for the cause.",
        target.name
    );
    Verdict::new(FALSE, Reason::TokenExpired, message)
}

/// The validity that a status records.
pub(crate) fn validity_of(token: &TokenStatus) -> Validity {
    Validity {
        issued_at: token.issued_at.0,
        expires_at: token.expires_at.0,
    }
}

/// A status tells a token that is kept until it expires by its renewal time.
pub(super) fn is_kept(token: &TokenStatus) -> bool {
    let apart = token.renewal_time.0.duration_since(token.expires_at.0);
    apart.abs() < SignedDuration::from_micros(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_stand_in_one_order_whichever_was_known_first() {
        let mut status = Arc::default();
        let theirs = "example.com/Reviewed";
        let ours = [condition::VERIFIED, condition::SYNCED, condition::READY];
        for kind in [theirs].into_iter().chain(ours) {
            let verdict = Verdict::new(UNKNOWN, Reason::Pending, "");
            set(&mut status, kind, verdict, 1, Timestamp::UNIX_EPOCH);
        }
        let kinds: Vec<_> = status.conditions.iter().map(|c| &*c.type_).collect();
        assert_eq!(kinds, ["Ready", "Synced", "Verified", theirs]);
    }
}
