//! Where values come from: defaults, then the file, then the environment, then flags, merged by the
//! `config` crate, checked, and handed out whole or not at all.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    Config, env_file,
    extract::extract,
    fault::{ConfigError, Faults, Source as Place},
    keys::{Keys, join},
    proxy, raw,
    settings::{from_env, from_env_file, from_flags, typed},
    validate::validate,
};
use config::{FileFormat, Map, Source, Value as Merged, ValueKind};

/// Where `config.toml` or `config.yaml` is read when it is there and no other file is named.
const DEFAULT_FOLDER: &str = "/etc/rental-agent";

/// What the command line sets.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The file to read; it has to exist. YAML when its name ends so, else TOML. Unset: `config.toml`
    /// or `config.yaml` in `/etc/rental-agent` when one of them is there.
    pub file: Option<PathBuf>,
    /// A file of variables, read when it is there: `.env`. Unset: none.
    pub env_file: Option<PathBuf>,
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
    let (_, config, faults, _) = gather(cli, &env).checked();
    faults.or(config)
}

/// All sources merged, and what was found wrong on the way.
pub(super) struct Gathered {
    pub(super) keys: Keys,
    pub(super) proxies: proxy::Variables,
    /// `None` with a fault.
    pub(super) merged: Option<Merged>,
    pub(super) faults: Faults,
}

/// Reads all sources.
pub(super) fn gather(cli: &Overrides, env: &BTreeMap<String, String>) -> Gathered {
    read(cli, env, Path::new(DEFAULT_FOLDER))
}

impl Gathered {
    /// What was merged, the configuration that it makes, all faults, and what names proxies.
    pub(super) fn checked(self) -> (Option<Merged>, Option<Config>, Faults, proxy::Variables) {
        let mut faults = self.faults;
        let Some(merged) = self.merged else {
            return (None, None, faults, self.proxies);
        };
        let raw = extract(merged.clone(), &self.keys, &mut faults);
        let config = validate(raw, &self.proxies, &mut faults);
        (Some(merged), config, faults, self.proxies)
    }
}

fn read(cli: &Overrides, env: &BTreeMap<String, String>, default_folder: &Path) -> Gathered {
    let keys = Keys::of(&raw::schema());
    let mut faults = Faults::default();
    let file = match &cli.file {
        Some(path) => Some(path.clone()),
        None => default_file(default_folder, &mut faults),
    };
    let mut layers = Vec::new();
    layers.extend(file.and_then(|path| read_file(&path, &keys, &mut faults)));
    let env_file = cli.env_file.as_deref();
    let env_file = env_file.and_then(|path| env_file::read(path, &mut faults));
    if let Some(file) = &env_file {
        let settings = from_env_file(file);
        let secret = settings.iter().any(|setting| setting.is_secret(&keys));
        let name = file.path.display().to_string();
        check_mode(&file.path, &name, "the working folder", secret, &mut faults);
        layers.extend(typed(settings, &keys, &mut faults));
    }
    layers.extend(typed(from_env(env), &keys, &mut faults));
    let flags = from_flags(cli, &keys, &mut faults);
    layers.extend(typed(flags, &keys, &mut faults));
    let builder = layers
        .into_iter()
        .fold(config::Config::builder(), |builder, layer| {
            builder.add_source(layer)
        });
    let merged = builder.build().ok().map(|config| config.cache);
    if merged.is_none() {
        // Collecting ours cannot fail, and what this error says may quote a value.
        faults.hidden("configuration", "cannot be merged", "report this as a bug");
    }
    Gathered {
        proxies: proxy::Variables::of(env, env_file.as_ref()),
        keys,
        merged,
        faults,
    }
}

