//! Where values come from: defaults, then the file, then the environment, then flags, merged by the
//! `config` crate, checked, and handed out whole or not at all.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    Config,
    extract::extract,
    fault::{ConfigError, Faults},
    keys::{Keys, join},
    raw,
    settings::{from_env, from_flags, typed},
    validate::validate,
};
use config::{FileFormat, Map, Source, Value as Merged, ValueKind};

/// Read when it is there and no other is named.
const DEFAULT_FILE: &str = "/etc/rental-agent/config.toml";

/// What the command line sets.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The file to read; it has to exist. Unset: `/etc/rental-agent/config.toml` when it is there.
    pub file: Option<PathBuf>,
    /// Flags in their order; the last one of a key counts.
    pub settings: Vec<Flag>,
}

/// A flag that sets a key.
#[derive(Debug, Clone)]
pub struct Flag {
    /// Like `--agent-id`.
    pub name: String,
    /// `section.key`.
    pub key: String,
    /// As it would be written in the environment.
    pub value: String,
}

/// The process's environment. The one place in the program that reads it.
pub fn environment() -> BTreeMap<String, String> {
    // A variable that is not UTF-8 is kept with replacement characters: in one of ours these are
    // refused where it is checked, the others are nobody's concern.
    std::env::vars_os()
        .map(|(name, value)| {
            let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
            (text(name), text(value))
        })
        .collect()
}

/// Reads and checks the whole configuration, with every fault that it has.
pub fn load(cli: &Overrides, env: BTreeMap<String, String>) -> Result<Config, ConfigError> {
    load_with(cli, env, Path::new(DEFAULT_FILE))
}

fn load_with(
    cli: &Overrides,
    env: BTreeMap<String, String>,
    default_file: &Path,
) -> Result<Config, ConfigError> {
    let keys = Keys::of(&raw::schema());
    let mut faults = Faults::default();
    let file = match &cli.file {
        Some(path) => Some(path.as_path()),
        None => Some(default_file).filter(|path| !matches!(path.try_exists(), Ok(false))),
    };
    let mut layers = Vec::new();
    layers.extend(file.and_then(|path| read_file(path, &keys, &mut faults)));
    layers.extend(typed(from_env(env), &keys, &mut faults));
    let flags = from_flags(cli, &keys, &mut faults);
    layers.extend(typed(flags, &keys, &mut faults));
    let builder = layers
        .into_iter()
        .fold(config::Config::builder(), |builder, layer| {
            builder.add_source(layer)
        });
    let Ok(merged) = builder.build() else {
        // Collecting ours cannot fail, and what this error says may quote a value.
        faults.hidden("configuration", "cannot be merged", "report this as a bug");
        return faults.or(None);
    };
    let raw = extract(merged.cache, &keys, &mut faults);
    let config = validate(raw, &mut faults);
    faults.or(config)
}

/// One source's values, by key.
#[derive(Clone)]
pub(super) struct Layer(Map<String, Merged>);

impl Layer {
    pub(super) fn new(values: Map<String, Merged>) -> Self {
        Self(values)
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the values: a token may be among them.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Merged>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn read_file(path: &Path, keys: &Keys, faults: &mut Faults) -> Option<Layer> {
    let name = path.display().to_string();
    let source = "the configuration file";
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            faults.incomplete = true;
            let remedy = "name a file that this user can read, or none";
            faults.at_source(&name, source, format!("cannot be read: {error}"), remedy);
            return None;
        }
    };
    let parsed = config::File::from_str(&text, FileFormat::Toml).collect();
    let table = match parsed {
        Ok(table) => table,
        Err(error) => {
            faults.incomplete = true;
            let reason = format!("is not TOML: {}", without_source_lines(&error));
            faults.at_source(&name, source, reason, "correct that line");
            return None;
        }
    };
    check_mode(path, &name, holds_secret(&table, "", keys), faults);
    Some(Layer(with_origin(table, &name)))
}

/// Whoever can write the file decides what the host refuses; whoever can read it has its secrets.
fn check_mode(path: &Path, name: &str, secret: bool, faults: &mut Faults) {
    let source = "the configuration file";
    let Some(mode) = mode_of_file(path) else {
        return;
    };
    if mode & 0o002 != 0 {
        let reason = format!("can be written by every user of this host (mode {mode:04o})");
        faults.at_source(name, source, reason, format!("chmod o-w {name}"));
    }
    if mode & 0o004 != 0 && secret {
        let reason =
            format!("holds a token and can be read by every user of this host (mode {mode:04o})");
        let remedy = format!("chmod o-r {name}, or set server.token_file instead of server.token");
        faults.at_source(name, source, reason, remedy);
    }
}

/// The permissions of a regular file; of a pipe or a device they say nothing.
pub(super) fn mode_of_file(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok()?;
    metadata
        .is_file()
        .then(|| metadata.permissions().mode() & 0o7777)
}

fn holds_secret(table: &Map<String, Merged>, prefix: &str, keys: &Keys) -> bool {
    table.iter().any(|(name, value)| {
        let path = join(prefix, name);
        if let ValueKind::Table(inner) = &value.kind {
            return holds_secret(inner, &path, keys);
        }
        keys.get(&path).is_some_and(|key| key.secret)
    })
}

/// The parser's message without the lines of the file that it quotes: one may hold a token.
fn without_source_lines(error: &config::ConfigError) -> String {
    let text = error.to_string();
    let quoted = |line: &&str| {
        line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
            .starts_with('|')
    };
    let lines: Vec<_> = text.lines().filter(|line| !quoted(line)).collect();
    let message = lines.join(": ");
    let bare = message.strip_prefix("TOML parse error ");
    bare.map_or_else(|| message.clone(), str::to_owned)
}

/// Says of each value that it is from this file, for the faults to name it.
fn with_origin(table: Map<String, Merged>, origin: &String) -> Map<String, Merged> {
    let marked = |(name, value): (String, Merged)| {
        let value = if let ValueKind::Table(inner) = value.kind {
            Merged::new(Some(origin), with_origin(inner, origin))
        } else {
            Merged::new(Some(origin), value.kind)
        };
        (name, value)
    };
    table.into_iter().map(marked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_read_when_it_is_there_and_no_other_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let default = directory.path().join("config.toml");
        let other = directory.path().join("other.toml");
        fs::write(&other, "agent.id = 'other'").unwrap();
        let set = [("API_SERVER_URL", "ws://localhost"), ("AGENT_TOKEN", "t")];
        let env = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let id = |file: Option<&PathBuf>| {
            let overrides = Overrides {
                file: file.cloned(),
                settings: Vec::new(),
            };
            load_with(&overrides, env.clone().into(), &default).map(|config| config.agent.id)
        };
        let ConfigError(faults) = id(None).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        fs::write(&default, "agent.id = 'default'").unwrap();
        assert_eq!(id(None).unwrap().as_str(), "default");
        assert_eq!(id(Some(&other)).unwrap().as_str(), "other");
    }
}
