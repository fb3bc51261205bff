//! Requests to an instance over HTTP: for a token, and with one.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{
    Client, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    redirect,
};
use zeroize::Zeroizing;

use super::{
    answer::{BODY_LIMIT, RawAnswer},
    key::SharingKey,
    prepared::{HeldBack, Prepared, hold_back},
    tls::Tls,
    token::AccessToken,
};
use crate::{api::Reason, decide::Failure};

/// Sends requests to instances. It follows no redirect and keeps no cookie; a proxy is taken from
/// `HTTPS_PROXY` and `NO_PROXY`.
#[derive(Clone)]
pub struct Endpoint {
    /// One pair for all connections that are made alike, and when it was last used.
    clients: Arc<Mutex<HashMap<Way, (Clients, Instant)>>>,
    timeout: Duration,
}

/// How connections are made.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Way {
    /// Plain http is for this machine only, and goes through no proxy.
    plain: bool,
    tls: Tls,
}

#[derive(Clone)]
struct Clients {
    ordinary: Client,
    /// Opens a connection of its own for each request, and holds it until the request may go.
    ahead: Client,
}

impl Clients {
    fn new(timeout: Duration, way: &Way) -> Result<Self, reqwest::Error> {
        let builder = || {
            let builder = Client::builder()
                .redirect(redirect::Policy::none())
                .user_agent(concat!(
                    env!("CARGO_PKG_NAME"),
                    "/",
                    env!("CARGO_PKG_VERSION")
                ));
            let builder = if way.plain {
                builder.no_proxy()
            } else {
                builder
            };
            way.tls.configure(builder)
        };
        Ok(Self {
            ordinary: builder()?.timeout(timeout).build()?,
            // Without a pool the connection is made for the request, and by its own task.
            ahead: builder()?
                .timeout(timeout + HeldBack::LONGEST)
                .pool_max_idle_per_host(0)
                .connector_layer(HeldBack::layer())
                .build()?,
        })
    }
}

/// Connections that nobody has used for so long are given up.
const UNUSED: Duration = Duration::from_secs(600);

impl Endpoint {
    /// An endpoint that gives each request `timeout`, from connecting to the last byte.
    pub fn new(timeout: Duration) -> Result<Self, reqwest::Error> {
        let clients = Clients::new(timeout, &Way::default())?;
        let clients = HashMap::from([(Way::default(), (clients, Instant::now()))]);
        Ok(Self {
            clients: Arc::new(Mutex::new(clients)),
            timeout,
        })
    }

    /// Gives up the connections of certificates that nobody uses any more.
    pub fn sweep(&self) {
        let used = |used: &Instant| used.elapsed() < UNUSED;
        let keep = |way: &Way, at: &Instant| *way == Way::default() || used(at);
        self.known().retain(|way, (_, at)| keep(way, at));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Way, (Clients, Instant)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clients(&self, origin: &str, tls: &Tls) -> Result<Clients, Failure> {
        let way = Way {
            plain: origin.starts_with("http://"),
            tls: tls.clone(),
        };
        if let Some((clients, used)) = self.known().get_mut(&way) {
            *used = Instant::now();
            return Ok(clients.clone());
        }
        let clients = Clients::new(self.timeout, &way).map_err(|error| {
            Failure::new(
                Reason::TlsFailed,
                format!(
                    "No TLS connection to {origin} can be made with the certificates of spec.tls: \
                     {}. Check them with openssl.",
                    cause(&error)
                ),
            )
        })?;
        let made = (clients.clone(), Instant::now());
        self.known().insert(way, made);
        Ok(clients)
    }

    /// Asks the key's instance for a token: `POST /oauth_token.do`, form-encoded. The answer as it came.
    pub async fn answer(&self, key: &SharingKey) -> Result<RawAnswer, Failure> {
        let clients = self.clients(key.origin(), key.tls())?;
        self.ask(&clients.ordinary, key).await
    }

    /// Opens the connection for a request that is to go soon; not a byte of it is sent before
    /// [`Prepared::send`].
    pub fn prepare(&self, key: Arc<SharingKey>) -> Prepared {
        let endpoint = self.clone();
        hold_back(async move {
            let clients = endpoint.clients(key.origin(), key.tls())?;
            endpoint.ask(&clients.ahead, &key).await
        })
    }

    /// Uses a token on a path of its instance: what came back.
    pub async fn get(
        &self,
        origin: &str,
        tls: &Tls,
        path: &str,
        token: &AccessToken,
    ) -> Result<RawAnswer, Failure> {
        let clients = self.clients(origin, tls)?;
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        let request = clients
            .ordinary
            .get(format!("{origin}{path}"))
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, secret(origin, &bearer)?);
        let answer = self.read(request).await;
        answer.map_err(|error| self.unreachable(origin, &error))
    }

    async fn ask(&self, client: &Client, key: &SharingKey) -> Result<RawAnswer, Failure> {
        let mut request = client
            .post(format!("{}/oauth_token.do", key.origin()))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(key.form().to_string());
        if let Some(authorization) = key.authorization() {
            request = request.header(AUTHORIZATION, secret(key.origin(), &authorization)?);
        }
        let answer = self.read(request).await;
        answer.map_err(|error| self.unreachable(key.origin(), &error))
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

    fn unreachable(&self, origin: &str, error: &reqwest::Error) -> Failure {
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
                     it uses a certificate of your own CA, name that CA in spec.tls.caBundleRef; if \
                     it asks for a client certificate, name one that it accepts in \
                     spec.tls.clientCertificateRef; otherwise check that spec.instance is the name \
                     in the certificate."
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
                 NetworkPolicy, HTTPS_PROXY)."
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

/// The last cause in a chain of errors says the most.
fn cause(error: &reqwest::Error) -> String {
    let mut last: &dyn Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// A header that no library prints.
fn secret(origin: &str, value: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        Failure::new(
            Reason::InternalError,
            format!("The request to {origin} could not be built. This is a bug of the operator."),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}
