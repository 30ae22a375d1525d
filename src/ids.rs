//! Identifiers as types: a wrong id cannot be passed where another is meant, and a value of one of
//! these types has been checked. Grammar: PROTOCOL, "Conventions".

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Why a text is not an id of the wanted kind. Shows the rule, and the value cut to 80 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {kind}: {rule}")]
pub struct InvalidId {
    kind: &'static str,
    rule: &'static str,
    value: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, max $max:literal, $pattern:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if !text.is_empty() && text.len() <= $max && valid(text) {
                    Ok(Self(text.into()))
                } else {
                    let value = text.chars().take(80).collect();
                    Err(InvalidId { kind: $kind, rule: $rule, value })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "maxLength": $max })
            }
        }
    };
}

id!(
    /// The host's agent: chosen by the operator, never generated.
    AgentId, "agent id", "1 to 63 of [a-z0-9-], alphanumeric at both ends", max 63,
    "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", dns_label
);
id!(
    /// One rental. Chosen by the server, used once, ever.
    InstanceId, "instance id", "1 to 63 of [a-z0-9-], alphanumeric at both ends", max 63,
    "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", dns_label
);
id!(
    /// One command of the server. The same id is the same command, however often it is sent.
    CommandId, "command id", "1 to 128 of [A-Za-z0-9._:-]", max 128,
    "^[A-Za-z0-9._:-]+$", |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
);
id!(
    /// A GPU by the name that survives reboots and reordering, as the vendor's tools print it.
    GpuUuid, "GPU UUID", "1 to 96 of [A-Za-z0-9._:/-]", max 96,
    "^[A-Za-z0-9._:/-]+$", |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b))
);
id!(
    /// A container as the engine names it: 12 to 64 hexadecimal digits.
    ContainerId, "container id", "12 to 64 of [0-9a-f]", max 64,
    "^[0-9a-f]{12,64}$", |text| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);
id!(
    /// A random name of one life of the agent process; compared for equality only.
    Epoch, "epoch", "1 to 64 of [A-Za-z0-9-]", max 64,
    "^[A-Za-z0-9-]+$", |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
);
id!(
    /// SHA-256 of a spec as received (RFC 8785, without nulls and `registry_auth`): 64 hexadecimal digits.
    SpecHash, "spec hash", "64 of [0-9a-f]", max 64,
    "^[0-9a-f]{64}$", |text| text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

fn dns_label(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Orders the states that one agent process has published; grows by one at each change of a record.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_ids_follow_the_grammar_of_the_wire() {
        for good in ["a", "r-1", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<InstanceId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "a/b",
            "ü",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_invalid_id_is_shown_cut_and_escaped() {
        let error = "x\u{1b}"
            .repeat(200)
            .parse::<AgentId>()
            .unwrap_err()
            .to_string();
        assert!(error.len() < 700 && !error.contains('\u{1b}'), "{error}");
    }
}
