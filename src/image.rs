//! Images: their names, and what a pull has done so far. Pure; `runtime` does the fetching.

pub mod private;
pub mod pull;
pub mod reference;
