//! Whose commands are taken: with `policy.require_signed_commands` those that the configured key has
//! signed. The one place in the agent that verifies a signature.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use crate::{
    config::CommandKey,
    ids::AgentId,
    protocol::{
        Incoming,
        command::{self, DecodeError},
        signed,
    },
};

/// Reads frames as the host's policy wants them.
#[derive(Debug, Clone)]
pub(super) enum Authority {
    /// Whoever has the session may command.
    Server,
    /// Only this key may, and only this agent is meant.
    Key(CommandKey, AgentId),
}

impl Authority {
    /// Reads one text frame.
    pub(super) fn decode(&self, text: &str) -> Result<Incoming, DecodeError> {
        match self {
            Self::Server => command::decode(text),
            Self::Key(CommandKey(key), agent) => {
                let key = UnparsedPublicKey::new(&ED25519, key);
                let verify = |message: &[u8], sig: &[u8]| key.verify(message, sig).is_ok();
                signed::decode(text, agent, verify)
            }
        }
    }
}
