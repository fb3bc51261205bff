//! Spoiling an answer as a [`Fault`] says.

use std::{convert::Infallible, io, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::stream;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    answers::{self, set_header},
    fault::{ExpiresIn, Fault},
    server::Wire,
    token_request::{TokenRequest, decoded_basic},
};

/// The size of one piece of a huge body.
const PIECE: usize = 64 * 1024;

/// The answer of a fault that does not care what was asked, or none where it does.
pub(super) async fn instead_of_any_answer(
    fault: &Fault,
    wire: &Wire,
    now: Timestamp,
) -> Option<Response> {
    let response = match fault {
        Fault::HibernationPage => answers::hibernation_page(),
        Fault::LoginPage => answers::login_page(),
        Fault::BadGateway => answers::bad_gateway(),
        Fault::Maintenance => answers::maintenance(),
        Fault::Hang => std::future::pending().await,
        Fault::Reset => wire.reset().await,
        Fault::RateLimited { retry_after } => {
            answers::rate_limited(retry_after.as_ref(), "OAuth token endpoint", now)
        }
        Fault::Redirect { location } => {
            let mut response = StatusCode::FOUND.into_response();
            set_header(&mut response, header::LOCATION, location);
            response
        }
        Fault::AccessDenied => answers::access_denied(),
        Fault::UnauthorizedClient => answers::unauthorized_client(),
        Fault::InvalidRequest(status, body) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST);
            (
                status,
                [(header::CONTENT_TYPE, "application/json")],
                body.clone(),
            )
                .into_response()
        }
        _ => return None,
    };
    Some(response)
}

/// A granted token's answer, spoiled.
pub(super) async fn spoiled(fault: Fault, mut object: Map<String, Value>) -> Response {
    match fault {
        Fault::NoAccessToken => {
            object.remove("access_token");
        }
        Fault::ExpiresIn(how) => spoil_expiry(&mut object, how),
        Fault::TokenType(value) => {
            object.insert("token_type".to_owned(), json!(value));
        }
        Fault::AccessToken(value) => {
            object.insert("access_token".to_owned(), json!(value));
        }
        Fault::TruncatedJson => {
            let text = Value::Object(object).to_string();
            return json_body(Body::from(text[..text.len() / 2].to_owned()));
        }
        Fault::TruncatedBody => return cut_short(&Value::Object(object).to_string()),
        Fault::SlowDrip { pause } => return drip(Value::Object(object).to_string(), pause),
        Fault::HugeBody(bytes) => return huge(object, bytes),
        Fault::Delay(delay) => tokio::time::sleep(delay).await,
        _ => {}
    }
    Json(object).into_response()
}

/// A 401 that gives the credentials away, as an instance or a proxy in front of it may.
pub(super) fn echo(request: &TokenRequest) -> Response {
    let mut parts = vec!["access_denied".to_owned()];
    if let Some(authorization) = &request.authorization {
        parts.push(format!("Authorization: {authorization}"));
        if let Some(decoded) = decoded_basic(authorization) {
            parts.extend([url_encoded(&decoded), decoded]);
        }
    }
    if let Some(secret) = request.parameter("client_secret") {
        parts.extend([
            format!("client_secret={secret}"),
            url_encoded(secret),
            STANDARD.encode(secret),
        ]);
    }
    answers::oauth_error(StatusCode::UNAUTHORIZED, "server_error", &parts.join(" "))
}

fn spoil_expiry(object: &mut Map<String, Value>, how: ExpiresIn) {
    let value = match how {
        ExpiresIn::Missing => {
            object.remove("expires_in");
            return;
        }
        ExpiresIn::String => json!(object.get("expires_in").map(Value::to_string)),
        ExpiresIn::Zero => json!(0),
        ExpiresIn::Negative => json!(-1),
        ExpiresIn::Enormous => json!(i64::MAX),
        ExpiresIn::Value(value) => value,
    };
    object.insert("expires_in".to_owned(), value);
}

/// Half of `text` under the length of all of it, then the end of the connection.
fn cut_short(text: &str) -> Response {
    let half = Bytes::from(text[..text.len() / 2].to_owned());
    let pieces = stream::unfold(Some(half), |half| async {
        match half {
            Some(half) => Some((Ok(half), None)),
            None => {
                // Lets the server write the first half before the error ends the connection.
                tokio::task::yield_now().await;
                Some((Err(io::Error::other("cut short as the fault says")), None))
            }
        }
    });
    let mut response = json_body(Body::from_stream(pieces));
    set_header(
        &mut response,
        header::CONTENT_LENGTH,
        &text.len().to_string(),
    );
    response
}

fn drip(text: String, pause: Duration) -> Response {
    let length = text.len();
    let bytes = stream::unfold(text.into_bytes().into_iter(), move |mut rest| async move {
        let byte = rest.next()?;
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(vec![byte]), rest))
    });
    let mut response = json_body(Body::from_stream(bytes));
    set_header(&mut response, header::CONTENT_LENGTH, &length.to_string());
    response
}

/// Valid JSON: only a client that limits what it reads notices anything.
fn huge(object: Map<String, Value>, bytes: u64) -> Response {
    let text = Value::Object(object).to_string();
    let head = format!("{},\"padding\":\"", text.trim_end_matches('}'));
    let mut left = bytes;
    let padding = std::iter::from_fn(move || {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        left -= length as u64;
        (length > 0).then(|| "x".repeat(length))
    });
    let pieces = std::iter::once(head)
        .chain(padding)
        .chain(std::iter::once("\"}".to_owned()));
    json_body(Body::from_stream(stream::iter(
        pieces.map(Ok::<_, Infallible>),
    )))
}

fn json_body(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// As a form encodes it, so that a filter which looks for the raw text misses it.
fn url_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
