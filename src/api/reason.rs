//! The closed vocabulary of conditions: their types, and every reason that one of them may carry.
//!
//! A reason is at once the condition's word, an event's reason, and the word that `kubectl get`
//! shows. Nothing outside this list is ever written.

use std::{fmt, str::FromStr};

/// The types of the conditions in `status.conditions`.
pub mod condition {
    /// The target Secret holds a token that has not expired.
    pub const READY: &str = "Ready";
    /// The last attempt worked, and the Secret is as the spec says.
    pub const SYNCED: &str = "Synced";
    /// The probe of `spec.verify` accepted the token; absent without `spec.verify`.
    pub const VERIFIED: &str = "Verified";
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a condition is as it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The word as it stands in a condition.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    /// `Ready`: the target Secret holds a token that has not expired.
    TokenValid,
    /// `Ready`: the token in the target Secret has expired.
    TokenExpired,
    /// `Ready`, `Synced`: nothing has been tried yet.
    Pending,
    /// `Synced`: the Secret holds the current token, as the spec says.
    TokenSynced,
    /// `Synced`: `spec.suspend` is true, so nothing is asked for or written.
    Suspended,
    /// `Synced`: the Secret of `spec.client` does not exist.
    ClientSecretMissing,
    /// `Synced`: the Secret of `spec.client` lacks a key, or holds something unusable.
    ClientSecretInvalid,
    /// `Synced`: the CA bundle, client certificate or user Secret does not exist.
    ReferenceMissing,
    /// `Synced`: the CA bundle, client certificate or user Secret cannot be used.
    ReferenceInvalid,
    /// `Synced`: the instance's host is not among `--allowed-hosts`.
    HostNotAllowed,
    /// `Synced`: the instance refused the credentials or the grant.
    AccessDenied,
    /// `Synced`: the instance asked for fewer requests.
    RateLimited,
    /// `Synced`: the instance sleeps, and somebody must wake it.
    InstanceHibernating,
    /// `Synced`: the instance cannot be reached, or answers with server errors.
    InstanceUnavailable,
    /// `Synced`: no trusted TLS connection to the instance.
    TlsFailed,
    /// `Synced`: the instance's answer is not a usable token.
    InvalidResponse,
    /// `Synced`: the target Secret, or one of its keys, belongs to somebody else.
    TargetConflict,
    /// `Synced`: the Secret to merge into does not exist.
    TargetMissing,
    /// `Synced`: a template of `spec.target.data` cannot be rendered.
    TemplateInvalid,
    /// `Synced`: Kubernetes forbade something that the operator needs.
    PermissionDenied,
    /// `Synced`: the spec holds something that today's rules refuse.
    InvalidSpec,
    /// `Synced`: a defect of the operator.
    InternalError,
    /// `Verified`: the probe accepted the token.
    ProbeSucceeded,
    /// `Verified`: the probe answered 401.
    ProbeUnauthorized,
    /// `Verified`: the probe answered 403.
    ProbeForbidden,
    /// `Verified`: the probe failed in another way.
    ProbeFailed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no [`Reason`], as an operator of another version may have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a reason that this version knows")]
pub struct UnknownReason(String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == word)
            .ok_or_else(|| UnknownReason(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_as_itself() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert_eq!(format!("{reason}"), reason.as_str());
        }
    }

    #[test]
    fn a_word_of_another_version_is_an_error() {
        assert_eq!(
            "tokenvalid".parse::<Reason>(),
            Err(UnknownReason("tokenvalid".to_owned()))
        );
    }
}
