//! The simulator driven over HTTP, for demos and for tests in other languages.
//!
//! | request | body | does |
//! |---|---|---|
//! | `PUT /mode` | `{"mode": "always-new"}` | sets the [`TokenMode`] |
//! | `PUT /fault` | `{"fault": "hang"}`, or with `"times": 3` | sets a [`Fault`], or announces it for so many token requests |
//! | `DELETE /fault` | | ends every fault |
//! | `PUT /table-fault` | `{"fault": "api-acl"}` or `{"fault": null}` | sets or ends a [`TableFault`] |
//! | `PUT /property` | `{"enabled": false}` | sets the property of the client credentials grant |
//! | `PUT /clients/{id}` | [`ClientSettings`] | changes the client, or adds it |
//! | `DELETE /clients/{id}` | | removes the client |
//! | `PUT /users/{name}` | `{"password": "…"}` | adds a user for the password grant |
//! | `GET /stats` | | the counts |
//! | `DELETE /stats` | | sets the counts to 0 and forgets the requests |
//! | `GET /requests` | | the recorded requests, without secrets |
//! | `POST /revoke` | `{"token": "…"}` or `{"all": true}` | revokes |
//! | `POST /tokens/valid` | `{"token": "…"}` | `{"valid": true, "expiresAt": "…"}` |
//! | `POST /clock/advance` | `{"by": "5m"}` | moves the instance's clock |
//! | `POST /down`, `POST /up` | | refuses connections; takes them again |
//!
//! What changes something answers 204; a body that cannot be understood 4xx with the reason as text.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post, put},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Client, ClientSettings, Fault, RecordedRequest, Simulator, TableFault, TokenMode, time_text,
};

type Controlled = State<Arc<Simulator>>;

const DONE: StatusCode = StatusCode::NO_CONTENT;

/// The control API of `simulator`, to be served on a port of its own.
pub fn router(simulator: Arc<Simulator>) -> Router {
    Router::new()
        .route("/mode", put(set_mode))
        .route("/fault", put(set_fault).delete(end_faults))
        .route("/table-fault", put(set_table_fault))
        .route("/property", put(set_property))
        .route("/clients/{id}", put(put_client).delete(remove_client))
        .route("/users/{name}", put(put_user))
        .route("/stats", get(stats).delete(reset_stats))
        .route("/requests", get(requests))
        .route("/revoke", post(revoke))
        .route("/tokens/valid", post(valid))
        .route("/clock/advance", post(advance))
        .route("/down", post(down))
        .route("/up", post(up))
        .with_state(simulator)
}

#[derive(Deserialize)]
struct Mode {
    mode: TokenMode,
}

async fn set_mode(State(simulator): Controlled, Json(Mode { mode }): Json<Mode>) -> StatusCode {
    simulator.set_mode(mode);
    DONE
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultOrder {
    fault: Fault,
    times: Option<usize>,
}

async fn set_fault(State(simulator): Controlled, Json(order): Json<FaultOrder>) -> StatusCode {
    match order.times {
        Some(times) => simulator.fault_times(order.fault, times),
        None => simulator.set_fault(Some(order.fault)),
    }
    DONE
}

async fn end_faults(State(simulator): Controlled) -> StatusCode {
    simulator.set_fault(None);
    DONE
}

#[derive(Deserialize)]
struct TableFaultOrder {
    fault: Option<TableFault>,
}

async fn set_table_fault(
    State(simulator): Controlled,
    Json(order): Json<TableFaultOrder>,
) -> StatusCode {
    simulator.set_table_fault(order.fault);
    DONE
}

#[derive(Deserialize)]
struct Property {
    enabled: bool,
}

async fn set_property(
    State(simulator): Controlled,
    Json(Property { enabled }): Json<Property>,
) -> StatusCode {
    simulator.set_property_enabled(enabled);
    DONE
}

async fn put_client(
    State(simulator): Controlled,
    Path(id): Path<String>,
    Json(settings): Json<ClientSettings>,
) -> Result<StatusCode, (StatusCode, &'static str)> {
    let mut client = match (simulator.client(&id), &settings.secret) {
        (Some(client), _) => client,
        (None, Some(secret)) => Client::new(id, secret),
        (None, None) => return Err((StatusCode::BAD_REQUEST, "a new client needs a secret\n")),
    };
    settings.apply(&mut client);
    simulator.add_client(client);
    Ok(DONE)
}

async fn remove_client(State(simulator): Controlled, Path(id): Path<String>) -> StatusCode {
    simulator.remove_client(&id);
    DONE
}

#[derive(Deserialize)]
struct Password {
    password: String,
}

async fn put_user(
    State(simulator): Controlled,
    Path(name): Path<String>,
    Json(user): Json<Password>,
) -> StatusCode {
    simulator.add_user(name, user.password);
    DONE
}

async fn stats(State(simulator): Controlled) -> Json<Value> {
    Json(json!({
        "tokenRequests": simulator.token_requests(),
        "issuedTokens": simulator.issued_tokens(),
        "validTokens": simulator.valid_tokens(),
        "revocations": simulator.revocations(),
        "cookiesReturned": simulator.cookies_returned(),
        "refreshTokensReturned": simulator.refresh_tokens_returned(),
        "mode": simulator.mode(),
        "fault": simulator.fault(),
        "now": simulator.clock().now().to_string(),
    }))
}

async fn reset_stats(State(simulator): Controlled) -> StatusCode {
    simulator.reset_counters();
    DONE
}

async fn requests(State(simulator): Controlled) -> Json<Vec<RecordedRequest>> {
    Json(simulator.requests())
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Revocation {
    Token(String),
    All(bool),
}

async fn revoke(State(simulator): Controlled, Json(revocation): Json<Revocation>) -> StatusCode {
    match revocation {
        Revocation::Token(token) => simulator.revoke(&token),
        Revocation::All(true) => simulator.revoke_all(),
        Revocation::All(false) => {}
    }
    DONE
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

async fn valid(State(simulator): Controlled, Json(Token { token }): Json<Token>) -> Json<Value> {
    let expires_at = simulator
        .expires_at(&token)
        .map(|moment| moment.to_string());
    Json(json!({"valid": simulator.is_valid(&token), "expiresAt": expires_at}))
}

#[derive(Deserialize)]
struct Advance {
    #[serde(with = "time_text")]
    by: Duration,
}

async fn advance(State(simulator): Controlled, Json(Advance { by }): Json<Advance>) -> StatusCode {
    simulator.advance(by);
    DONE
}

async fn down(State(simulator): Controlled) -> StatusCode {
    simulator.go_down().await;
    DONE
}

async fn up(State(simulator): Controlled) -> StatusCode {
    simulator.come_up().await;
    DONE
}
