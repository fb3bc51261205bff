//! What the instance was asked. Secrets and tokens are never written down.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use axum::http::{HeaderMap, HeaderName, Method, Uri, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::time_text;

/// A program that runs for days must not remember every request.
const REMEMBERED: usize = 10_000;

/// The path of the token endpoint.
pub(super) const TOKEN_PATH: &str = "/oauth_token.do";

/// How a token request carried the client's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMethod {
    /// HTTP Basic.
    Basic,
    /// `client_id` and `client_secret` in the form.
    Body,
    /// Both, which RFC 6749 section 2.3 forbids.
    Both,
    /// Neither.
    None,
}

/// One request as the instance saw it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedRequest {
    /// Counts up from 1 over the simulator's life.
    pub number: u64,
    /// When it came, on the computer's monotonic clock.
    #[serde(skip)]
    pub received: Instant,
    /// When it came, on the instance's clock.
    #[serde(serialize_with = "time_text::serialize_timestamp")]
    pub received_at: Timestamp,
    /// The HTTP method.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The names of the parameters in the URL; their values may be secrets and are not kept.
    pub query_parameters: Vec<String>,
    /// The header `Accept`.
    pub accept: Option<String>,
    /// The header `Content-Type`.
    pub content_type: Option<String>,
    /// The header `User-Agent`.
    pub user_agent: Option<String>,
    /// The client certificate that was shown, as DER.
    #[serde(skip)]
    pub client_certificate: Option<Vec<u8>>,
    /// Whether a `JSESSIONID` came back, which means that the client keeps cookies.
    pub cookie_returned: bool,
    /// For a token request: how the client authenticated.
    pub auth: Option<AuthMethod>,
    /// For a token request: the client id.
    pub client_id: Option<String>,
    /// For a token request: `grant_type`.
    pub grant: Option<String>,
    /// For a token request: `scope`, as it was sent.
    pub scope: Option<String>,
    /// The status answered; none while the request waits, and for a hung or reset connection.
    pub status: Option<u16>,
    /// For a token request: whether it met a fault that leaves no right answer, whatever the status says.
    pub spoiled: bool,
    /// Why a token was refused: what the instance's System Logs show with Source = OAuth.
    pub oauth_log: Option<String>,
}

impl RecordedRequest {
    /// Whether it went to the token endpoint.
    pub fn is_token_request(&self) -> bool {
        self.path == TOKEN_PATH
    }
}

/// Names a request in the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(u64);

#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<RecordedRequest>,
    last_number: u64,
    /// Rings when a request came.
    pub(super) arrival: Arc<Notify>,
    pub(super) token_requests: usize,
    pub(super) cookies_returned: usize,
    pub(super) refresh_tokens_returned: usize,
    pub(super) revocations: usize,
}

impl Journal {
    /// Writes down that a request came.
    pub(super) fn open(
        &mut self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        client_certificate: Option<Vec<u8>>,
        now: Timestamp,
    ) -> Number {
        self.last_number += 1;
        let entry = RecordedRequest {
            number: self.last_number,
            received: Instant::now(),
            received_at: now,
            method: method.to_string(),
            path: uri.path().to_owned(),
            query_parameters: parameter_names(uri.query().unwrap_or_default()),
            accept: text(headers, &header::ACCEPT),
            content_type: text(headers, &header::CONTENT_TYPE),
            user_agent: text(headers, &header::USER_AGENT),
            client_certificate,
            cookie_returned: text(headers, &header::COOKIE)
                .is_some_and(|cookies| cookies.contains("JSESSIONID=")),
            auth: None,
            client_id: None,
            grant: None,
            scope: None,
            status: None,
            spoiled: false,
            oauth_log: None,
        };
        self.token_requests += usize::from(entry.is_token_request());
        self.cookies_returned += usize::from(entry.cookie_returned);
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.arrival.notify_waiters();
        Number(self.last_number)
    }

    /// The entry, unless it was forgotten meanwhile.
    pub(super) fn entry(&mut self, number: Number) -> Option<&mut RecordedRequest> {
        self.entries
            .iter_mut()
            .rev()
            .find(|entry| entry.number == number.0)
    }

    pub(super) fn entries(&self) -> Vec<RecordedRequest> {
        self.entries.iter().cloned().collect()
    }

    /// Forgets requests and counts. Numbers go on, so that a request still waiting finds no other's entry,
    /// and who waits for an arrival still hears it.
    pub(super) fn reset(&mut self) {
        *self = Self {
            last_number: self.last_number,
            arrival: Arc::clone(&self.arrival),
            ..Self::default()
        };
    }
}

fn parameter_names(query: &str) -> Vec<String> {
    let name = |pair: &str| {
        pair.split_once('=')
            .map_or(pair, |(name, _)| name)
            .to_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(name)
        .collect()
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}
