//! The agent from inside its image, as providers run it.

mod front;
mod hosted;
mod own_engine;