/// The one that is there; which of two is meant nobody can tell.
fn default_file(folder: &Path, faults: &mut Faults) -> Option<PathBuf> {
    let there =
        |name| Some(folder.join(name)).filter(|path| !matches!(path.try_exists(), Ok(false)));
    let (toml, yaml) = (there("config.toml"), there("config.yaml"));
    if let (Some(_), Some(yaml)) = (&toml, &yaml) {
        let reason = "is there, and config.toml too";
        let remedy = "keep one of them, or name one with --config";
        faults.at_source(&yaml.display().to_string(), FILE, reason, remedy);
    }
    toml.or(yaml)
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

/// What faults of the file as a whole name as their source.
const FILE: &str = "the configuration file";

fn read_file(path: &Path, keys: &Keys, faults: &mut Faults) -> Option<Layer> {
    let name = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            faults.incomplete = true;
            let remedy = "name a file that this user can read, or none";
            faults.at_source(&name, FILE, format!("cannot be read: {error}"), remedy);
            return None;
        }
    };
    let ending = path.extension().and_then(|ending| ending.to_str());
    let (format, said): (_, fn(&config::ConfigError) -> String) = match ending {
        Some("yaml" | "yml") => (FileFormat::Yaml, wrong_yaml),
        Some(_) | None => (FileFormat::Toml, wrong_toml),
    };
    let table = match config::File::from_str(&text, format).collect() {
        Ok(table) => table,
        Err(error) => {
            faults.incomplete = true;
            faults.at_source(&name, FILE, said(&error), "correct that line");
            return None;
        }
    };
    check_mode(path, &name, FILE, holds_secret(&table, "", keys), faults);
    faults.sources.insert(name.clone(), Place::File);
    Some(Layer(with_origin(table, &name)))
}

/// Whoever can write the file decides what the host refuses; whoever can read it has its secrets.
fn check_mode(path: &Path, name: &str, source: &str, secret: bool, faults: &mut Faults) {
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
fn wrong_toml(error: &config::ConfigError) -> String {
    let text = error.to_string();
    let quoted = |line: &&str| {
        line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
            .starts_with('|')
    };
    let lines: Vec<_> = text.lines().filter(|line| !quoted(line)).collect();
    let message = lines.join(": ");
    let bare = message.strip_prefix("TOML parse error ");
    format!("is not TOML: {}", bare.unwrap_or(&message))
}

/// The same of YAML, whose messages end in the place. One without a place is about a value, and one
/// about a key that is there twice quotes it, whatever it is.
fn wrong_yaml(error: &config::ConfigError) -> String {
    let text = error.to_string();
    let place = text.rsplit_once(" at byte ").and_then(|(said, place)| {
        let (_, line) = place.split_once(" line ")?;
        Some((said, line))
    });
    match place {
        Some((said, line)) if said.ends_with(": duplicated key in mapping") => {
            format!("is not YAML: a key is there twice, line {line}")
        }
        Some((said, line)) => format!("is not YAML: {said}, line {line}"),
        None => "is not one YAML document whose top is a table, with texts as keys and finite \
                 numbers"
            .to_owned(),
    }
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
        let folder = directory.path();
        let default = folder.join("config.toml");
        let other = directory.path().join("other.toml");
        fs::write(&other, "agent.id = 'other'").unwrap();
        let set = [("API_SERVER_URL", "ws://localhost"), ("AGENT_TOKEN", "t")];
        let env = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let id = |file: Option<&PathBuf>| {
            let overrides = Overrides {
                file: file.cloned(),
                ..Overrides::default()
            };
            let (_, config, faults, _) = read(&overrides, &env.clone().into(), folder).checked();
            faults.or(config).map(|config| config.agent.id)
        };
        let ConfigError(faults) = id(None).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        fs::write(&default, "agent.id = 'default'").unwrap();
        assert_eq!(id(None).unwrap().as_str(), "default");
        assert_eq!(id(Some(&other)).unwrap().as_str(), "other");
        fs::write(folder.join("config.yaml"), "agent:\n  id: yaml").unwrap();
        let ConfigError(faults) = id(None).unwrap_err();
        assert!(faults[0].key.ends_with("config.yaml"), "{faults:?}");
        fs::remove_file(&default).unwrap();
        assert_eq!(id(None).unwrap().as_str(), "yaml");
    }
}
