//! GPUs are one rental's alone: across deploys, agents, crashes, and until a container is verified
//! gone. With stand-ins for the driver and for the vendor's hook, on an engine of the test's own:
//! they show the agent's logic, never that hardware works.

mod own_engine;
mod own_engine_torture;
mod own_engine_ward;
