//! An engine that is down, frozen, killed or restarted, and containers that it has lost its hold on.
//! Each test has an engine of its own. What cannot be seen is neither ended nor freed.

mod own_engine_away;
mod own_engine_restarted;
mod own_engine_sick;
