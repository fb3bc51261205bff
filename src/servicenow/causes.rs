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
}

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
        }
    }
}

/// The causes of a refusal in their order, as far as the instance's own words tell.
#[must_use]
pub fn likely(password_grant: bool, error_description: &str) -> Vec<Cause> {
    let mut causes = if password_grant {
        Cause::PASSWORD.to_vec()
    } else {
        Cause::CLIENT_CREDENTIALS.to_vec()
    };
    if error_description.contains("integration user is not configured") {
        first(&mut causes, Cause::ApplicationUser);
    }
    causes
}

/// Moves a cause to the front.
pub fn first(causes: &mut Vec<Cause>, cause: Cause) {
    causes.retain(|other| *other != cause);
    causes.insert(0, cause);
}
