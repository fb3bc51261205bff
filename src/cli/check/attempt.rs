//! The requests that may be made for a check, and which comes next. Pure.

use super::subject::other;
use crate::{
    api::{ClientAuthentication, Reason},
    servicenow::{Cause, Refusal},
};

/// A request for a token, told by how it differs from the one that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The one that is checked.
    AsMeant,
    /// The same once more: instances refuse one of several concurrent requests now and then.
    Again,
    /// Without its scopes.
    WithoutScopes,
    /// With the client's id and secret sent in the other way.
    OtherAuthentication,
    /// With the other grant, and without scopes.
    OtherGrant,
    /// With both.
    OtherGrantAndAuthentication,
}

/// The requests in their order: no check sends more. A probe follows only a token, and so never
/// the last of them.
const ORDER: [Request; 6] = [
    Request::AsMeant,
    Request::Again,
    Request::WithoutScopes,
    Request::OtherAuthentication,
    Request::OtherGrant,
    Request::OtherGrantAndAuthentication,
];

/// What is known of the request before anything is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// It asks for scopes.
    pub(super) scopes: bool,
    /// It is the password grant's.
    pub(super) password: bool,
    /// What the other grant needs is at hand.
    pub(super) other_grant: bool,
    /// How it sends the client's id and secret.
    pub(super) authentication: ClientAuthentication,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A token.
    Granted,
    /// The instance refused.
    Refused(Refusal),
    /// Neither.
    Failed(Reason),
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) request: Request,
    pub(super) answer: Answer,
}

/// The next request, if one more tells anything.
pub(super) fn next(situation: Situation, attempts: &[Attempt]) -> Option<Request> {
    let (Some(first), Some(last)) = (attempts.first(), attempts.last()) else {
        return Some(Request::AsMeant);
    };
    let (Answer::Refused(meant), Answer::Refused(said)) = (&first.answer, &last.answer) else {
        return None;
    };
    // An instance that does not know the client may not take its id and secret in this way; any
    // other cause that it names needs no comparing.
    if meant.named.is_some_and(|cause| cause != Cause::Client) {
        return None;
    }
    let worth_it = |request: &Request| match request {
        Request::AsMeant => false,
        Request::Again | Request::OtherAuthentication => true,
        Request::WithoutScopes => situation.scopes,
        Request::OtherGrant => situation.other_grant,
        Request::OtherGrantAndAuthentication => {
            situation.other_grant && said.named != Some(Cause::Plugin)
        }
    };
    let before = ORDER.iter().position(|request| *request == last.request)?;
    ORDER[before + 1..].iter().copied().find(worth_it)
}

impl Request {
    /// How it differs, for a person.
    pub(super) fn words(self, situation: Situation) -> String {
        let other = other(situation.authentication);
        let sent = match other {
            ClientAuthentication::Basic => "the Authorization header (Basic)",
            ClientAuthentication::Body => "the form (Body)",
        };
        let grant = if situation.password {
            "the client-credentials grant"
        } else {
            "the password grant with the user given"
        };
        match self {
            Self::AsMeant => "as meant".to_owned(),
            Self::Again => "the same request once more".to_owned(),
            Self::WithoutScopes => "without scopes".to_owned(),
            Self::OtherAuthentication => format!("client id and secret in {sent}"),
            Self::OtherGrant => grant.to_owned(),
            Self::OtherGrantAndAuthentication => {
                format!("{grant}, client id and secret in {sent}")
            }
        }
    }
}
