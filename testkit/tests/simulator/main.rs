//! The ServiceNow simulator as its clients see it: every promise is checked on the wire.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails it"
)]

mod bad_days;
mod life;
mod program;
mod setup;
mod table_api;
mod token_modes;
mod transport;
mod wire;
