//! The operator against a real API server and an unpleasant instance, as a plain ServiceAccount.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod bad_days;
mod client;
mod first_token;
mod grants;
mod handover;
mod leadership;
mod odd_days;
mod policies;
mod process;
mod proxy;
mod renewal;
mod restarts;
mod secrecy;
mod target;
mod tls;
mod verify;
mod writes;
