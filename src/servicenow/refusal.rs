//! What an instance says when it refuses, which is little, and what a person is told of it.

use std::fmt;

use serde::Deserialize;

use super::{
    answer::{InHand, RawAnswer, longest_word, quotable},
    causes::{Cause, WHERE_MORE, likely, named},
    key::SharingKey,
};
use crate::{api::Reason, decide::Failure, redact::blank_likely};

/// The longest part of an `error_description` that is repeated.
const DESCRIPTION_LIMIT: usize = 200;

/// What an instance says when it refuses a token request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `error` and `error_description`, fit to be shown; empty where it said nothing.
    pub said: String,
    /// The cause that it names, where it names one.
    pub named: Option<Cause>,
}

/// The OAuth error fields (RFC 6749, section 5.2).
#[derive(Default, Deserialize)]
struct OAuthError {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Refusal {
    /// What a refusal of this key's request says.
    pub fn of(answer: &RawAnswer, key: &SharingKey, in_hand: InHand<'_>) -> Self {
        let body = answer.body.as_deref().unwrap_or_default();
        let error: OAuthError = serde_json::from_slice(body).unwrap_or_default();
        let fields = [&error.error, &error.error_description];
        let longest = fields.map(|field| longest_word(field)).into_iter().max();
        let credentials = key.credentials(in_hand(longest.unwrap_or(0)));
        // A token that an earlier process was given, or that was replaced, is in hand no more.
        let parts = fields.map(|f| quotable(f, &credentials, blank_likely, DESCRIPTION_LIMIT));
        let said: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self {
            status: answer.status,
            said: said.join(": "),
            named: named(&error.error, &error.error_description),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        if self.said.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.said)
    }
}

pub(super) fn refused(answer: &RawAnswer, key: &SharingKey, in_hand: InHand<'_>) -> Failure {
    let origin = key.origin();
    let refusal = Refusal::of(answer, key, in_hand);
    let password = key.user_name().is_some();
    if refusal.named == Some(Cause::Plugin) {
        let grant = if password {
            "password"
        } else {
            "client-credentials"
        };
        return Failure::new(
            Reason::AccessDenied,
            format!(
                "{origin} refused the token request with {refusal}: this instance does not offer \
                 the {grant} grant. Check that its release has it and that the plugin OAuth 2.0 \
                 (com.snc.platform.security.oauth) is active."
            ),
        );
    }
    let causes = likely(password, refusal.named);
    let list: Vec<_> = causes
        .iter()
        .enumerate()
        .map(|(i, cause)| format!("{}) {}", i + 1, cause.explain()))
        .collect();
    let whom = if password {
        "the client or the user"
    } else {
        "the client"
    };
    Failure::new(
        Reason::AccessDenied,
        format!(
            "{origin} refused {whom} with {refusal}. The instance does not say why; check in this \
             order: {}. {WHERE_MORE}",
            list.join("; ")
        ),
    )
}
