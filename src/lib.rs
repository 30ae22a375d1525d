//! rental-agent: runs on a machine whose GPUs are rented out.
pub mod agent;
pub mod blocking;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dev;
pub mod driver;
pub mod gpu;
pub mod host;
pub mod ids;
pub mod image;
pub mod instance;
pub mod policy;
pub mod protocol;
pub mod runtime;
pub mod session;
pub mod telemetry;
