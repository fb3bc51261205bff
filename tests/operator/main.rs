//! The operator against a real API server and an unpleasant instance, as a plain ServiceAccount.

#[path = "../support/mod.rs"]
mod support;

mod first_token;
