//! Commands that cannot be done as they are written, with a secret where one belongs, or nearly.

use serde_json::{Value, json};

use super::flows::Secrets;

/// Commands without ids, each wrong in its own way.
pub(super) fn commands(secrets: &Secrets, image: &str) -> Vec<Value> {
    let env = secrets.env.as_str();
    let password = secrets.password.as_str();
    let token = secrets.identity_token.as_str();
    let envs = [
        json!(env),
        json!([env]),
        json!([["A", env]]),
        json!({ "A": [env] }),
        json!({ "A": { "B": env } }),
        json!({ "A": format!("{env}\0") }),
        json!({ "A": format!("{env}\n") }),
        json!({ "A": env.repeat(4_000) }),
        json!({ "NOT A NAME": env }),
        json!({ "": env }),
        json!({ "A=B": env }),
        json!({ "LD_PRELOAD": env }),
        json!({ "NVIDIA_VISIBLE_DEVICES": env }),
    ];
    let auths = [
        json!(password),
        json!([password]),
        json!({ "username": "renter", "password": [password] }),
        json!({ "username": "renter", "password": { "value": password } }),
        json!({ "username": ["renter"], "password": password }),
        json!({ "password": password }),
        json!({ "username": "", "password": password }),
        json!({ "username": "renter\n", "password": password }),
        json!({ "username": "renter", "password": format!("{password}\0") }),
        json!({ "username": "renter", "password": password.repeat(2_000) }),
        json!({ "username": "renter", "password": password, "email": password }),
        json!({ "username": "renter", "password": password, "identity_token": token }),
        json!({ "identity_token": [token] }),
        json!({ "identity_token": format!("{token}\0") }),
        json!({ "identity_token": token, "identitytoken": token }),
        json!({ "auth": password }),
    ];
    let spec = |field: &str, value: &Value| {
        let mut spec = json!({ "instance_id": "never", "image": image });
        spec[field] = value.clone();
        json!({ "op": "deploy", "spec": spec })
    };
    let mut commands: Vec<Value> = envs.iter().map(|value| spec("env", value)).collect();
    commands.extend(auths.iter().map(|value| spec("registry_auth", value)));
    let pull = |value| json!({ "op": "pull_image", "image": image, "registry_auth": value });
    commands.extend(auths.iter().map(pull));
    // Right by itself, and beside a fault of something else.
    let right = json!({ "username": "renter", "password": password });
    for (field, value) in [
        ("image", json!("NOT AN IMAGE")),
        ("cpus", json!(-1)),
        ("colour", json!("red")),
        ("memory_bytes", json!("2g")),
    ] {
        let mut command = spec(field, &value);
        command["spec"]["env"] = json!({ "A": env });
        command["spec"]["registry_auth"] = right.clone();
        commands.push(command);
    }
    commands
}

/// Frames that are no commands, or only the beginning of one.
pub(super) fn frames(secrets: &Secrets) -> Vec<String> {
    let whole = json!({
        "type": "command",
        "id": "cut-off",
        "op": "deploy",
        "spec": { "env": { "A": secrets.env }, "registry_auth": { "password": secrets.password } },
    })
    .to_string();
    let cuts = (1..8).map(|part| whole[..whole.len() * part / 8].to_owned());
    let env = &secrets.env;
    let others = [
        json!({ "type": "later", "x": env }).to_string(),
        json!({ "type": "command", "id": [env], "op": "deploy" }).to_string(),
        json!({ "type": "ack", "epoch": [env], "generation": env }).to_string(),
        json!({ "type": "welcome", "session_id": [env] }).to_string(),
        format!("\"{env}\""),
        format!("[\"{env}\"]"),
        env.clone(),
    ];
    cuts.chain(others).collect()
}
