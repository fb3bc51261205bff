//! A ServiceNow instance as an OAuth 2.0 token server, as unpleasant as the real one.
//!
//! [`Simulator`] is a running HTTP or HTTPS server that tests drive through its methods; the program
//! `servicenow-simulator` is the same thing driven over HTTP ([`control`]). It holds clients, users,
//! properties and tokens, counts what it was asked, and can say of any token whether it is valid now.
//!
//! ```no_run
//! # async fn example() {
//! use std::time::Duration;
//! use testkit::servicenow::{Client, Fault, Simulator, TokenMode};
//!
//! let instance = Simulator::start().await;
//! instance.add_client(Client::new("id", "secret").with_lifetime(Duration::from_secs(30)));
//! instance.set_mode(TokenMode::AlwaysNew);
//! instance.fault_times(Fault::AccessDenied, 1);
//! // … let the code under test ask `instance.origin()` for tokens …
//! assert_eq!(instance.token_requests(), 2);
//! # }
//! ```
//!
//! What is imitated comes from ServiceNow's documentation, support articles (KB1645212) and captured
//! answers. Where none of them says what an instance does, the comment at that place says so.
//!
//! The way of a request: `server` accepts the connection, `routes` records it and applies what
//! spoils every path, `token_endpoint` or `table_api` answers, and `bad_day` spoils the answer
//! where a [`Fault`] asks for it. What they know is one `instance::Instance` behind a lock.

mod answers;
mod bad_day;
mod client;
mod clock;
pub mod control;
mod driving;
mod fault;
mod instance;
mod journal;
mod options;
mod routes;
mod server;
mod simulator;
mod table_api;
pub mod time_text;
mod tls;
mod token_endpoint;
mod token_request;
mod tokens;

pub use client::{Client, ClientSettings, TokenFormat};
pub use clock::Clock;
pub use fault::{ExpiresIn, Fault, RetryAfter, TableFault};
pub use instance::MissingUser;
pub use journal::{AuthMethod, RecordedRequest};
pub use options::{ClientCertificates, Options, Tls};
pub use simulator::Simulator;
pub use tls::{Authority, Identity};
pub use tokens::TokenMode;
