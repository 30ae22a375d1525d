//! The HTTP surface over real sockets: the real routes and the real driver, above an engine that
//! exists in memory.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the lints' exceptions for tests do not reach the functions that tests call"
)]

mod client;
mod contract;
mod control;
mod engine;
mod limits;
mod lives;
mod one_admission;
mod problems;
mod rentals;
mod rig;
mod tls;
mod token;
mod tokens;
mod watch;
