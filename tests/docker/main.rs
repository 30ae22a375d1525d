//! Tests against real container engines: the adapter by itself, and the whole agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot set up its stage fails"
)]

#[path = "../support/fake_cuda.rs"]
mod fake_cuda;
#[path = "../support/fake_nvml.rs"]
mod fake_nvml;
#[path = "../support/lab.rs"]
mod lab;
#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "../support/peer.rs"]
mod peer;
#[path = "../support/world.rs"]
mod world;

mod adapter;
mod calls;
mod canary;
mod crash;
mod deploy;
mod dockerd_kills;
mod engine_faults;
mod event_storm;
mod gpu;
mod half_open;
mod hardening;
mod http;
mod image;
mod images;
mod observed;
mod protocol;
mod proxied;
mod random_kills;
mod recovery;
mod terminate;
