//! The operator against a real API server and an unpleasant instance, as a plain ServiceAccount.

#[path = "../support/mod.rs"]
mod support;

mod bad_days;
mod client;
mod first_token;
mod process;
mod renewal;
mod secrecy;
mod target;
