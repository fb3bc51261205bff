//! Why an instance refuses a client: it says hardly more than `access_denied`, so a person gets the
//! list of what is usually wrong, the likeliest first.

/// Something that is wrong with the setup in ServiceNow, or with what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The client-credentials grant is switched off, as it is by default.
    GrantSwitchedOff,
    /// The client has no user to act as, or one that may not.
    ApplicationUser,
    /// The client's id or secret.
    Client,
    /// The name or password of the password grant's user.
    User,
    /// A scope that the client does not have.
    Scope,
    /// What makes OAuth or its scopes work is not active.
    Plugin,
    /// Newer releases have another place for clients.
    MachineIdentity,
    /// How the client's id and secret are sent. No answer tells it, only a comparison.
    Authentication,
}

/// Where a person finds more than the instance says outside.
pub const WHERE_MORE: &str = "The instance's System Logs, filtered to Source = OAuth, say more; \
                              ServiceNow's KB1645212 covers the setup.";

impl Cause {
    /// The causes of a refusal by the client-credentials grant, in the order in which people meet
    /// them (ServiceNow's KB1645212 and the product documentation on inbound OAuth).
    pub const CLIENT_CREDENTIALS: [Self; 6] = [
        Self::GrantSwitchedOff,
        Self::ApplicationUser,
        Self::Client,
        Self::Scope,
        Self::Plugin,
        Self::MachineIdentity,
    ];

    /// The causes of a refusal by the password grant.
    pub const PASSWORD: [Self; 4] = [Self::User, Self::Client, Self::Scope, Self::Plugin];

    /// A short name, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GrantSwitchedOff => "GrantSwitchedOff",
            Self::ApplicationUser => "ApplicationUser",
            Self::Client => "Client",
            Self::User => "User",
            Self::Scope => "Scope",
            Self::Plugin => "Plugin",
            Self::MachineIdentity => "MachineIdentity",
            Self::Authentication => "Authentication",
        }
    }

    /// What is wrong, as a clause.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::GrantSwitchedOff => {
                "the system property glide.oauth.inbound.client.credential.grant_type.enabled is \
                 missing or not true (its default is false; the password grant works without it)"
            }
            Self::ApplicationUser => {
                "the client's Application Registry entry has no OAuth Application User (the field \
                 is not on the form by default), or that user is inactive, locked out or lacks roles"
            }
            Self::Client => {
                "the client id or secret is wrong, or was stored with something around it"
            }
            Self::User => {
                "the user's name or password is wrong, or the user is inactive or locked out"
            }
            Self::Scope => {
                "a requested scope is not linked to the client (leaving spec.scopes out is always \
                 allowed)"
            }
            Self::Plugin => {
                "a plugin is inactive: com.snc.platform.security.oauth, com.glide.rest, \
                 com.glide.auth.scope or com.glide.rest.auth.scope"
            }
            Self::MachineIdentity => {
                "on Zurich and newer, the client must be made in the Machine Identity Console as an \
                 inbound integration with the client credentials grant"
            }
            Self::Authentication => {
                "the client's id and secret are sent in a way that the instance does not take: \
                 change spec.client.authentication"
            }
        }
    }
}

/// The cause that an instance names: by the codes of RFC 6749, section 5.2, or in words of its own.
#[must_use]
pub(super) fn named(error: &str, error_description: &str) -> Option<Cause> {
    if error_description.contains("integration user is not configured") {
        return Some(Cause::ApplicationUser);
    }
    match error {
        "unsupported_grant_type" => Some(Cause::Plugin),
        "invalid_scope" => Some(Cause::Scope),
        "invalid_client" => Some(Cause::Client),
        "invalid_grant" => Some(Cause::User),
        _ => None,
    }
}

/// The causes of a refusal in their order, the one that the instance names first.
#[must_use]
pub fn likely(password_grant: bool, named: Option<Cause>) -> Vec<Cause> {
    let mut causes = if password_grant {
        Cause::PASSWORD.to_vec()
    } else {
        Cause::CLIENT_CREDENTIALS.to_vec()
    };
    if let Some(named) = named.filter(|named| causes.contains(named)) {
        first(&mut causes, named);
    }
    causes
}

/// Moves a cause to the front.
pub fn first(causes: &mut Vec<Cause>, cause: Cause) {
    causes.retain(|other| *other != cause);
    causes.insert(0, cause);
}
