//! The keys that there are, from the schema: what each is called, what it holds, which name a wrong
//! one comes nearest to.

use std::collections::BTreeMap;

use serde_json::Value;

/// The prefix of the variables that set keys.
const ENV_PREFIX: &str = "RENTAL_AGENT__";

/// Groups of keys of which only one may be set.
const ONE_OF: &[&[&str]] = &[&["server.token", "server.token_file", "server.jwt_key_file"]];

/// Below this likeness (1 is equal) a name is not offered in place of another.
const NEAR: f64 = 0.6;

/// What a key holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A group of keys, at the top.
    Section,
    /// A table with fixed keys of its own; settable as a whole too.
    Table,
    /// A table with names of the operator's choice.
    Map,
    List,
    Text,
    /// One of these words.
    Choice(Vec<String>),
    Boolean,
    Integer,
    Number,
}

/// One key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// Its value is never shown.
    pub(super) secret: bool,
    /// What it is when nobody has set it; null: nothing.
    pub(super) default: Value,
    minimum: Option<f64>,
    maximum: Option<f64>,
}

impl Key {
    fn of(schema: &Value, top: bool) -> Self {
        let choices = schema["enum"].as_array().map(|words| {
            let words = words.iter().filter_map(Value::as_str);
            words.map(str::to_owned).collect()
        });
        let kind = match (schema["type"].as_str().unwrap_or_default(), choices) {
            (_, Some(choices)) => Kind::Choice(choices),
            ("object", None) if top => Kind::Section,
            ("object", None) if schema["properties"].is_object() => Kind::Table,
            ("object", None) => Kind::Map,
            ("array", None) => Kind::List,
            ("boolean", None) => Kind::Boolean,
            ("integer", None) => Kind::Integer,
            ("number", None) => Kind::Number,
            (_, None) => Kind::Text,
        };
        Self {
            kind,
            secret: schema["writeOnly"] == true,
            default: schema["default"].clone(),
            minimum: schema["minimum"].as_f64(),
            maximum: schema["maximum"].as_f64(),
        }
    }

    /// Whether a number is within the schema's limits.
    pub(super) fn admits(&self, number: f64) -> bool {
        number.is_finite()
            && self.minimum.is_none_or(|low| number >= low)
            && self.maximum.is_none_or(|high| number <= high)
    }

    /// Why a value of the wrong type or size is refused.
    pub(super) fn mismatch(&self) -> String {
        format!("is not {}", self.expected())
    }

    /// What to write instead.
    pub(super) fn remedy(&self) -> String {
        format!("write {}", self.expected())
    }

    /// What it has to be, as the end of a sentence.
    fn expected(&self) -> String {
        let range = match (self.minimum, self.maximum) {
            (Some(low), Some(high)) => format!(" from {low} to {high}"),
            (Some(low), None) => format!(" from {low} up"),
            (None, Some(high)) => format!(" up to {high}"),
            (None, None) => String::new(),
        };
        match &self.kind {
            Kind::Section => "a section: a table of keys".into(),
            Kind::Table | Kind::Map => "a table (in the environment: a JSON object)".into(),
            Kind::List => "a list of texts (in the environment: a JSON array)".into(),
            Kind::Text => "a text".into(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Boolean => "true or false".into(),
            Kind::Integer => format!("a whole number{range}"),
            Kind::Number => format!("a number{range}"),
        }
    }
}

/// All keys by their dotted names, sections included.
#[derive(Debug)]
pub(super) struct Keys(BTreeMap<String, Key>);

impl Keys {
    /// Reads them out of the configuration's schema.
    pub(super) fn of(schema: &Value) -> Self {
        let mut keys = BTreeMap::new();
        collect(schema, "", &mut keys);
        Self(keys)
    }

    /// The key of exactly this name.
    pub(super) fn get(&self, name: &str) -> Option<&Key> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.0.iter().map(|(name, key)| (name.as_str(), key))
    }

    /// The key of this name, unless it is a section, which cannot be set as a whole.
    pub(super) fn settable(&self, name: &str) -> Option<&Key> {
        self.get(name).filter(|key| key.kind != Kind::Section)
    }

