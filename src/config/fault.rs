//! What is wrong with a configuration: every fault at once, each with what to do about it, and none
//! with a secret in it.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::protocol::text::printable;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// `section.key`, or the name of what is wrong when it is no key.
    pub key: String,
    /// What it is set to; absent for a secret, and for what may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where that was read, where anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What is wrong, as the end of a sentence that begins with the key.
    pub reason: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(source) = &self.source {
            write!(f, "  (from {source})")?;
        }
        write!(f, "\n    {}\n    -> {}", self.reason, self.remedy)
    }
}

/// What kind of place a value was read from, weaker first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Nobody has set it.
    Default,
    /// The configuration file.
    File,
    /// `.env` in the working folder.
    EnvFile,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::EnvFile => ".env",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// A configuration that cannot be used: all that is wrong with it, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Fault>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(faults) = self;
        match faults.len() {
            1 => write!(f, "1 fault in the configuration:")?,
            n => write!(f, "{n} faults in the configuration:")?,
        }
        faults
            .iter()
            .try_for_each(|fault| write!(f, "\n\n  {fault}"))
    }
}

impl std::error::Error for ConfigError {}

/// Collects faults while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Vec<Fault>,
    /// Where each key that is set was read.
    pub(super) origins: BTreeMap<String, String>,
    /// What kind of place each of them is, by its words.
    pub(super) sources: BTreeMap<String, Source>,
    /// A whole source could not be read: what seems to be missing may be in there.
    pub(super) incomplete: bool,
}

impl Faults {
    /// A key whose value is wrong and may be shown.
    pub(super) fn shown(
        &mut self,
        key: &str,
        value: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let value = printable(value, 120);
        self.push(key, Some(value), reason.into(), remedy.into());
    }

    /// A key whose value is wrong and is, or could be, a secret.
    pub(super) fn hidden(
        &mut self,
        key: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(key, None, reason.into(), remedy.into());
    }

    /// A key that has to be set and is not, unless its value was found wrong before.
    pub(super) fn missing(&mut self, key: &str, remedy: impl Into<String>) {
        if !self.incomplete && !self.list.iter().any(|fault| fault.key == key) {
            self.push(key, None, "is missing".into(), remedy.into());
        }
    }

    /// A fault found before it is known which source sets what.
    pub(super) fn at_source(
        &mut self,
        key: &str,
        source: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.list.push(Fault {
            key: printable(key, 200),
            value: None,
            source: Some(source.to_owned()),
            reason: reason.into(),
            remedy: remedy.into(),
        });
    }

    fn push(&mut self, key: &str, value: Option<String>, reason: String, remedy: String) {
        self.list.push(Fault {
            key: printable(key, 200),
            value,
            source: self.origins.get(key).cloned(),
            reason,
            remedy,
        });
    }

    /// What has been found so far.
    pub(super) fn list(&self) -> &[Fault] {
        &self.list
    }

    /// `value`, or every fault there is. `None` without a fault cannot be; it is refused all the same.
    pub(super) fn or<T>(mut self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            Some(_) | None => {
                if self.list.is_empty() {
                    self.hidden("configuration", "cannot be read", "report this as a bug");
                }
                Err(ConfigError(self.list))
            }
        }
    }
}
