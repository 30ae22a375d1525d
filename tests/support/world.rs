//! Worlds: one host in small each, with the whole agent as a process between a reference server and
//! a real engine. Included like the lab, beside it and the stand-in for NVML.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a stage that does not stand fails the test"
)]

#[path = "world/agent.rs"]
mod agent;
#[path = "world/forge.rs"]
mod forge;
#[path = "world/gpus.rs"]
mod gpus;
#[path = "world/holdings.rs"]
mod holdings;
#[path = "world/host.rs"]
mod host;
#[path = "world/ports.rs"]
mod ports;
#[path = "world/rentals.rs"]
mod rentals;
#[path = "world/specs.rs"]
mod specs;
#[path = "world/story.rs"]
mod story;
#[path = "world/wait.rs"]
mod wait;

pub(crate) use forge::publishes;
pub(crate) use gpus::gpu_uuid;
pub(crate) use host::World;
pub(crate) use rentals::container_name;
pub(crate) use specs::{CANARY, Spec, exits, ignores_term, serves_http, sleeps, when_woken};
pub(crate) use wait::{LATER, SOON, wait_for, wait_until};
