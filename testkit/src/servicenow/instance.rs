//! The instance: its clients, users, properties and tokens, and whom it gives a token.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{
    client::Client,
    clock::Clock,
    fault::{Faults, TableFault},
    journal::Journal,
    token_request::{Credentials, TokenRequest},
    tokens::{Holder, Issued, TokenMode, Tokens},
};

/// The scope an instance names where none was asked for.
pub(super) const DEFAULT_SCOPE: &str = "useraccount";

/// What an instance answers where a client has no OAuth Application User. It depends on the release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingUser {
    /// 401 `access_denied`, as for every other wrong setup.
    #[default]
    AccessDenied,
    /// 400 `unauthorized_client`, which says what is wrong.
    UnauthorizedClient,
}

/// Everything the instance knows.
pub(super) struct Instance {
    pub(super) clock: Clock,
    pub(super) clients: BTreeMap<String, Client>,
    pub(super) users: BTreeMap<String, String>,
    pub(super) tokens: Tokens,
    pub(super) mode: TokenMode,
    /// `glide.oauth.inbound.client.credential.grant_type.enabled`.
    pub(super) property_enabled: bool,
    pub(super) missing_user: MissingUser,
    pub(super) faults: Faults,
    pub(super) table_fault: Option<TableFault>,
    pub(super) journal: Journal,
}

/// The instance as the server's tasks and the test share it.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Instance>>);

impl Shared {
    pub(super) fn new(instance: Instance) -> Self {
        Self(Arc::new(Mutex::new(instance)))
    }

    /// A test that panicked with the lock in hand has failed already; the others go on.
    pub(super) fn lock(&self) -> MutexGuard<'_, Instance> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token request that is granted.
pub(super) struct Granted {
    pub(super) token: Issued,
    pub(super) scope: String,
    /// Only the password grant returns a refresh token.
    pub(super) with_refresh_token: bool,
}

/// A token request that is refused. The text is for the instance's own log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 401, and nothing that tells the causes apart.
    AccessDenied(String),
    /// 400: there is no application user.
    UnauthorizedClient,
    /// 400: a grant type the instance does not have.
    UnsupportedGrant(String),
    /// 400: not a token request. What an instance answers here is not documented; RFC 6749's code.
    InvalidRequest(String),
}

impl Refusal {
    fn denied(why: impl Into<String>) -> Self {
        Self::AccessDenied(why.into())
    }

    /// The entry in the instance's System Logs.
    pub(super) fn log(&self) -> String {
        match self {
            Self::AccessDenied(why) | Self::InvalidRequest(why) => why.clone(),
            Self::UnauthorizedClient => "the client has no OAuth Application User".to_owned(),
            Self::UnsupportedGrant(grant) => format!("unsupported grant type {grant:?}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Grant {
    ClientCredentials,
    Password,
}

impl Instance {
    /// A token for the request, or why not.
    pub(super) fn grant(&mut self, request: &TokenRequest) -> Result<Granted, Refusal> {
        let grant = grant_type(request)?;
        if grant == Grant::ClientCredentials && !self.property_enabled {
            return Err(Refusal::denied(
                "the property of the client credentials grant is not true",
            ));
        }
        let client = self.authenticated_client(request)?;
        let user = match grant {
            Grant::ClientCredentials => self.application_user(client)?,
            Grant::Password => self.authenticated_user(request.user())?,
        };
        let scope = linked_scope(client, request.parameter("scope"))?;
        let holder = Holder {
            client: client.id.clone(),
            user,
            scopes: scope.split(' ').map(str::to_owned).collect(),
        };
        let (lifetime, format) = (client.lifetime, client.token_format);
        let token = self
            .tokens
            .issue(holder, lifetime, format, self.mode, self.clock.now());
        let with_refresh_token = grant == Grant::Password;
        if with_refresh_token {
            self.tokens.hand_out_refresh_token(&token.refresh_token);
        }
        Ok(Granted {
            token,
            scope,
            with_refresh_token,
        })
    }

    /// Whether the token opens the instance's APIs now.
    pub(super) fn accepts(&self, token: &str) -> bool {
        self.tokens.is_valid(token, self.clock.now())
    }

    /// Counts it where a refresh token came back.
    pub(super) fn look_for_refresh_token(&mut self, said: &str) {
        let returned = self
            .tokens
            .refresh_tokens()
            .any(|token| said.contains(token));
        self.journal.refresh_tokens_returned += usize::from(returned);
    }

    fn authenticated_client(&self, request: &TokenRequest) -> Result<&Client, Refusal> {
        let presented = request.client();
        let presented = presented.ok_or_else(|| Refusal::denied("no client id and secret"))?;
        let client = self
            .clients
            .get(&presented.name)
            .ok_or_else(|| Refusal::denied("no such client"))?;
        if client.secret != presented.secret {
            return Err(Refusal::denied("wrong client secret"));
        }
        if client
            .authentication
            .is_some_and(|only| only != request.auth())
        {
            return Err(Refusal::denied(
                "the client's id and secret in the wrong place",
            ));
        }
        if !client.active {
            return Err(Refusal::denied("the client is not active"));
        }
        Ok(client)
    }

    fn application_user(&self, client: &Client) -> Result<String, Refusal> {
        match (&client.application_user, self.missing_user) {
            (Some(user), _) if client.user_active => Ok(user.clone()),
            (Some(_), _) => Err(Refusal::denied("the OAuth Application User is not active")),
            (None, MissingUser::AccessDenied) => {
                Err(Refusal::denied("the client has no OAuth Application User"))
            }
            (None, MissingUser::UnauthorizedClient) => Err(Refusal::UnauthorizedClient),
        }
    }

    fn authenticated_user(&self, presented: Option<Credentials>) -> Result<String, Refusal> {
        presented
            .filter(|presented| self.users.get(&presented.name) == Some(&presented.secret))
            .map(|presented| presented.name)
            .ok_or_else(|| Refusal::denied("wrong user name or password"))
    }
}

fn grant_type(request: &TokenRequest) -> Result<Grant, Refusal> {
    if let Some(why) = request.malformed {
        return Err(Refusal::InvalidRequest(why.to_owned()));
    }
    match request.parameter("grant_type") {
        Some("client_credentials") => Ok(Grant::ClientCredentials),
        Some("password") => Ok(Grant::Password),
        Some(other) => Err(Refusal::UnsupportedGrant(other.to_owned())),
        None => Err(Refusal::InvalidRequest("no grant_type".to_owned())),
    }
}

/// The scope of the token: what was asked for, if all of it is linked to the client.
fn linked_scope(client: &Client, asked: Option<&str>) -> Result<String, Refusal> {
    let asked: Vec<&str> = asked.unwrap_or(DEFAULT_SCOPE).split_whitespace().collect();
    let linked =
        |scope: &str| scope == DEFAULT_SCOPE || client.scopes.iter().any(|linked| linked == scope);
    match asked.iter().find(|scope| !linked(scope)) {
        Some(scope) => Err(Refusal::denied(format!(
            "invalid_scope: {scope:?} is not linked to the client"
        ))),
        None => Ok(asked.join(" ")),
    }
}
