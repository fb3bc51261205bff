//! What this process remembers of a resource, and no status tells.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    Class, Failure, Transition,
    observed::{Basis, ByRole, CheckedSpec, Seen, Version},
    renewal::Validity,
    restarts::Unrestarted,
    status::validity_of,
};
use crate::api::{FailureStatus, ServiceNowCredentialStatus, TokenStatus, Workload};

/// What this process remembers of a resource between two reconciles. Losing it costs no
/// correctness.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The spec that the Secret was last written for.
    pub basis: Option<Basis>,
    /// This process has written the Secret, and needs no record in it to tell it what.
    pub has_written: bool,
    /// The last failure: waiting is not written each time.
    pub failure: Option<Arc<Remembered>>,
    /// The failure on record that is waited out, which an earlier process met.
    pub waited: Option<Arc<Waited>>,
    /// The last failure that the instance was the cause of, and how many in a row: what the cluster
    /// comes to meanwhile does not make it the first again.
    pub shared: Option<(Class, u32)>,
    /// How often the client was refused since it was good.
    pub refusals: u32,
    /// The value of the renew annotation, and when it was first seen.
    pub renew_request: Option<(String, Timestamp)>,
    /// When the target was put back, of late.
    pub put_backs: Vec<Timestamp>,
    /// Writes of the status that failed in a row.
    pub unwritten: u32,
    /// The event that was to go with the last one of them: it may have taken effect all the same.
    pub untold: Option<Transition>,
    /// The token of this validity is known to be kept until it expires: a status that was to tell so may
    /// not have been written.
    pub kept: Option<Validity>,
    /// The clock was set back by so much since the token with this beginning was recorded: its times
    /// are wrong.
    pub distrusted: Option<(Timestamp, SignedDuration)>,
    /// And since the failure of this moment was recorded: how long it is to be waited out is not known.
    pub distrusted_wait: Option<Timestamp>,
    /// Workloads that are still to be restarted.
    pub unrestarted: Option<Unrestarted>,
    /// What was said of those that could not be; `None` until this process has restarted any.
    pub restarts: Option<Vec<(Workload, String)>>,
    /// Tries to let the resource go that failed in a row.
    pub let_go: u32,
    /// A state of the target that was found to be somebody else's, and what was said of it.
    pub judged_target: Option<Judged>,
    /// The state of the target that was read last, and whether our token was found to be edited away in
    /// it.
    pub looked_at: Option<(Version, bool)>,
}

impl Memory {
    /// How much the clock was set back since this token was recorded, where it was.
    pub(super) fn set_back_since(&self, token: &TokenStatus) -> Option<SignedDuration> {
        let (issued_at, by) = self.distrusted?;
        (issued_at == token.issued_at.0).then_some(by)
    }

    /// The validity of a token on record, by the clock as it is now.
    pub fn validity(&self, token: &TokenStatus) -> Validity {
        let by = self.set_back_since(token);
        validity_of(token).set_back(by.unwrap_or_default())
    }

    /// The token with this beginning was recorded by a clock that has been set back by this much since.
    /// Of one that had been recorded before that, more is known already.
    pub fn distrust(&mut self, issued_at: Timestamp, by: SignedDuration) {
        let known = self.distrusted.filter(|(of, _)| *of == issued_at);
        self.distrusted = known.or(Some((issued_at, by)));
    }

    /// The clock was set back by this much, with this status on record.
    pub fn clock_set_back(&mut self, by: SignedDuration, status: &ServiceNowCredentialStatus) {
        self.distrusted = status.token.as_ref().map(|token| {
            let before = self.distrusted.filter(|(of, _)| *of == token.issued_at.0);
            let before = before.map_or(SignedDuration::ZERO, |(_, by)| by);
            (token.issued_at.0, before + by)
        });
        self.distrusted_wait = status.failure.as_ref().map(|failure| failure.last_time.0);
        if let Some(remembered) = self.failure.as_mut().map(Arc::make_mut) {
            let failure = &mut remembered.failure;
            failure.last_time.0 -= by;
            if let Some(retry) = &mut failure.retry_time {
                retry.0 -= by;
            }
        }
        if let Some((_, since)) = &mut self.renew_request {
            *since -= by;
        }
        self.put_backs.iter_mut().for_each(|at| *at -= by);
        if let Some(left) = self
            .unrestarted
            .as_mut()
            .filter(|left| left.tried > Timestamp::MIN)
        {
            left.tried -= by;
        }
    }
}

/// A state of the target that is somebody else's, as one spec has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The state.
    pub version: Version,
    /// The spec.
    pub basis: Basis,
    /// What was said of it.
    pub failure: Failure,
    /// A key of ours has somebody else's value: the target holds no token of ours.
    pub lost: bool,
}

/// A failure on record that is waited out, and what was to be asked with when that began: a change of
/// either ends the wait.
#[derive(Clone, Debug)]
pub struct Waited {
    /// When it was met: which failure it is.
    pub failed_at: Timestamp,
    /// The spec.
    pub spec: CheckedSpec,
    /// The objects that it refers to.
    pub references: ByRole<Seen>,
}

/// A failure, and what it was met with: a change of either ends the wait.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// The failure as the status would say it.
    pub failure: FailureStatus,
    /// The spec.
    pub attempt: Basis,
    /// The objects that it refers to.
    pub references: ByRole<Seen>,
    /// A token is at hand that could not be written.
    pub unwritten: bool,
}
