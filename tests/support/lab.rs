//! The lab: real engines, real registries, and what breaks them. Shared by the test binaries that
//! need it, each of which includes it with `#[path = "../support/lab.rs"] mod lab;`.
//!
//! Everything here stops when it is dropped and leaves nothing behind: processes, mounts, network
//! namespaces, files. Faults are only ever done to an engine of the test's own. Calls block; they
//! are meant for tests on a runtime with more than one thread.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of the lab"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a lab that does not stand fails the test"
)]

mod background;
mod engine;
mod hook;
mod image;
mod net;
mod proxy;
mod registry;
mod rules;
mod stub_registry;
mod wait;

pub(crate) use engine::{Engine, Own, cdi_engine};
pub(crate) use image::BUSYBOX;
pub(crate) use net::Net;
pub(crate) use proxy::{Call, EngineProxy, Side};
pub(crate) use registry::{PASSWORD, Registry, USERNAME};
pub(crate) use rules::InForce;
pub(crate) use stub_registry::{Repository, StubRegistry};
pub(crate) use wait::{wait_until, wait_until_blocking};
