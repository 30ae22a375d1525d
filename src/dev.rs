//! The reference central server: what PROTOCOL, "What a server owes", asks of a server, done in the
//! smallest honest way, with the state in memory. It is for development and tests: it forgets
//! everything when it ends, keeps every record and command for as long as it lives, and whoever
//! reaches its operator endpoint on loopback may start and end rentals.
//!
//! It knows an agent only by the wire (`protocol`, `ids`, `clock`), as any server would, and names
//! nothing of the agent's own code.
//!
//! ```text
//!  agent ==/agents/{id}/session==> link --Input--> state (PURE) --Output--> link ==> agent
//!                                                    ^   duties: what a server owes, 1 to 6
//!  client ====/operator==========> operator --submit-+
//!  test  --------ServerHandle----------------submit--+
//! ```

pub mod client;
mod delivery;
mod duties;
mod handle;
mod link;
pub mod operator;
mod records;
pub mod server;
mod shared;
mod signer;
pub mod state;

pub use handle::{CommandTicket, LoggedFrame, ServerHandle, WaitError};
pub use server::{Options, Server};
pub use signer::Signer;
pub use state::{AgentView, InstanceView, Refused, SessionNo};
