//! The instance's paths, and what every answer has in common.

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};

use super::{
    answers::{not_found, set_header},
    bad_day::instead_of_any_answer,
    instance::Shared,
    journal::{Number, TOKEN_PATH},
    server::{ClientCertificate, Wire},
    table_api::{self, LOGGED_IN},
    token_endpoint,
};

/// Everything the instance serves. `https` says whether browsers may be given secure cookies.
pub(super) fn router(instance: Shared, https: bool) -> Router {
    let session = Session { https };
    Router::new()
        .route(TOKEN_PATH, post(token_endpoint::token))
        .route(
            "/oauth_revoke_token.do",
            get(token_endpoint::revoke).post(token_endpoint::revoke),
        )
        .route("/api/now/table/{table}", get(table_api::records))
        .fallback(|| async { not_found() })
        .layer(middleware::from_fn_with_state(
            instance.clone(),
            whole_instance_faults,
        ))
        .layer(middleware::from_fn_with_state(session, usual_headers))
        .layer(middleware::from_fn_with_state(instance.clone(), record))
        .with_state(instance)
}

#[derive(Clone, Copy)]
struct Session {
    https: bool,
}

/// Records the request as it comes, so that it is counted even where it is never answered.
async fn record(
    State(instance): State<Shared>,
    Extension(certificate): Extension<ClientCertificate>,
    mut request: Request,
    next: Next,
) -> Response {
    let number = {
        let mut instance = instance.lock();
        let now = instance.clock.now();
        let (uri, headers) = (request.uri(), request.headers());
        instance.look_for_refresh_token(&format!("{uri} {headers:?}"));
        let ClientCertificate(shown) = certificate;
        let method = request.method();
        instance.journal.open(method, uri, headers, shown, now)
    };
    request.extensions_mut().insert::<Number>(number);
    let response = next.run(request).await;
    if let Some(entry) = instance.lock().journal.entry(number) {
        entry.status = Some(response.status().as_u16());
    }
    response
}

/// The standing faults of the whole instance; the token endpoint looks at its own.
async fn whole_instance_faults(
    State(instance): State<Shared>,
    Extension(wire): Extension<Wire>,
    request: Request,
    next: Next,
) -> Response {
    if request.uri().path() != TOKEN_PATH {
        let (fault, now) = {
            let instance = instance.lock();
            (instance.faults.meet_other_request(), instance.clock.now())
        };
        if let Some(fault) = fault
            && let Some(response) = instead_of_any_answer(&fault, &wire, now).await
        {
            return response;
        }
    }
    next.run(request).await
}

/// The headers seen on real instances.
async fn usual_headers(State(session): State<Session>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    set_default(headers, header::SERVER, "ServiceNow");
    set_default(
        headers,
        header::CACHE_CONTROL,
        "no-cache,no-store,must-revalidate,max-age=-1",
    );
    set_default(headers, header::PRAGMA, "no-store,no-cache");
    set_default(headers, LOGGED_IN, "false");
    // Over plain HTTP a `Secure` cookie would never come back, and a client that wrongly keeps cookies
    // would go unnoticed.
    let secure = if session.https { ";Secure" } else { "" };
    let cookie = format!(
        "JSESSIONID={:032X}; Path=/; HttpOnly{secure}",
        rand::random::<u128>()
    );
    set_header(&mut response, header::SET_COOKIE, &cookie);
    response
}

fn set_default(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers
        .entry(name)
        .or_insert(HeaderValue::from_static(value));
}
