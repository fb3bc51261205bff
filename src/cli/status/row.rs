//! One resource as the status command sees it, and how much it needs attention.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use crate::{
    api::{FailureStatus, Reason, condition},
    decide::Credential,
};

/// A condition's status and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    /// `True`, `False` or `Unknown`.
    pub(super) status: String,
    pub(super) reason: String,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    pub(super) ready: State,
    pub(super) synced: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verified: Option<State>,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
    /// The Secret that was written last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issued_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) renewal_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<FailureStatus>,
    pub(super) suspended: bool,
}

/// How much a resource needs attention, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attention {
    /// Workloads have no valid token.
    NotReady,
    /// They have one, and the last attempt failed.
    Failing,
    /// They have one, and its renewal is overdue.
    Overdue,
    /// The token was not accepted where it was tried.
    NotVerified,
    /// Nothing has been tried yet.
    Pending,
    /// Somebody wants nothing done.
    Suspended,
    /// All is well.
    Well,
}

/// An operator that runs renews sooner after the time that it has set itself.
const LATE: SignedDuration = SignedDuration::from_mins(1);

impl Row {
    /// The resource as it is known.
    pub(super) fn of(credential: &Credential) -> Self {
        let status = &credential.status;
        let find = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind);
        let state = |condition: &Condition| State {
            status: condition.status.clone(),
            reason: condition.reason.clone(),
        };
        let pending = || State {
            status: "Unknown".to_owned(),
            reason: Reason::Pending.as_str().to_owned(),
        };
        let synced = find(condition::SYNCED);
        let verified = find(condition::VERIFIED);
        let failed = |c: &&Condition| c.status == "False";
        let advice = synced.filter(failed).or(verified.filter(failed));
        let spec = credential.spec.as_ref();
        let token = status.token.as_ref();
        Self {
            namespace: credential.name.namespace.to_string(),
            name: credential.name.name.to_string(),
            instance: spec.ok().map(|spec| spec.instance.clone()),
            ready: find(condition::READY).map_or_else(pending, state),
            synced: synced.map_or_else(pending, state),
            verified: verified.map(state),
            advice: advice.map(|condition| condition.message.clone()),
            secret: status.target.as_ref().map(|target| target.name.clone()),
            issued_at: token.map(|token| token.issued_at.0),
            expires_at: token.map(|token| token.expires_at.0),
            renewal_time: token.map(|token| token.renewal_time.0),
            failure: status.failure.clone(),
            suspended: spec.is_ok_and(|spec| spec.suspended()),
        }
    }

    /// How much it needs attention now.
    pub(super) fn attention(&self, now: Timestamp) -> Attention {
        let expired = self.expires_at.is_some_and(|at| at <= now);
        let failed = |state: &State| state.status == "False";
        if failed(&self.ready) || expired {
            Attention::NotReady
        } else if failed(&self.synced) {
            Attention::Failing
        } else if !self.suspended && self.renewal_time.is_some_and(|at| at + LATE < now) {
            Attention::Overdue
        } else if self.verified.as_ref().is_some_and(failed) {
            Attention::NotVerified
        } else if self.suspended {
            Attention::Suspended
        } else if self.ready.status != "True" {
            Attention::Pending
        } else {
            Attention::Well
        }
    }

    /// How much of the token's lifetime is left, from 0 to 1; `None` without a token.
    pub(super) fn left(&self, now: Timestamp) -> Option<f64> {
        let (issued, expires) = (self.issued_at?, self.expires_at?);
        let whole = expires.duration_since(issued).as_secs_f64();
        let left = expires.duration_since(now).as_secs_f64();
        Some(if whole > 0.0 {
            (left / whole).clamp(0.0, 1.0)
        } else {
            0.0
        })
    }
}

/// What needs attention first comes first; of those in trouble the one whose token ends first, of
/// those that are well by their names, so that a live table stands still.
pub(super) fn sort(rows: &mut [Row], now: Timestamp) {
    rows.sort_by_cached_key(|row| {
        let attention = row.attention(now);
        let troubled = attention < Attention::Pending;
        let expiry = row.expires_at.filter(|_| troubled);
        (attention, expiry, row.namespace.clone(), row.name.clone())
    });
}
