//! OAuth clients as an instance's Application Registry holds them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};

use super::{journal::AuthMethod, time_text};

/// The lifetime ServiceNow gives an access token unless the registry entry says otherwise.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(1800);

/// One entry of the Application Registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// The client secret, compared byte for byte: a stray newline makes it wrong.
    pub secret: String,
    /// How long an access token lives. Real entries have whole seconds; tests may want less.
    pub lifetime: Duration,
    /// The scopes linked to the client. Asking for none is always allowed.
    pub scopes: Vec<String>,
    /// The field OAuth Application User, which is easily forgotten because the form does not show it.
    pub application_user: Option<String>,
    /// Whether that user is active and not locked out.
    pub user_active: bool,
    /// Whether the entry itself is active.
    pub active: bool,
    /// What an access token looks like.
    pub token_format: TokenFormat,
    /// The only way in which the client's id and secret are taken; none takes header and form alike.
    pub authentication: Option<AuthMethod>,
}

/// What an access token looks like; no client may depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenFormat {
    /// 86 random base64url characters.
    #[default]
    Opaque,
    /// Three base64url parts, about 600 characters.
    Jwt,
}

impl Client {
    /// A client that is set up right: a lifetime of 30 minutes, an active application user, no scopes.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            secret: secret.into(),
            lifetime: DEFAULT_LIFETIME,
            scopes: Vec::new(),
            application_user: Some("integration.user".to_owned()),
            user_active: true,
            active: true,
            token_format: TokenFormat::default(),
            authentication: None,
        }
    }

    /// The same client with another lifetime of its access tokens.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// The same client with these scopes linked to it.
    #[must_use]
    pub fn with_scopes<S: Into<String>>(self, scopes: impl IntoIterator<Item = S>) -> Self {
        Self {
            scopes: scopes.into_iter().map(Into::into).collect(),
            ..self
        }
    }

    /// The same client with no OAuth Application User.
    #[must_use]
    pub fn without_application_user(self) -> Self {
        Self {
            application_user: None,
            ..self
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("secret", &"<redacted>")
            .field("lifetime", &self.lifetime)
            .field("scopes", &self.scopes)
            .field("application_user", &self.application_user)
            .field("user_active", &self.user_active)
            .field("active", &self.active)
            .field("token_format", &self.token_format)
            .field("authentication", &self.authentication)
            .finish()
    }
}

/// The fields of a [`Client`] to change, as JSON says them; what is absent stays as it is.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientSettings {
    /// The client id; only where a list of clients is given, where it is required.
    pub id: Option<String>,
    /// [`Client::secret`].
    pub secret: Option<String>,
    /// [`Client::lifetime`], as `"30s"`.
    #[serde(deserialize_with = "time_text::deserialize_some")]
    pub lifetime: Option<Duration>,
    /// [`Client::scopes`].
    pub scopes: Option<Vec<String>>,
    /// [`Client::application_user`]; JSON's `null` takes the user away.
    #[serde(deserialize_with = "null_is_a_value")]
    pub application_user: Option<Option<String>>,
    /// [`Client::user_active`].
    pub user_active: Option<bool>,
    /// [`Client::active`].
    pub active: Option<bool>,
    /// [`Client::token_format`].
    pub token_format: Option<TokenFormat>,
    /// [`Client::authentication`]; JSON's `null` takes both again.
    #[serde(deserialize_with = "null_is_a_value")]
    pub authentication: Option<Option<AuthMethod>>,
}

impl ClientSettings {
    /// Changes every field of `client` that is set here, except the id.
    pub fn apply(self, client: &mut Client) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut client.secret, self.secret);
        set(&mut client.lifetime, self.lifetime);
        set(&mut client.scopes, self.scopes);
        set(&mut client.application_user, self.application_user);
        set(&mut client.user_active, self.user_active);
        set(&mut client.active, self.active);
        set(&mut client.token_format, self.token_format);
        set(&mut client.authentication, self.authentication);
    }
}

fn null_is_a_value<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
