//! The bad days: what can be wrong with an answer, and which answers it is wrong with.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::time_text;

/// What goes wrong with an answer.
///
/// As JSON: `"hang"`, `{"rate-limited": {"retryAfter": {"seconds": 30}}}`, `{"expires-in": "missing"}`,
/// `{"delay": "2s"}`. The faults that change a token answer leave a refusal as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Fault {
    /// Every path: 200 with the HTML page of a hibernating developer instance.
    HibernationPage,
    /// 200 with an HTML login page.
    LoginPage,
    /// Every path: 502 with a short HTML body, as when the edge cannot reach the instance.
    BadGateway,
    /// Every path: 503 with an HTML page, as during an upgrade.
    Maintenance,
    /// 429 with ServiceNow's rate limit headers and body.
    RateLimited {
        /// The header `Retry-After`, where there is one.
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    },
    /// Every path: takes the request and never answers.
    Hang,
    /// A right token answer, one byte at a time.
    SlowDrip {
        /// The pause before each byte.
        #[serde(with = "time_text")]
        pause: Duration,
    },
    /// Every path: takes the request and resets the TCP connection.
    Reset,
    /// A whole HTTP answer whose JSON stops in the middle.
    TruncatedJson,
    /// An HTTP answer that ends in the middle: the connection closes before `Content-Length` is reached.
    TruncatedBody,
    /// A right token answer padded to at least so many bytes, sent in chunks without a length.
    HugeBody(u64),
    /// 302 to the location.
    Redirect {
        /// The header `Location`.
        location: String,
    },
    /// A token answer without `access_token`.
    NoAccessToken,
    /// A token answer with an odd `expires_in`; the token itself lives as long as the client says.
    ExpiresIn(ExpiresIn),
    /// A token answer with this `token_type`.
    TokenType(String),
    /// A token answer with this `access_token`, which the instance does not know.
    AccessToken(String),
    /// 401 `{"error_description":"access_denied","error":"server_error"}`.
    AccessDenied,
    /// 400 `unauthorized_client`, as some releases answer where the application user is missing.
    UnauthorizedClient,
    /// This status with this body as `application/json`.
    InvalidRequest(u16, String),
    /// 401 whose description repeats the credentials it got, raw, base64-decoded and URL-encoded.
    EchoAuthorization,
    /// The right answer, so much later: a token was issued at once and its clock is running.
    Delay(#[serde(with = "time_text")] Duration),
}

/// The header `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryAfter {
    /// So many seconds.
    Seconds(u64),
    /// The moment so much later than the instance's clock, as an HTTP date.
    HttpDate(#[serde(with = "time_text")] Duration),
    /// This text.
    Raw(String),
}

/// How `expires_in` is wrong or unusual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpiresIn {
    /// The field is absent.
    Missing,
    /// The right number, as a string.
    String,
    /// `0`.
    Zero,
    /// `-1`.
    Negative,
    /// The largest signed 64-bit number.
    Enormous,
    /// This value.
    Value(serde_json::Value),
}

/// What the Table API answers to a valid token, where it is not the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum TableFault {
    /// Takes the request and never answers.
    Hang,
    /// 401 even for a valid token: the API's access policy has no auth profile for OAuth.
    NoAuthProfile,
    /// 403: the token lacks the named scope.
    MissingScope(String),
    /// 403: the user's roles do not reach the API.
    ApiAcl,
    /// 403: the user's roles do not reach the table.
    InsufficientRights,
    /// 429.
    RateLimited {
        /// The header `Retry-After`, where there is one.
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    },
}

impl Fault {
    /// Whether the fault is one of the whole instance, or of its token endpoint only.
    pub fn is_everywhere(&self) -> bool {
        matches!(
            self,
            Self::HibernationPage | Self::BadGateway | Self::Maintenance | Self::Hang | Self::Reset
        )
    }

    /// Whether it leaves no right answer. One that only comes late is right.
    pub(super) fn spoils(&self) -> bool {
        !matches!(self, Self::SlowDrip { .. } | Self::Delay(_))
    }
}

/// Which fault the next request meets.
#[derive(Debug, Default)]
pub(super) struct Faults {
    standing: Option<Fault>,
    counted: VecDeque<(Fault, usize)>,
}

impl Faults {
    /// The fault of every request until the next call.
    pub(super) fn set(&mut self, fault: Option<Fault>) {
        self.standing = fault;
    }

    /// The fault of `times` token requests, after those already announced and before the standing one.
    pub(super) fn announce(&mut self, fault: Fault, times: usize) {
        if times > 0 {
            self.counted.push_back((fault, times));
        }
    }

    /// No faults from now on, neither announced nor standing.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The standing fault, for a reader who wants to know.
    pub(super) fn standing(&self) -> Option<&Fault> {
        self.standing.as_ref()
    }

    /// The fault of this token request, counted as met.
    pub(super) fn meet_token_request(&mut self) -> Option<Fault> {
        let Some((fault, left)) = self.counted.front_mut() else {
            return self.standing.clone();
        };
        let fault = fault.clone();
        *left -= 1;
        if *left == 0 {
            self.counted.pop_front();
        }
        Some(fault)
    }

    /// The fault of a request to any other path. Announced faults are for token requests only.
    pub(super) fn meet_other_request(&self) -> Option<Fault> {
        self.standing.clone().filter(Fault::is_everywhere)
    }
}
