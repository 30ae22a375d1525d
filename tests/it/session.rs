//! The session with the central server over real sockets. The server is scripted (`peer`), the
//! driver is the test on the other side of the channels (`rig`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "a test that gets something else fails; a test binary exports nothing"
)]

mod bad_frames;
mod closes;
mod dials;
mod flow;
mod frames;
mod jwt;
mod limits;
mod logs;
mod outage;
mod proxies;
mod rig;
mod signed;
mod tls;
