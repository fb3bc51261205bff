//! `GET /api/now/table/<table>`, so that a fetched token can be used for real.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    answers::{api_error, rate_limited, set_header},
    fault::TableFault,
    instance::{Instance, Shared},
    token_request::authorization,
};

/// The header by which an instance says whether the request had a user.
pub(super) const LOGGED_IN: axum::http::HeaderName =
    axum::http::HeaderName::from_static("x-is-logged-in");

/// The records of a table, for whoever holds a valid token.
pub(super) async fn records(
    State(instance): State<Shared>,
    Path(table): Path<String>,
    Query(parameters): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let answer = answer(&instance.lock(), &table, &parameters, &headers);
    match answer {
        Some(response) => response,
        None => std::future::pending().await,
    }
}

/// None where it never answers.
fn answer(
    instance: &Instance,
    table: &str,
    parameters: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Option<Response> {
    let authorization = authorization(headers).unwrap_or_default();
    let accepted = authorization
        .strip_prefix("Bearer ")
        .is_some_and(|token| instance.accepts(token));
    Some(match &instance.table_fault {
        Some(TableFault::Hang) => return None,
        Some(TableFault::RateLimited { retry_after }) => {
            rate_limited(retry_after.as_ref(), "Table API", instance.clock.now())
        }
        Some(TableFault::NoAuthProfile) => not_authenticated(),
        _ if !accepted => not_authenticated(),
        Some(TableFault::MissingScope(scope)) => {
            forbidden(&format!("Missing required api access scope: {scope}"))
        }
        Some(TableFault::ApiAcl) => forbidden("Failed API level ACL Validation"),
        Some(TableFault::InsufficientRights) => forbidden("Insufficient rights to query records"),
        None => {
            let limit = parameters
                .get("sysparm_limit")
                .and_then(|limit| limit.parse().ok());
            listed(rows(instance, table), limit)
        }
    })
}

fn listed(rows: Vec<Value>, limit: Option<usize>) -> Response {
    let total = rows.len().to_string();
    let page: Vec<Value> = rows.into_iter().take(limit.unwrap_or(usize::MAX)).collect();
    let mut response = Json(json!({ "result": page })).into_response();
    set_header(&mut response, LOGGED_IN, "true");
    set_header(
        &mut response,
        axum::http::HeaderName::from_static("x-total-count"),
        &total,
    );
    response
}

/// The users for `sys_user`; two records for any other table.
fn rows(instance: &Instance, table: &str) -> Vec<Value> {
    let record = |(number, name): (usize, String)| json!({"sys_id": format!("{:032x}", number + 1), "user_name": name});
    if table == "sys_user" {
        let of_clients = instance
            .clients
            .values()
            .filter_map(|client| client.application_user.clone());
        return of_clients
            .chain(instance.users.keys().cloned())
            .enumerate()
            .map(record)
            .collect();
    }
    (1..=2)
        .map(|number| json!({"sys_id": format!("{number:032x}"), "sys_class_name": table}))
        .collect()
}

fn not_authenticated() -> Response {
    let detail = "Required to provide Auth information";
    let mut response = api_error(StatusCode::UNAUTHORIZED, "User Not Authenticated", detail);
    set_header(
        &mut response,
        header::WWW_AUTHENTICATE,
        "BASIC realm=\"Service-now\"",
    );
    response
}

fn forbidden(detail: &str) -> Response {
    let mut response = api_error(StatusCode::FORBIDDEN, "User Not Authorized", detail);
    set_header(&mut response, LOGGED_IN, "true");
    response
}
