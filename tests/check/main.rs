//! `check`, as people use it on a workstation without a cluster: the program itself against a
//! simulated instance.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod faults;
mod question;
mod token;
mod way;
mod wrongly_asked;
