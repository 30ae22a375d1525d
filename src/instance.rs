//! Rentals: the pure core. What is to be done is decided here, without IO, clock or randomness.
//!
//! ```text
//!  accepted ─► pulling ─► creating ─► starting ─► running ─► ready
//!      │          │           │           │          │         │
//!      └──────────┴───────────┴─────┬─────┴──────────┴─────────┘   restarting ─► running
//!                                   ▼                               (after an engine's or
//!                                ending ─► ended                     host's restart)
//! ```
//!
//! `ended` is final. Who may write: only [`registry::Registry`], and only while it handles an input;
//! the driver's task owns the one that there is. What comes next for a rental is never remembered
//! as a place in a program: [`lifecycle::next`] reads it off the facts, so a rental found after a
//! crash goes on exactly like one that was never left.

pub mod effect;
pub mod lifecycle;
pub mod marker;
pub mod publish;
pub mod reconcile;
pub mod registry;
pub mod spec;
