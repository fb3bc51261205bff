//! Who asks what of whom: everything that makes two token requests the same request.

use std::{
    collections::BTreeSet,
    fmt,
    hash::{Hash, Hasher},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::{tls::Tls, token::AccessToken};
use crate::api::{ClientAuthentication, Instance};

/// Tokens and refusals are shared by this key and by nothing less: origin, client authentication,
/// client id and secret, grant material, scopes, CA and client certificate, compared as bytes, in
/// memory only.
#[derive(Clone, PartialEq, Eq)]
pub struct SharingKey {
    origin: String,
    authentication: ClientAuthentication,
    client_id: Zeroizing<String>,
    client_secret: Zeroizing<String>,
    /// Name and password of the password grant.
    user: Option<(Zeroizing<String>, Zeroizing<String>)>,
    scopes: BTreeSet<String>,
    tls: Tls,
}

impl SharingKey {
    /// The key of a client-credentials grant (RFC 6749, section 4.4).
    pub fn client_credentials(
        instance: &Instance,
        authentication: ClientAuthentication,
        client_id: Zeroizing<String>,
        client_secret: Zeroizing<String>,
        scopes: &[String],
    ) -> Self {
        Self {
            origin: instance.origin().to_owned(),
            authentication,
            client_id,
            client_secret,
            user: None,
            scopes: scopes.iter().cloned().collect(),
            tls: Tls::default(),
        }
    }

    /// The same client with the password grant (RFC 6749, section 4.3).
    #[must_use]
    pub fn for_user(mut self, name: Zeroizing<String>, password: Zeroizing<String>) -> Self {
        self.user = Some((name, password));
        self
    }

    /// The same client with the client-credentials grant.
    #[must_use]
    pub fn for_itself(mut self) -> Self {
        self.user = None;
        self
    }

    /// The same without scopes.
    #[must_use]
    pub fn without_scopes(mut self) -> Self {
        self.scopes.clear();
        self
    }

    /// The same with the client's id and secret sent so.
    #[must_use]
    pub fn authenticated_by(mut self, authentication: ClientAuthentication) -> Self {
        self.authentication = authentication;
        self
    }

    /// The same over connections made so.
    #[must_use]
    pub fn over(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// The instance's origin.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How the client's id and secret are sent.
    pub fn authentication(&self) -> ClientAuthentication {
        self.authentication
    }

    /// The client's id.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The name of the user whose password is sent; `None` with the client-credentials grant.
    pub fn user_name(&self) -> Option<&str> {
        self.user.as_ref().map(|(name, _)| name.as_str())
    }

    /// Whether any scope is asked for.
    pub fn has_scopes(&self) -> bool {
        !self.scopes.is_empty()
    }

    /// What its connections are made with.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The `Authorization` header (RFC 7617), where the client authenticates by one.
    pub(crate) fn authorization(&self) -> Option<Zeroizing<String>> {
        let pair = Zeroizing::new(format!("{}:{}", *self.client_id, *self.client_secret));
        (self.authentication == ClientAuthentication::Basic)
            .then(|| Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
    }

    /// The body of the token request. Nothing of it ever goes into a URL.
    pub(crate) fn form(&self) -> Zeroizing<String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        match &self.user {
            None => {
                form.append_pair("grant_type", "client_credentials");
            }
            Some((name, password)) => {
                form.append_pair("grant_type", "password");
                form.append_pair("username", name);
                form.append_pair("password", password);
            }
        }
        if self.authentication == ClientAuthentication::Body {
            form.append_pair("client_id", &self.client_id);
            form.append_pair("client_secret", &self.client_secret);
        }
        if !self.scopes.is_empty() {
            let scopes: Vec<_> = self.scopes.iter().map(String::as_str).collect();
            form.append_pair("scope", &scopes.join(" "));
        }
        Zeroizing::new(form.finish())
    }

    /// Every credential in hand that could come back in an answer, with these tokens: raw, without the
    /// white space around it, and in base64, standard and for URLs, with and without padding.
    pub(crate) fn credentials(
        &self,
        tokens: impl IntoIterator<Item = AccessToken>,
    ) -> Vec<Zeroizing<String>> {
        let pair = Zeroizing::new(format!("{}:{}", *self.client_id, *self.client_secret));
        // A user's name is a word like others: blanked, it would take the sense out of what is said.
        let password = self.user.as_ref().map(|(_, password)| password);
        let client = [&pair, &self.client_secret, &self.client_id];
        let own = client.into_iter().chain(password).cloned();
        let tokens = tokens.into_iter();
        let tokens = tokens.map(|token| Zeroizing::new(token.expose().to_owned()));
        let mut all = Vec::new();
        for credential in own.chain(tokens) {
            for encoded in [STANDARD, URL_SAFE].map(|base64| base64.encode(&*credential)) {
                all.push(Zeroizing::new(encoded.trim_end_matches('=').to_owned()));
                all.push(Zeroizing::new(encoded));
            }
            all.push(Zeroizing::new(credential.trim().to_owned()));
            all.push(credential);
        }
        all.retain(|spelling| !spelling.is_empty());
        all.sort_unstable_by(|a, b| a.as_str().cmp(b));
        all.dedup();
        all
    }
}

impl Hash for SharingKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.client_id.as_bytes().hash(state);
        self.client_secret.as_bytes().hash(state);
        if let Some((name, password)) = &self.user {
            (name.as_bytes(), password.as_bytes()).hash(state);
        }
        (&self.origin, self.authentication, &self.scopes, &self.tls).hash(state);
    }
}

impl fmt::Debug for SharingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharingKey")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
