//! Reading a token request: what was sent, not whether it is right.

use std::collections::HashMap;

use axum::{
    Form, RequestExt,
    extract::Request,
    http::{HeaderMap, header},
};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::journal::{AuthMethod, RecordedRequest};

/// A client's id and secret, or a user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) secret: String,
}

/// A token request. It holds secrets, so it has no `Debug`.
pub(super) struct TokenRequest {
    /// The header `Authorization` as received.
    pub(super) authorization: Option<String>,
    basic: Option<Credentials>,
    form: HashMap<String, String>,
    /// Why the form could not be read.
    pub(super) malformed: Option<&'static str>,
}

impl TokenRequest {
    /// Reads headers and form. Parameters in the URL are ignored, as by an instance with
    /// `glide.oauth.allow.parameters.in.post.body.only`.
    pub(super) async fn read(request: Request) -> Self {
        let authorization = authorization(request.headers());
        let basic = authorization.as_deref().and_then(basic_credentials);
        let (form, malformed) = match request.extract::<Form<Vec<(String, String)>>, _>().await {
            Err(_) => (
                HashMap::new(),
                Some("the body is not application/x-www-form-urlencoded"),
            ),
            Ok(Form(pairs)) => unique(pairs),
        };
        Self {
            authorization,
            basic,
            form,
            malformed,
        }
    }

    /// A form parameter; an empty one counts as absent (RFC 6749 section 3.2).
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.form
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(super) fn auth(&self) -> AuthMethod {
        match (&self.basic, self.parameter("client_secret")) {
            (Some(_), Some(_)) => AuthMethod::Both,
            (Some(_), None) => AuthMethod::Basic,
            (None, Some(_)) => AuthMethod::Body,
            (None, None) => AuthMethod::None,
        }
    }

    /// The client's credentials, of the header first.
    pub(super) fn client(&self) -> Option<Credentials> {
        self.basic
            .clone()
            .or_else(|| self.pair("client_id", "client_secret"))
    }

    /// The user's credentials of the password grant.
    pub(super) fn user(&self) -> Option<Credentials> {
        self.pair("username", "password")
    }

    /// Writes into the journal what is no secret.
    pub(super) fn describe(&self, entry: &mut RecordedRequest) {
        let of_header = self.basic.as_ref().map(|basic| basic.name.clone());
        entry.auth = Some(self.auth());
        entry.client_id = of_header.or_else(|| self.parameter("client_id").map(str::to_owned));
        entry.grant = self.parameter("grant_type").map(str::to_owned);
        entry.scope = self.parameter("scope").map(str::to_owned);
    }

    /// Everything that was sent in the form, and the header, as text.
    pub(super) fn said(&self) -> String {
        let basic = self.authorization.as_deref().and_then(decoded_basic);
        let form = self.form.iter().flat_map(|(name, value)| [name, value]);
        let all: Vec<_> = form.chain(&basic).map(String::as_str).collect();
        all.join(" ")
    }

    fn pair(&self, name: &str, secret: &str) -> Option<Credentials> {
        Some(Credentials {
            name: self.parameter(name)?.to_owned(),
            secret: self.parameter(secret)?.to_owned(),
        })
    }
}

/// The header `Authorization` as text.
pub(super) fn authorization(headers: &HeaderMap) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(header::AUTHORIZATION)?.as_bytes()).into_owned())
}

/// The decoded part of `Basic …`.
pub(super) fn decoded_basic(authorization: &str) -> Option<String> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    scheme
        .eq_ignore_ascii_case("basic")
        .then(|| String::from_utf8_lossy(&decoded).into_owned())
}

fn basic_credentials(authorization: &str) -> Option<Credentials> {
    let decoded = decoded_basic(authorization)?;
    let (name, secret) = decoded.split_once(':')?;
    Some(Credentials {
        name: name.to_owned(),
        secret: secret.to_owned(),
    })
}

/// RFC 6749 section 3.2: no parameter more than once.
fn unique(pairs: Vec<(String, String)>) -> (HashMap<String, String>, Option<&'static str>) {
    let count = pairs.len();
    let form: HashMap<_, _> = pairs.into_iter().collect();
    let repeated = form.len() < count;
    (form, repeated.then_some("a parameter comes more than once"))
}
