//! An access token, and the answer that brings one.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// A bearer token (RFC 6750, section 2.1). It cannot be printed.
#[derive(Clone)]
pub struct AccessToken(SecretString);

impl AccessToken {
    /// A token of `b64token` form, `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
    pub fn parse(text: &str) -> Result<Self, NotAToken> {
        let body = text.trim_end_matches('=');
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
        if body.is_empty() || !body.bytes().all(allowed) {
            return Err(NotAToken);
        }
        Ok(Self(text.into()))
    }

    /// A token that belongs to nobody, for checking templates.
    pub(crate) fn stand_in() -> Self {
        Self("x".repeat(86).into())
    }

    /// The token itself, for the Secret and for nothing else.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Hex SHA-256 of the token, as `status.token.sha256` keeps it.
    pub fn sha256(&self) -> String {
        crate::hex(&Sha256::digest(self.expose()))
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(<redacted>)")
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// The text is not a `b64token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAToken;

/// A successful answer of the token endpoint (RFC 6749, section 5.1).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenAnswer {
    /// The token.
    pub token: AccessToken,
    /// Whole seconds of validity left when the instance answered; `None` where it said nothing.
    pub expires_in: Option<i64>,
    /// The scope granted; empty where the instance said nothing.
    pub scope: String,
}

/// The longest lifetime that is believed: a hundred years, so that no arithmetic overflows.
const LONGEST_LIFETIME: i64 = 100 * 365 * 86_400;

/// Why a body is not a token answer; the words fit after "the answer".
pub(crate) fn parse_answer(body: &[u8]) -> Result<TokenAnswer, &'static str> {
    #[derive(Deserialize)]
    struct Body {
        access_token: Option<SecretString>,
        token_type: Option<String>,
        expires_in: Option<Number>,
        scope: Option<String>,
    }
    let body: Body = serde_json::from_slice(body)
        .map_err(|_| "is not the JSON object that RFC 6749 describes")?;
    let token = body.access_token.ok_or("has no access_token")?;
    let token = AccessToken::parse(token.expose_secret())
        .map_err(|_| "has an access_token that is not a bearer token (RFC 6750)")?;
    let bearer = |t: &String| t.eq_ignore_ascii_case("bearer");
    if !body.token_type.as_ref().is_some_and(bearer) {
        return Err("has a token_type that is not Bearer");
    }
    let expires_in = match body.expires_in {
        None => None,
        Some(number) => Some(
            number
                .seconds()
                .ok_or("has an expires_in that is not a number")?,
        ),
    };
    Ok(TokenAnswer {
        token,
        expires_in,
        scope: body.scope.unwrap_or_default(),
    })
}

/// A number, or a number in quotes: instances have been seen to send either.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Float(f64),
    Quoted(String),
    Other(serde::de::IgnoredAny),
}

impl Number {
    fn seconds(self) -> Option<i64> {
        let seconds = match self {
            Self::Whole(whole) => whole,
            // Casting saturates, and what is too long is cut below.
            Self::Float(float) if float.is_finite() => float as i64,
            Self::Quoted(text) => {
                let text = text.trim();
                text.parse().ok().or_else(|| {
                    text.parse::<f64>()
                        .ok()
                        .filter(|f| f.is_finite())
                        .map(|f| f as i64)
                })?
            }
            Self::Float(_) | Self::Other(_) => return None,
        };
        Some(seconds.clamp(-LONGEST_LIFETIME, LONGEST_LIFETIME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expires_in(value: &str) -> Result<Option<i64>, &'static str> {
        let body = format!(r#"{{"access_token":"a","token_type":"bearer","expires_in":{value}}}"#);
        parse_answer(body.as_bytes()).map(|answer| answer.expires_in)
    }

    #[test]
    fn a_lifetime_is_taken_as_number_and_as_text() {
        assert_eq!(expires_in("1799"), Ok(Some(1799)));
        assert_eq!(expires_in("\" 1799 \""), Ok(Some(1799)));
        assert_eq!(expires_in("1799.9"), Ok(Some(1799)));
        assert_eq!(expires_in("null"), Ok(None));
        assert_eq!(expires_in("1e300"), Ok(Some(LONGEST_LIFETIME)));
        assert_eq!(
            expires_in("99999999999999999999"),
            Ok(Some(LONGEST_LIFETIME))
        );
        assert_eq!(expires_in("-5"), Ok(Some(-5)));
        assert!(expires_in("\"soon\"").is_err());
        assert!(expires_in("[1]").is_err());
    }

    #[test]
    fn what_is_no_bearer_token_is_refused() {
        for body in [
            r#"{"access_token":"a b","token_type":"Bearer"}"#,
            r#"{"access_token":"a\nb","token_type":"Bearer"}"#,
            r#"{"access_token":"","token_type":"Bearer"}"#,
            r#"{"access_token":"==","token_type":"Bearer"}"#,
            r#"{"access_token":7,"token_type":"Bearer"}"#,
            r#"{"access_token":"a","token_type":"mac"}"#,
            r#"{"access_token":"a"}"#,
            r#"{"token_type":"Bearer"}"#,
            "[]",
            "",
        ] {
            assert!(parse_answer(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let body = br#"{"access_token":"s3cr3t","token_type":"BEARER","scope":"useraccount"}"#;
        let answer = parse_answer(body).unwrap();
        assert!(!format!("{answer:?}").contains("s3cr3t"));
        assert_eq!(answer.scope, "useraccount");
    }
}
