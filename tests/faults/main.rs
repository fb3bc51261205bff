//! Faults of everything around the operator, and of the operator itself, on the real control plane:
//! nothing is lost, everything converges, and each kill costs at most the one token request that it
//! may. What writes that are refused or lost come to is in `tests/operator/writes.rs`, and the
//! instance's bad days are in `tests/operator/bad_days.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod fleet;
mod kills;
mod replicas;
mod servers;
