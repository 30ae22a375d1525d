//! Integration tests that need neither Docker nor a network beyond loopback: one binary, a module
//! for each subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::as_conversions,
    clippy::collapsible_match,
    clippy::single_match,
    clippy::too_many_lines,
    clippy::wildcard_enum_match_arm,
    reason = "a panic here is a failed test"
)]

#[path = "../support/bad_frames.rs"]
mod bad_frames;
#[path = "../support/decoder.rs"]
mod decoder;
#[path = "../support/hostile.rs"]
mod hostile;
#[path = "../support/http_proxy.rs"]
mod http_proxy;
#[path = "../support/peer.rs"]
mod peer;
#[allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "shared with tests that wait within a runtime; these wait without one"
)]
#[path = "../support/wait.rs"]
mod wait;

mod api;
mod cli;
mod config;
mod dev;
mod engine;
mod hardening;
mod hostile_specs;
mod model;
mod nvidia_smi;
mod nvml;
mod registry;
mod schemas;
mod session;
mod sysfs;
mod wipe;