    /// The longest key that `name` is, or is within: `agent.labels` for `agent.labels.zone`.
    pub(super) fn enclosing<'a>(&self, mut name: &'a str) -> Option<(&'a str, &Key)> {
        loop {
            if let Some(key) = self.get(name) {
                return Some((name, key));
            }
            name = name.get(..name.rfind(['.', '['])?)?;
        }
    }

    /// The others of a group of which only one may be set: a secret and the file that holds it, and
    /// what stands for the two.
    pub(super) fn rivals(&self, name: &str) -> Vec<String> {
        let Some(group) = ONE_OF.iter().find(|group| group.contains(&name)) else {
            return self.other_half(name).into_iter().collect();
        };
        let others = group.iter().filter(|other| **other != name);
        others.map(|other| (*other).to_owned()).collect()
    }

    fn other_half(&self, name: &str) -> Option<String> {
        let is_pair = |plain: &str, file: &str| {
            self.get(plain).is_some_and(|key| key.secret) && self.get(file).is_some()
        };
        if let Some(plain) = name.strip_suffix("_file") {
            return is_pair(plain, name).then(|| plain.to_owned());
        }
        let file = format!("{name}_file");
        is_pair(name, &file).then_some(file)
    }

    /// What to do about a name that is no key: the nearest right one, else what there is beside it.
    pub(super) fn advice(&self, name: &str, spelling: fn(&str) -> String) -> String {
        let likeness = |key: &str| likeness(key, name);
        let nearest = self
            .0
            .keys()
            .map(|key| (likeness(key), key))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((score, key)) = nearest
            && score >= NEAR
        {
            return format!("did you mean {}?", spelling(key));
        }
        let (section, _) = name.split_once('.').unwrap_or((name, ""));
        let within = |key: &&String| {
            key.strip_prefix(section)
                .is_some_and(|k| k.starts_with('.'))
        };
        let mut beside: Vec<_> = self.0.keys().filter(within).map(|k| spelling(k)).collect();
        if beside.is_empty() {
            let sections = self.0.iter().filter(|(_, key)| key.kind == Kind::Section);
            beside = sections.map(|(name, _)| spelling(name)).collect();
        }
        format!("there are: {}", beside.join(", "))
    }
}

/// Two names are alike as a whole, or, a little less so, when only their section differs.
fn likeness(key: &str, name: &str) -> f64 {
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let whole = strsim::normalized_damerau_levenshtein(key, name);
    match (last(key), last(name)) {
        (Some(a), Some(b)) => whole.max(0.9 * strsim::normalized_damerau_levenshtein(&a, &b)),
        (_, _) => whole,
    }
}

/// The variable that sets a key.
pub(super) fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// The key that a variable sets, if it is one of ours. Whether there is such a key is not known yet.
pub(super) fn key_of_env(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix(ENV_PREFIX)?;
    Some(rest.replace("__", ".").to_lowercase())
}

/// The name of a key within another one.
pub(super) fn join(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.to_owned(),
        _ => format!("{prefix}.{name}"),
    }
}

fn collect(schema: &Value, prefix: &str, keys: &mut BTreeMap<String, Key>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = join(prefix, name);
        keys.insert(path.clone(), Key::of(property, prefix.is_empty()));
        collect(property, &path, keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::of(&super::super::schema())
    }

    #[test]
    fn wrong_names_are_answered_with_the_nearest_right_one() {
        for (wrong, right) in [
            ("server.ur", "server.url"),
            ("servr.url", "server.url"),
            ("server.tokenfile", "server.token_file"),
            ("agent.url", "server.url"),
            ("url", "server.url"),
            ("networks", "network"),
            ("resources.reserve.memory", "resources.reserve.memory_bytes"),
            ("ressources.max_instance", "resources.max_instances"),
        ] {
            let advice = keys().advice(wrong, str::to_owned);
            assert_eq!(advice, format!("did you mean {right}?"), "for {wrong}");
        }
    }

    #[test]
    fn a_name_like_no_other_is_answered_with_what_there_is() {
        assert_eq!(
            keys().advice("log.xyzzyx", str::to_owned),
            "there are: log.filter, log.format"
        );
        let sections = keys().advice("qqqqqqqq", str::to_owned);
        assert!(
            sections.contains("agent, control, docker, gpu"),
            "{sections}"
        );
    }

    #[test]
    fn every_secret_can_come_from_a_file() {
        let keys = keys();
        let secrets: Vec<_> = keys.0.iter().filter(|(_, key)| key.secret).collect();
        assert!(!secrets.is_empty());
        for (name, _) in secrets {
            assert!(keys.rivals(name).contains(&format!("{name}_file")));
            assert!(keys.rivals(&format!("{name}_file")).contains(name));
        }
        assert_eq!(keys.rivals("server.ca_file"), Vec::<String>::new());
        for name in ONE_OF.iter().flat_map(|group| group.iter()) {
            assert!(keys.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn variables_and_keys_name_each_other() {
        for name in keys().0.keys() {
            assert_eq!(key_of_env(&env_name(name)).as_deref(), Some(name.as_str()));
        }
    }
}
