//! What an answer of the token endpoint means, and what a person should do about it.

use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use zeroize::Zeroizing;

use super::{
    key::SharingKey,
    refusal::refused,
    token::{AccessToken, TokenAnswer, parse_answer},
};
use crate::{
    api::Reason,
    decide::Failure,
    redact::{blank, cut, one_line},
};

/// An HTTP answer, as far as it matters here.
#[derive(Clone, Default)]
pub struct RawAnswer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`, if any.
    pub content_type: String,
    /// `Retry-After`, if any.
    pub retry_after: Option<String>,
    /// The body, at most 64 KiB; `None` where it was longer.
    pub body: Option<Vec<u8>>,
}

/// The longest body that is read.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// The longest scope that is kept, as the resource's schema allows it.
const SCOPE_LIMIT: usize = 1024;

/// Tells the tokens in hand that a word of so many bytes, which an instance sent, may repeat.
pub type InHand<'a> = &'a dyn Fn(usize) -> Vec<AccessToken>;

/// Judges an answer. Nothing of a body is repeated but the OAuth error fields and the scope, with every
/// credential in hand blanked.
pub fn judge(
    answer: &RawAnswer,
    key: &SharingKey,
    in_hand: InHand<'_>,
    now: Timestamp,
) -> Result<TokenAnswer, Failure> {
    let origin = key.origin();
    let Some(body) = &answer.body else {
        return Err(Failure::new(
            Reason::InvalidResponse,
            format!(
                "{origin} answered the token request with HTTP {} and a body of more than 64 KiB, \
                 which no token answer is. Check that spec.instance is a ServiceNow instance and \
                 not a proxy or portal in front of it.",
                answer.status
            ),
        ));
    };
    match answer.status {
        200 if is_html(answer, body) => Err(html(origin, body)),
        200 => parse_answer(body)
            .map(|answer| shown(answer, key, in_hand))
            .map_err(|what| {
                Failure::new(
                    Reason::InvalidResponse,
                    format!(
                        "{origin} answered the token request with HTTP 200, but the answer {what}. \
                     Check that spec.instance is the ServiceNow instance itself; if it is, look at \
                     its System Logs, filtered to Source = OAuth."
                    ),
                )
            }),
        429 => {
            let wait = answer
                .retry_after
                .as_deref()
                .and_then(|text| parse_retry_after(text, now));
            Err(Failure::new(
                Reason::RateLimited,
                format!(
                    "{origin} answered the token request with HTTP 429: too many requests. No \
                     token is asked of this instance until the wait is over. If this lasts, ask its \
                     administrator about its rate limits and semaphores."
                ),
            )
            .with_retry_after(wait))
        }
        300..=399 => Err(Failure::new(
            Reason::InvalidResponse,
            format!(
                "{origin} answered the token request with a redirect (HTTP {}), which is never \
                 followed with credentials in hand. Set spec.instance to the address where the \
                 instance itself answers; a login or SSO page in front of it is a usual cause.",
                answer.status
            ),
        )),
        500.. => Err(Failure::new(
            Reason::InstanceUnavailable,
            format!(
                "{origin} answered the token request with HTTP {}: the instance or the edge in \
                 front of it is down, overloaded or in maintenance. It is tried again until it \
                 recovers; if this lasts, look at the instance's status page.",
                answer.status
            ),
        )),
        400 | 401 => Err(refused(answer, key, in_hand).as_one_off(answer.status == 401)),
        _ if is_html(answer, body) => Err(html(origin, body)),
        403 => Err(refused(answer, key, in_hand)),
        408 | 425 => Err(Failure::new(
            Reason::InstanceUnavailable,
            format!(
                "{origin} answered the token request with HTTP {}: it was too slow to take it. It is \
                 tried again until it does.",
                answer.status
            ),
        )),
        status => Err(Failure::new(
            Reason::InvalidResponse,
            format!(
                "{origin} answered the token request with HTTP {status}, which no token endpoint \
                 does. Check that spec.instance is the ServiceNow instance itself and not a proxy or \
                 portal in front of it; it is tried again."
            ),
        )),
    }
}

/// How long a new token lives, from the moment when it was asked for.
pub fn new_lifetime(answer: &TokenAnswer, origin: &str) -> Result<SignedDuration, Failure> {
    let seconds = answer.expires_in.filter(|seconds| *seconds > 0);
    seconds.map(SignedDuration::from_secs).ok_or_else(|| {
        Failure::new(
            Reason::InvalidResponse,
            format!(
                "{origin} answered with a new token but without a positive expires_in, so nobody can \
                 say when it expires. Set the client's Access Token Lifespan in the Application \
                 Registry."
            ),
        )
    })
}

/// The scope is shown in the status: like every text of an instance, it may hold no credential.
fn shown(mut answer: TokenAnswer, key: &SharingKey, in_hand: InHand<'_>) -> TokenAnswer {
    let mut tokens = in_hand(longest_word(&answer.scope));
    tokens.push(answer.token.clone());
    answer.scope = quotable(&answer.scope, &key.credentials(tokens), blank, SCOPE_LIMIT);
    answer
}

/// The bytes of the longest word: no token has white space in it, however it is spelled.
pub(super) fn longest_word(text: &str) -> usize {
    let words = text.split_ascii_whitespace().map(str::len);
    words.max().unwrap_or(0)
}

pub(super) fn is_html(answer: &RawAnswer, body: &[u8]) -> bool {
    let start = body.trim_ascii_start();
    answer.content_type.to_ascii_lowercase().contains("html") || start.starts_with(b"<")
}

fn html(origin: &str, body: &[u8]) -> Failure {
    let page = String::from_utf8_lossy(body).to_ascii_lowercase();
    if page.contains("hibernating") {
        return Failure::new(
            Reason::InstanceHibernating,
            format!(
                "{origin} is a hibernating developer instance: it answers every request with its \
                 hibernation page. Wake it at the ServiceNow developer site (sign in, \"Wake \
                 instance\"); the token is fetched as soon as it is up."
            ),
        );
    }
    Failure::new(
        Reason::InvalidResponse,
        format!(
            "{origin} answered the token request with a web page instead of a token: a login, SSO \
             or maintenance page. Check that spec.instance is the ServiceNow instance itself, and \
             that nothing in front of it asks for a login."
        ),
    )
}

/// A field of an answer, fit to be shown: no credential, no control character, not too long.
pub(super) fn quotable(
    field: &str,
    credentials: &[Zeroizing<String>],
    blank: impl Fn(&str, &[Zeroizing<String>]) -> String,
    limit: usize,
) -> String {
    // However long it is, little of it is looked at: each byte may be written in three. What is cut may
    // end in a part of a credential, which is not shown; blanked, each byte of that may be three again.
    let longest = credentials.iter().map(|credential| 3 * credential.len());
    let longest = longest.max().unwrap_or(0);
    let looked_at = cut(field, limit + 3 * longest);
    let blanked = blank(looked_at, credentials);
    let unsure = if looked_at == field { 0 } else { 3 * longest };
    one_line(cut(&blanked, blanked.len().saturating_sub(unsure)), limit)
}

/// `Retry-After`: delay-seconds or an HTTP date (RFC 9110, section 10.2.3).
fn parse_retry_after(text: &str, now: Timestamp) -> Option<SignedDuration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More than can be counted is for ever, which the back-off bounds.
        let seconds = text.parse().unwrap_or(u32::MAX);
        return Some(SignedDuration::from_secs(seconds.into()));
    }
    let date = rfc2822::parse(text).ok()?.timestamp();
    Some(date.duration_since(now).max(SignedDuration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ClientAuthentication, Instance};

    fn key() -> SharingKey {
        SharingKey::client_credentials(
            &Instance::parse("dev1").unwrap(),
            ClientAuthentication::Basic,
            Zeroizing::new("my id".to_owned()),
            Zeroizing::new("p@ss/word+1".to_owned()),
            &[],
        )
    }

    /// The tokens that are in hand.
    fn in_hand(_: usize) -> Vec<AccessToken> {
        AccessToken::parse("still-good_1/x=").into_iter().collect()
    }

    fn judged(status: u16, content_type: &str, body: &str) -> Result<TokenAnswer, Failure> {
        let answer = RawAnswer {
            status,
            content_type: content_type.to_owned(),
            retry_after: None,
            body: Some(body.as_bytes().to_vec()),
        };
        judge(&answer, &key(), &in_hand, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn each_answer_has_its_reason() {
        let json = "application/json";
        let denied = r#"{"error_description":"access_denied","error":"server_error"}"#;
        let hibernating = "<html><title>Instance Hibernating page</title></html>";
        for (status, content_type, body, reason) in [
            (200, "text/html", hibernating, Reason::InstanceHibernating),
            (
                200,
                "text/html;charset=UTF-8",
                "<html>Log in</html>",
                Reason::InvalidResponse,
            ),
            (200, json, "{\"access_token\":", Reason::InvalidResponse),
            (200, json, "", Reason::InvalidResponse),
            (302, "", "", Reason::InvalidResponse),
            (
                400,
                json,
                r#"{"error":"unsupported_grant_type"}"#,
                Reason::AccessDenied,
            ),
            (401, json, denied, Reason::AccessDenied),
            (401, "text/html", "<html>", Reason::AccessDenied),
            (403, json, denied, Reason::AccessDenied),
            (404, "text/html", "<html>not here", Reason::InvalidResponse),
            (
                404,
                "text/plain",
                "404 page not found",
                Reason::InvalidResponse,
            ),
            (204, "", "", Reason::InvalidResponse),
            (408, "", "", Reason::InstanceUnavailable),
            (429, json, "", Reason::RateLimited),
            (500, "text/html", "<html>", Reason::InstanceUnavailable),
            (502, "text/html", "<html>", Reason::InstanceUnavailable),
            (503, "", "", Reason::InstanceUnavailable),
        ] {
            let failure = judged(status, content_type, body).unwrap_err();
            assert_eq!(failure.reason(), reason, "HTTP {status} {body}");
        }
    }

    #[test]
    fn a_refusal_comes_with_the_checklist_in_order() {
        let body = r#"{"error_description":"access_denied","error":"server_error"}"#;
        let failure = judged(401, "application/json", body).unwrap_err();
        let places: Vec<_> = [
            "HTTP 401 (server_error: access_denied)",
            "glide.oauth.inbound.client.credential.grant_type.enabled",
            "OAuth Application User",
            "client id or secret is wrong",
            "scope is not linked",
            "com.snc.platform.security.oauth",
            "Machine Identity Console",
            "Source = OAuth",
            "KB1645212",
        ]
        .iter()
        .map(|part| {
            failure
                .message()
                .find(part)
                .unwrap_or_else(|| panic!("no {part}"))
        })
        .collect();
        assert!(places.is_sorted(), "{}", failure.message());
    }

    #[test]
    fn an_echoed_credential_is_blanked_in_every_spelling() {
        for spelling in key().credentials(in_hand(0)) {
            let body = serde_json::json!({"error": "x", "error_description": format!("got {}!", *spelling)});
            let failure = judged(401, "application/json", &body.to_string()).unwrap_err();
            assert!(
                !failure.message().contains(&*spelling),
                "{}",
                failure.message()
            );
            assert!(
                failure.message().contains("got ***!"),
                "{}",
                failure.message()
            );
        }
    }

    #[test]
    fn a_password_is_blanked_without_its_outer_spaces_and_in_base64_for_urls() {
        let password = " pass>>word?? ";
        let key = key().for_user(
            Zeroizing::new("me".to_owned()),
            Zeroizing::new(password.to_owned()),
        );
        let credentials = key.credentials([]);
        for spelling in ["pass>>word??", "IHBhc3M-PndvcmQ_PyA="] {
            let said = format!("got {spelling}!");
            assert_eq!(quotable(&said, &credentials, blank, 400), "got ***!");
        }
    }

    #[test]
    fn a_scope_tells_of_no_token() {
        let body =
            r#"{"access_token":"new","token_type":"Bearer","scope":"a new b still-good_1%2Fx= c"}"#;
        let answer = judged(200, "application/json", body).unwrap();
        assert_eq!(answer.scope, "a *** b *** c");
        // A short token hides no part of a longer credential from being found.
        let body = r#"{"access_token":"w","token_type":"Bearer","scope":"p@ss/word+1 bmV3"}"#;
        let answer = judged(200, "application/json", body).unwrap();
        assert_eq!(answer.scope, "*** bmV3");
    }

    #[test]
    fn a_long_or_dirty_description_is_shortened_and_cleaned() {
        let body =
            serde_json::json!({"error": "a\u{1b}[31m\nb", "error_description": "é".repeat(5000)});
        let failure = judged(401, "application/json", &body.to_string()).unwrap_err();
        assert!(!failure.message().contains(['\u{1b}', '\n']));
        assert!(failure.message().len() < 4000);
    }

    #[test]
    fn where_a_long_description_is_cut_no_part_of_a_credential_is_shown() {
        for before in 0..120 {
            let said = format!("{}{}", "x".repeat(before), "p@ss/word+1".repeat(5000));
            let body = serde_json::json!({"error": "e", "error_description": said});
            let failure = judged(401, "application/json", &body.to_string()).unwrap_err();
            assert!(!failure.message().contains("p@s"), "{}", failure.message());
        }
        // What is blanked may be longer than it was.
        let credentials = ["6", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO01234"]
            .map(|of| Zeroizing::new(of.to_owned()));
        let encoded: String = credentials[1]
            .bytes()
            .map(|b| format!("%{b:02X}"))
            .collect();
        for before in 0..220 {
            let said = format!("{}{}", "x".repeat(before), encoded.repeat(50));
            let shown = quotable(&said, &credentials, blank, 400);
            assert!(shown.chars().all(|c| "x*…".contains(c)), "{shown}");
        }
    }

    #[test]
    fn retry_after_is_taken_in_seconds_and_as_a_date() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let wait = |text| parse_retry_after(text, now).map(|d| d.as_secs());
        assert_eq!(wait("120"), Some(120));
        assert_eq!(wait("Thu, 01 Jan 2026 00:01:00 GMT"), Some(60));
        assert_eq!(wait("Wed, 01 Jan 2025 00:01:00 GMT"), Some(0));
        assert_eq!(wait("99999999999"), Some(u32::MAX.into()));
        assert_eq!(wait("-3"), None);
        assert_eq!(wait("soon"), None);
    }
}
