//! What is checked.

use zeroize::Zeroizing;

use super::{
    attempt::{Request, Situation},
    voice::Voice,
};
use crate::{
    api::{ClientAuthentication, Instance},
    servicenow::SharingKey,
};

/// A user's name and password.
pub(super) type User = (Zeroizing<String>, Zeroizing<String>);

/// What is checked. It holds secrets, so it has no `Debug`.
pub(super) struct Subject {
    /// The instance.
    pub(super) instance: Instance,
    /// The token request.
    pub(super) key: SharingKey,
    /// A path to use the token on.
    pub(super) verify_path: Option<String>,
    /// A user to compare the client-credentials grant with.
    pub(super) user: Option<User>,
    /// Where the client's secret is from.
    pub(super) source: String,
    /// How it is spoken of.
    pub(super) voice: Voice,
}

impl Subject {
    /// What decides which requests are worth making.
    pub(super) fn situation(&self) -> Situation {
        let password = self.key.user_name().is_some();
        Situation {
            scopes: self.key.has_scopes(),
            password,
            other_grant: password || self.user.is_some(),
            authentication: self.key.authentication(),
        }
    }

    /// The key of a request.
    pub(super) fn key_of(&self, request: Request) -> SharingKey {
        let key = self.key.clone();
        let other = other(key.authentication());
        match request {
            Request::AsMeant | Request::Again => key,
            Request::WithoutScopes => key.without_scopes(),
            Request::OtherAuthentication => key.authenticated_by(other),
            Request::OtherGrant => self.other_grant(),
            Request::OtherGrantAndAuthentication => self.other_grant().authenticated_by(other),
        }
    }

    /// Without scopes, which are a cause of their own.
    fn other_grant(&self) -> SharingKey {
        let key = self.key.clone().without_scopes();
        match &self.user {
            Some((name, password)) => key.for_user(name.clone(), password.clone()),
            None => key.for_itself(),
        }
    }
}

/// The other of the two ways to send the client's id and secret.
pub(super) fn other(authentication: ClientAuthentication) -> ClientAuthentication {
    match authentication {
        ClientAuthentication::Basic => ClientAuthentication::Body,
        ClientAuthentication::Body => ClientAuthentication::Basic,
    }
}
