//! The tenant's process: its arguments and its environment, and their limits. Pure.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};

use super::invalid;
use crate::{
    policy,
    protocol::{
        Error,
        command::escape,
        limits::{MAX_ARGUMENT_BYTES, MAX_ARGUMENTS, MAX_ENV, MAX_ENV_BYTES},
    },
};

/// Checks what is to be executed.
pub(super) fn check_arguments(
    entrypoint: Option<&[String]>,
    command: Option<&[String]>,
) -> Result<(), Error> {
    let mut total = 0usize;
    for (name, list) in [("entrypoint", entrypoint), ("command", command)] {
        let list = list.unwrap_or_default();
        if list.len() > MAX_ARGUMENTS {
            let message = format!(
                "`{name}` has {} entries; at most {MAX_ARGUMENTS}",
                list.len()
            );
            return Err(invalid(format!("/spec/{name}"), message));
        }
        if let Some(index) = list.iter().position(|argument| argument.contains('\0')) {
            let message = format!("entry {index} of `{name}` has a NUL, which no argument can");
            return Err(invalid(format!("/spec/{name}/{index}"), message));
        }
        total += list
            .iter()
            .map(|argument| argument.len() + 1)
            .sum::<usize>();
        if total > MAX_ARGUMENT_BYTES {
            let message = format!(
                "`entrypoint` and `command` have {total} bytes; at most {MAX_ARGUMENT_BYTES}"
            );
            return Err(invalid(format!("/spec/{name}"), message));
        }
    }
    if entrypoint.is_some_and(|list| list.first().is_some_and(String::is_empty)) {
        let message = "the first entry of `entrypoint` names the program and cannot be empty; \
                       an empty list clears the image's entrypoint";
        return Err(invalid("/spec/entrypoint/0", message));
    }
    if entrypoint.is_some_and(<[String]>::is_empty) && command.is_some_and(<[String]>::is_empty) {
        let message = "`entrypoint` and `command` are both cleared, so there is nothing to run; \
                       leave one out or fill it";
        return Err(invalid("/spec/command", message));
    }
    Ok(())
}

/// Reads the tenant's environment; a value never shows up in an error.
pub(super) fn parse_env(
    env: BTreeMap<String, SecretString>,
) -> Result<Vec<(String, SecretString)>, Error> {
    if env.len() > MAX_ENV {
        let message = format!("`env` has {} entries; at most {MAX_ENV}", env.len());
        return Err(invalid("/spec/env", message));
    }
    let mut total = 0usize;
    for (name, value) in &env {
        let pointer = || format!("/spec/env/{}", escape(name));
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if !name.bytes().all(is_word) || name.bytes().next().is_none_or(|b| b.is_ascii_digit()) {
            let shown: String = name.chars().take(80).collect();
            let message =
                format!("{shown:?} is no name of an environment variable: [A-Za-z_][A-Za-z0-9_]*");
            return Err(invalid(pointer(), message));
        }
        total += name.len() + value.expose_secret().len() + 2;
        if total > MAX_ENV_BYTES {
            let message = format!("`env` has more than {MAX_ENV_BYTES} bytes in all");
            return Err(invalid("/spec/env", message));
        }
        policy::env_allowed(name).map_err(|error| error.pointing(pointer()))?;
        if value.expose_secret().contains(['\0', '\n', '\r']) {
            let message =
                format!("the value of {name} has a NUL or a line break; it may have none");
            return Err(invalid(pointer(), message));
        }
    }
    Ok(env.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{
        instance::spec::tests::parse_json,
        protocol::{Error, ErrorCode},
    };

    #[track_caller]
    fn refused(fields: Value, pointer: &str) -> Error {
        let mut spec = json!({"instance_id": "r-1", "image": "busybox"});
        for (name, value) in fields.as_object().unwrap() {
            spec[name] = value.clone();
        }
        let error = parse_json(&spec).unwrap_err();
        assert_eq!(error.detail, Some(json!({ "pointer": pointer })), "{error}");
        error
    }

    #[test]
    fn arguments_have_no_nul_and_a_limit() {
        refused(json!({"command": ["a", "b\0"]}), "/spec/command/1");
        refused(json!({"entrypoint": [""]}), "/spec/entrypoint/0");
        refused(json!({"entrypoint": [], "command": []}), "/spec/command");
        refused(json!({"command": vec!["x"; 1025]}), "/spec/command");
        refused(
            json!({"entrypoint": ["x".repeat(40_000)], "command": ["x".repeat(40_000)]}),
            "/spec/command",
        );
    }

    #[test]
    fn environment_has_names_one_line_values_and_a_limit() {
        for bad in ["", "1A", "A-B", "A=B", "A B", "Ä", "A\n"] {
            let error = refused(json!({"env": {bad: "x"}}), &format!("/spec/env/{bad}"));
            assert_eq!(error.code, ErrorCode::InvalidSpec);
        }
        for bad in ["a\0b", "a\nb", "a\r"] {
            refused(json!({"env": {"A": bad}}), "/spec/env/A");
        }
        refused(json!({"env": {"A": "x".repeat(70_000)}}), "/spec/env");
        let error = refused(json!({"env": {"ld_preload": "x"}}), "/spec/env/ld_preload");
        assert_eq!(error.code, ErrorCode::PolicyDenied);
    }

    #[test]
    fn no_error_shows_the_value_of_a_variable() {
        for (name, value) in [("A", "canary\n"), ("LD_PRELOAD", "canary"), ("1", "canary")] {
            let mut spec = json!({"instance_id": "r-1", "image": "busybox", "env": {}});
            spec["env"][name] = json!(value);
            let error = parse_json(&spec).unwrap_err();
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}
