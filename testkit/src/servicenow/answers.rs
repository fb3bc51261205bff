//! The bodies and headers an instance answers with.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
use serde_json::{Map, Value, json};

use super::{
    clock::later,
    fault::RetryAfter,
    instance::{Granted, Refusal},
};

/// Requests per hour of the rate limit rule that is answered with.
const RATE_LIMIT: &str = "100";

/// The JSON object of a granted token request.
///
/// `expires_in` is the whole seconds that remain when the answer is written: a token that lives 1800 s is
/// announced with 1799, as captures show, and one of less than two seconds may be announced with 0.
pub(super) fn token_object(granted: &Granted, now: Timestamp) -> Map<String, Value> {
    let remaining = granted
        .token
        .expires_at
        .duration_since(now)
        .max(SignedDuration::ZERO);
    let mut object = Map::new();
    object.insert("access_token".to_owned(), json!(granted.token.access_token));
    object.insert("scope".to_owned(), json!(granted.scope));
    object.insert("token_type".to_owned(), json!("Bearer"));
    object.insert("expires_in".to_owned(), json!(remaining.as_secs()));
    if granted.with_refresh_token {
        object.insert(
            "refresh_token".to_owned(),
            json!(granted.token.refresh_token),
        );
    }
    object
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::AccessDenied(_) => access_denied(),
            Self::UnauthorizedClient => unauthorized_client(),
            Self::UnsupportedGrant(_) => (
                StatusCode::BAD_REQUEST,
                Json(json!({"error": "unsupported_grant_type"})),
            )
                .into_response(),
            Self::InvalidRequest(why) => {
                let body = json!({"error": "invalid_request", "error_description": why});
                (StatusCode::BAD_REQUEST, Json(body)).into_response()
            }
        }
    }
}

/// The one answer of nearly every wrong setup.
pub(super) fn access_denied() -> Response {
    oauth_error(StatusCode::UNAUTHORIZED, "server_error", "access_denied")
}

/// What some releases answer where the client has no application user.
pub(super) fn unauthorized_client() -> Response {
    let description = "Received client_credentials grant_type request however integration user is not \
                       configured for OAuth:0123456789abcdef0123456789abcdef";
    oauth_error(StatusCode::BAD_REQUEST, "unauthorized_client", description)
}

pub(super) fn oauth_error(status: StatusCode, error: &str, description: &str) -> Response {
    (
        status,
        Json(json!({"error_description": description, "error": error})),
    )
        .into_response()
}

/// An error of the REST APIs.
pub(super) fn api_error(status: StatusCode, message: &str, detail: &str) -> Response {
    let body = json!({"error": {"message": message, "detail": detail}, "status": "failure"});
    (status, Json(body)).into_response()
}

/// 429 with the rate limit headers; `api` is what the rule limits.
pub(super) fn rate_limited(
    retry_after: Option<&RetryAfter>,
    api: &str,
    now: Timestamp,
) -> Response {
    let detail = format!("Rate limit of {RATE_LIMIT} requests per hour for {api} exceeded");
    let mut response = api_error(
        StatusCode::TOO_MANY_REQUESTS,
        "Rate limit exceeded",
        &detail,
    );
    let next_hour = later(now, std::time::Duration::from_secs(3600));
    set_header(
        &mut response,
        HeaderName::from_static("x-ratelimit-limit"),
        RATE_LIMIT,
    );
    let reset = next_hour.as_second().to_string();
    set_header(
        &mut response,
        HeaderName::from_static("x-ratelimit-reset"),
        &reset,
    );
    set_header(
        &mut response,
        HeaderName::from_static("x-ratelimit-rule"),
        &format!("{api} rule"),
    );
    if let Some(retry_after) = retry_after {
        set_header(
            &mut response,
            header::RETRY_AFTER,
            &retry_after_text(retry_after, now),
        );
    }
    response
}

fn retry_after_text(retry_after: &RetryAfter, now: Timestamp) -> String {
    match retry_after {
        RetryAfter::Seconds(seconds) => seconds.to_string(),
        RetryAfter::HttpDate(delay) => {
            // Only a year of more than four digits cannot be printed.
            DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&later(now, *delay))
                .unwrap_or_default()
        }
        RetryAfter::Raw(text) => text.clone(),
    }
}

/// A header with any text; what cannot stand in a header leaves it out.
pub(super) fn set_header(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        response.headers_mut().insert(name, value);
    }
}

pub(super) fn hibernation_page() -> Response {
    let page = "<!DOCTYPE html><html><head><title>Instance Hibernating page</title></head><body>\
                <h1>Your instance is hibernating.</h1><p>Sign in to the Developer Site to wake it.</p>\
                <!-- Instance Hibernating page --></body></html>";
    ([(header::SERVER, "snow_adc")], Html(page)).into_response()
}

pub(super) fn login_page() -> Response {
    Html(
        "<!DOCTYPE html><html><head><title>Log in | ServiceNow</title></head><body><form action=\"login.do\" \
         method=\"post\"><input name=\"user_name\"><input name=\"user_password\" type=\"password\"></form></body></html>",
    )
    .into_response()
}

pub(super) fn bad_gateway() -> Response {
    let page = "<html><body><h1>502 Bad Gateway</h1></body></html>";
    (
        StatusCode::BAD_GATEWAY,
        [(header::SERVER, "snow_adc")],
        Html(page),
    )
        .into_response()
}

pub(super) fn maintenance() -> Response {
    let page = "<!DOCTYPE html><html><head><title>Maintenance</title></head><body>\
                <h1>This instance is being upgraded</h1><p>Please try again later.</p></body></html>";
    (StatusCode::SERVICE_UNAVAILABLE, Html(page)).into_response()
}

pub(super) fn not_found() -> Response {
    (
        StatusCode::NOT_FOUND,
        Html("<html><body><h1>Page not found</h1></body></html>"),
    )
        .into_response()
}
