//! One token request over HTTP.

use std::{error::Error, sync::Arc, time::Duration};

use reqwest::{
    Client, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    redirect,
};

use super::{
    answer::{BODY_LIMIT, RawAnswer, judge},
    key::SharingKey,
    prepared::{HeldBack, Prepared, hold_back},
    token::TokenAnswer,
};
use crate::{Clock, api::Reason, decide::Failure};

/// Sends token requests. It follows no redirect and keeps no cookie; a proxy is taken from
/// `HTTPS_PROXY` and `NO_PROXY`.
#[derive(Clone)]
pub struct TokenEndpoint {
    client: Client,
    /// Opens a connection of its own for each request, and holds it until the request may go.
    ahead: Client,
    timeout: Duration,
}

impl TokenEndpoint {
    /// A client that gives each request `timeout`, from connecting to the last byte.
    pub fn new(timeout: Duration) -> Result<Self, reqwest::Error> {
        let builder = || {
            Client::builder()
                .redirect(redirect::Policy::none())
                .user_agent(concat!(
                    env!("CARGO_PKG_NAME"),
                    "/",
                    env!("CARGO_PKG_VERSION")
                ))
        };
        Ok(Self {
            client: builder().timeout(timeout).build()?,
            // Without a pool the connection is made for the request, and by its own task.
            ahead: builder()
                .timeout(timeout + HeldBack::LONGEST)
                .pool_max_idle_per_host(0)
                .connector_layer(HeldBack::layer())
                .build()?,
            timeout,
        })
    }

    /// Asks the key's instance for a token: `POST /oauth_token.do`, form-encoded.
    pub async fn request(
        &self,
        key: &SharingKey,
        clock: &dyn Clock,
    ) -> Result<TokenAnswer, Failure> {
        self.ask(&self.client, key, clock).await
    }

    /// Opens the connection for a request that is to go soon; not a byte of it is sent before
    /// [`Prepared::send`].
    pub fn prepare(&self, key: Arc<SharingKey>, clock: Arc<dyn Clock>) -> Prepared {
        let endpoint = self.clone();
        hold_back(async move { endpoint.ask(&endpoint.ahead, &key, &*clock).await })
    }

    async fn ask(
        &self,
        client: &Client,
        key: &SharingKey,
        clock: &dyn Clock,
    ) -> Result<TokenAnswer, Failure> {
        let mut request = client
            .post(format!("{}/oauth_token.do", key.origin()))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(key.form().to_string());
        if let Some(authorization) = key.authorization() {
            let mut value = HeaderValue::from_str(&authorization).map_err(|_| bug(key))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let answer = self
            .read(request)
            .await
            .map_err(|error| self.unreachable(key, &error))?;
        judge(&answer, key, clock.now())
    }

    async fn read(&self, request: reqwest::RequestBuilder) -> Result<RawAnswer, reqwest::Error> {
        let mut response = request.send().await?;
        let text = |name| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let mut answer = RawAnswer {
            status: response.status().as_u16(),
            content_type: text(CONTENT_TYPE).unwrap_or_default(),
            retry_after: text(RETRY_AFTER),
            body: Some(Vec::new()),
        };
        // The body of an answer that is judged by its status alone is not worth an error.
        let by_status = response.status() != StatusCode::OK;
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(answer),
                Err(_) if by_status => return Ok(answer),
                Err(error) => return Err(error),
                Ok(Some(chunk)) => {
                    let body = answer.body.get_or_insert_default();
                    if body.len() + chunk.len() > BODY_LIMIT {
                        answer.body = if by_status { Some(Vec::new()) } else { None };
                        return Ok(answer);
                    }
                    body.extend_from_slice(&chunk);
                }
            }
        }
    }

    fn unreachable(&self, key: &SharingKey, error: &reqwest::Error) -> Failure {
        let origin = key.origin();
        let mut chain = Vec::new();
        let mut not_trusted = false;
        let mut link = error.source();
        while let Some(cause) = link {
            chain.push(cause.to_string());
            not_trusted |= is_tls(cause);
            link = cause.source();
        }
        let cause = chain.last().cloned().unwrap_or_default();
        let says = |word: &str| chain.iter().any(|link| link.to_lowercase().contains(word));
        if not_trusted {
            return Failure::new(
                Reason::TlsFailed,
                format!(
                    "No TLS connection to {origin}: {cause}. If the instance or a proxy in front of \
                     it uses a certificate of your own CA, start the operator with SSL_CERT_FILE \
                     naming a bundle that holds that CA; otherwise check that spec.instance is the \
                     name in the certificate."
                ),
            );
        }
        let what = if error.is_timeout() {
            format!("did not answer within {} s", self.timeout.as_secs_f64())
        } else if says("dns") || says("lookup") {
            format!("could not be found in DNS ({cause})")
        } else if error.is_connect() {
            format!("could not be reached ({cause})")
        } else if error.is_body() || error.is_decode() {
            "broke off in the middle of its answer".to_owned()
        } else {
            format!("closed the connection without an answer ({cause})")
        };
        Failure::new(
            Reason::InstanceUnavailable,
            format!(
                "{origin} {what}. Check spec.instance, and that the cluster may reach it (firewall, \
                 NetworkPolicy, HTTPS_PROXY); it is tried again until it answers."
            ),
        )
    }
}

/// The TLS library refused the other side, or the other side us. A connection that merely broke
/// off in the handshake is an outage.
fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    // An io::Error does not name what it wraps as its source, and one may wrap another.
    let wrapped = cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    cause.is::<rustls::Error>() || wrapped.is_some_and(|inner| is_tls(inner))
}

fn bug(key: &SharingKey) -> Failure {
    Failure::new(
        Reason::InternalError,
        format!(
            "The token request to {} could not be built. This is a bug of the operator.",
            key.origin()
        ),
    )
}
