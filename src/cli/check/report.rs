//! What a check has found, as programs read it.

use serde::Serialize;

/// One step, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    /// `client`, `DNS`, `TLS`, `HTTP`, `answer`, `comparison` or `probe`.
    pub(super) step: &'static str,
    pub(super) ok: bool,
    pub(super) detail: String,
}

impl Step {
    pub(super) fn new(step: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self {
            step,
            ok,
            detail: detail.into(),
        }
    }
}

/// Something that is likely wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// A [`Cause`](crate::servicenow::Cause), or the reason of a failure that is no refusal.
    pub(super) cause: String,
    /// In a sentence or more.
    pub(super) explanation: String,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// A token was obtained and, where that was asked for, it works.
    pub(super) ok: bool,
    /// The reason that a condition would have; none where all is well.
    pub(super) reason: Option<String>,
    /// What came of it, in a sentence or two.
    pub(super) message: String,
    pub(super) steps: Vec<Step>,
    /// What is likely wrong, the likeliest first.
    pub(super) causes: Vec<Finding>,
    /// Where more is to be found, for an instance that refuses.
    pub(super) see_also: Option<String>,
    /// Seconds that the token lives.
    pub(super) expires_in: Option<i64>,
    pub(super) scope: Option<String>,
    /// Requests that were sent to the instance.
    pub(super) requests: usize,
    /// The token, for whoever asked to see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
}
