//! `POST /oauth_token.do` and `/oauth_revoke_token.do`.

use std::collections::HashMap;

use axum::{
    Extension, Json,
    extract::{Query, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    answers,
    bad_day::{echo, instead_of_any_answer, spoiled},
    fault::Fault,
    instance::Shared,
    journal::Number,
    server::Wire,
    token_request::TokenRequest,
};

/// Grants or refuses a token, or does what the fault of the day says.
pub(super) async fn token(
    State(instance): State<Shared>,
    Extension(number): Extension<Number>,
    Extension(wire): Extension<Wire>,
    request: Request,
) -> Response {
    let request = TokenRequest::read(request).await;
    let (fault, now) = {
        let mut instance = instance.lock();
        let fault = instance.faults.meet_token_request();
        if let Some(entry) = instance.journal.entry(number) {
            request.describe(entry);
            entry.spoiled = fault.as_ref().is_some_and(Fault::spoils);
        }
        instance.look_for_refresh_token(&request.said());
        (fault, instance.clock.now())
    };
    match fault {
        Some(Fault::EchoAuthorization) => echo(&request),
        Some(fault) => match instead_of_any_answer(&fault, &wire, now).await {
            Some(response) => response,
            None => answer(&instance, number, &request, Some(fault)).await,
        },
        None => answer(&instance, number, &request, None).await,
    }
}

async fn answer(
    instance: &Shared,
    number: Number,
    request: &TokenRequest,
    fault: Option<Fault>,
) -> Response {
    let object = {
        let mut instance = instance.lock();
        match instance.grant(request) {
            Ok(granted) => answers::token_object(&granted, instance.clock.now()),
            Err(refusal) => {
                if let Some(entry) = instance.journal.entry(number) {
                    entry.oauth_log = Some(refusal.log());
                }
                return refusal.into_response();
            }
        }
    };
    match fault {
        Some(fault) => spoiled(fault, object).await,
        None => Json(object).into_response(),
    }
}

/// Revokes a token for whoever knows it. ServiceNow asks for no authentication here.
pub(super) async fn revoke(
    State(instance): State<Shared>,
    Query(parameters): Query<HashMap<String, String>>,
) -> StatusCode {
    let mut instance = instance.lock();
    instance.journal.revocations += 1;
    if let Some(token) = parameters.get("token") {
        instance.tokens.revoke(token);
    }
    StatusCode::OK
}
