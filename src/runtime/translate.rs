//! Between the agent's words and the engine's: a plan becomes the body of a create request, what the
//! engine lists and inspects becomes [`Observed`](super::Observed). Pure: no call is made here.

mod create;
mod observe;

pub use create::{create_body, remake_body};
pub(super) use observe::first_visible;
pub use observe::{image_facts, observed_from_inspect, observed_from_summary};

/// Every label of ours begins with this; whatever an image says under it is overridden.
pub const LABEL_PREFIX: &str = "rental-agent.";

/// The label that names the GPUs of a rental, comma-separated.
pub const LABEL_GPUS: &str = "rental-agent.gpus";
