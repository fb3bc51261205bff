//! What went wrong, said once: the condition's reason, the sentence for the person, and the class
//! that says how to wait.

use std::{fmt, sync::Arc};

use jiff::SignedDuration;

use crate::api::Reason;

/// A failed attempt. Its message names the thing that failed, the likely cause and the next step,
/// and holds no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    reason: Reason,
    message: Arc<str>,
    retry_after: Option<SignedDuration>,
    one_off: bool,
}

/// How a failure is waited out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The instance refused the client: everyone with the same sharing key waits, long.
    Refused,
    /// The instance cannot answer: everyone on the same origin waits, one probes.
    Outage,
    /// The instance asked for fewer requests: everyone on the same origin waits as it says.
    Held,
    /// The answer or the connection was not acceptable: like an outage, by sharing key.
    Unacceptable,
    /// Something in the cluster has to change first; nothing is sent until it does.
    Local,
    /// The Kubernetes API did not do what it was asked, or we have a bug: tried again, backed off.
    Cluster,
}

impl Class {
    /// The instance is the cause, and everyone who asks it alike waits together.
    pub fn is_shared(self) -> bool {
        !matches!(self, Self::Local | Self::Cluster)
    }

    /// It holds everyone at the same origin, and one probes for all.
    pub fn is_of_origin(self) -> bool {
        matches!(self, Self::Outage | Self::Held)
    }
}

impl Failure {
    /// A failure with the sentence that its reader gets.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into().into(),
            retry_after: None,
            one_off: false,
        }
    }

    /// The same failure with the wait that the instance asked for (RFC 9110, section 10.2.3).
    pub fn with_retry_after(mut self, retry_after: Option<SignedDuration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// The same failure, which may be one among good answers: instances refuse now and then one of
    /// several concurrent requests with HTTP 401, and take the next.
    pub fn as_one_off(mut self, one_off: bool) -> Self {
        self.one_off = one_off;
        self
    }

    /// Whether it may be one among good answers.
    pub fn is_one_off(&self) -> bool {
        self.one_off
    }

    /// The condition's reason.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The sentence for the person who reads the condition.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The wait that the instance asked for, where it did.
    pub fn retry_after(&self) -> Option<SignedDuration> {
        self.retry_after
    }

    /// How it is waited out.
    pub fn class(&self) -> Class {
        class_of(self.reason)
    }
}

/// The class of a reason, also for one read back from a status.
pub fn class_of(reason: Reason) -> Class {
    match reason {
        Reason::AccessDenied => Class::Refused,
        Reason::InstanceUnavailable | Reason::InstanceHibernating => Class::Outage,
        Reason::RateLimited => Class::Held,
        Reason::InvalidResponse | Reason::TlsFailed => Class::Unacceptable,
        Reason::PermissionDenied | Reason::InternalError => Class::Cluster,
        _ => Class::Local,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Failure {}
