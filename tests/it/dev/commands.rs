//! The client commands as a person or a script runs them: the real executable against a reference
//! server whose agent follows a script.

use std::process::{Output, Stdio};

use super::*;

#[tokio::test]
async fn deploy_prints_plain_lines_and_how_to_reach_the_rental() {
    let (server, _handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let deploy = command(
        &server,
        &[
            "deploy", "--image", "busybox", "--id", "a", "--port", "web:80",
        ],
    );
    let played = async {
        let command = agent.hear("command").await;
        assert_eq!(command["spec"]["ports"][0]["container"], 80);
        agent.reply(&command, "accepted").await;
        agent.record(1, "a", "pulling").await;
        agent.hear("ack").await;
        agent.say(ready(2, "a")).await;
        agent.hear("ack").await;
        agent.reply(&command, "done").await;
    };
    let (output, ()) = tokio::join!(deploy, played);
    assert!(output.status.success());
    let text = text(&output.stdout);
    assert!(!text.contains('\r') && !text.contains('\u{1b}'), "{text:?}");
    assert!(text.contains("pulling\n"), "{text}");
    assert!(text.contains("web 192.0.2.1:30000 -> 80/tcp\n"), "{text}");
}

#[tokio::test]
async fn a_deploy_that_fails_says_code_stage_words_and_retry() {
    let (server, _handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let deploy = command(&server, &["deploy", "--image", "nothing", "--id", "a"]);
    let played = async {
        let command = agent.hear("command").await;
        agent
            .say(json!({
                "type": "reply", "command_id": command["id"], "outcome": "failed",
                "error": {
                    "code": "image_not_found", "message": "no such image", "stage": "pull",
                    "retry": "never",
                },
            }))
            .await;
    };
    let (output, ()) = tokio::join!(deploy, played);
    assert_eq!(output.status.code(), Some(1));
    let text = text(&output.stderr);
    assert!(
        text.contains("image_not_found at pull: no such image (retry: never)"),
        "{text}"
    );
}

#[tokio::test]
async fn json_is_one_object_and_nothing_else() {
    let (server, _handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let deploy = command(&server, &["deploy", "--image", "x", "--id", "a", "--json"]);
    let played = async {
        let command = agent.hear("command").await;
        agent.say(ready(1, "a")).await;
        agent.hear("ack").await;
        agent.reply(&command, "done").await;
    };
    let (output, ()) = tokio::join!(deploy, played);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["outcome"], &answer["instance_id"]),
        (&json!("done"), &json!("a"))
    );
    assert_eq!(answer["instance"]["ports"][0]["host"], 30000);

    let ps = command(&server, &["ps", "--json"]).await;
    let list: Value = serde_json::from_slice(&ps.stdout).unwrap();
    assert_eq!(list["agents"][0]["connected"], true);
    assert_eq!(list["instances"][0]["record"]["phase"], "ready");
    let ps = command(&server, &["ps"]).await;
    assert!(text(&ps.stdout).contains("web 192.0.2.1:30000"));
}

#[tokio::test]
async fn terminate_waits_until_the_rental_is_gone() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    run(&handle, &mut agent, "a", 1).await;
    let terminate = command(&server, &["terminate", "a"]);
    let played = async {
        let command = agent.hear("command").await;
        assert_eq!(
            (&command["op"], &command["instance_id"]),
            (&json!("terminate"), &json!("a"))
        );
        let mut ended = record(2, "a", "ended");
        ended["instance"]["ended"] = json!({"reason": "terminated"});
        agent.say(ended).await;
        agent.hear("ack").await;
        agent.reply(&command, "done").await;
    };
    let (output, ()) = tokio::join!(terminate, played);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "a: terminated\n");
}

#[tokio::test]
async fn what_the_server_refuses_is_said_and_fails() {
    let (server, handle) = server().await;
    handle.deploy(spec("a")).unwrap();
    let output = command(&server, &["deploy", "--image", "x", "--id", "a"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("used once, ever"));
}

#[tokio::test]
async fn in_json_a_failure_is_told_in_the_json_alone() {
    let (server, _handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let args = ["deploy", "--image", "nothing", "--id", "a", "--json"];
    let played = async {
        let command = agent.hear("command").await;
        agent
            .say(json!({
                "type": "reply", "command_id": command["id"], "outcome": "failed",
                "error": {"code": "image_not_found", "message": "no", "retry": "never"},
            }))
            .await;
    };
    let (output, ()) = tokio::join!(command(&server, &args), played);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["error"]["code"], "image_not_found");

    let again = command(&server, &args).await;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(text(&again.stderr), "");
    let answer: Value = serde_json::from_slice(&again.stdout).unwrap();
    let failure = answer["failure"].as_str().unwrap();
    assert!(failure.contains("used once, ever"), "{failure}");
}

#[tokio::test]
async fn a_terminate_of_an_id_that_nobody_knows_says_so() {
    let (server, _handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let played = async {
        let command = agent.hear("command").await;
        let mut ended = record(1, "typo", "ended");
        ended["instance"]["ended"] = json!({"reason": "cancelled"});
        agent.say(ended).await;
        agent.hear("ack").await;
        agent
            .say(json!({
                "type": "reply", "command_id": command["id"], "outcome": "done",
                "result": {"known": false},
            }))
            .await;
    };
    let (output, ()) = tokio::join!(command(&server, &["terminate", "typo"]), played);
    assert!(output.status.success());
    let text = text(&output.stdout);
    assert!(text.contains("did not know this id"), "{text}");
}

#[test]
fn client_commands_refuse_the_agents_flags_and_do_not_list_them() {
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rental-agent"));
        command.args(args).env_clear().output().unwrap()
    };
    let clients = [
        &["dev", "ps"][..],
        &["dev", "terminate", "a"],
        &["dev", "deploy", "--image", "x"],
    ];
    let agents = [
        ["--server-url", "ws://127.0.0.1:9"],
        ["--agent-id", "a"],
        ["--config", "/dev/null"],
        ["--set", "log.format=json"],
    ];
    for client in clients {
        for flag in agents {
            for line in [[client, &flag].concat(), [&flag, client].concat()] {
                let output = run(&line);
                assert_eq!(output.status.code(), Some(2), "{line:?}: {output:?}");
                let words = text(&output.stderr);
                assert!(
                    words.contains(flag[0]) && words.contains("--server"),
                    "{words}"
                );
            }
        }
        let help = run(&[client, &["--help"]].concat()).stdout;
        assert!(!text(&help).contains("--agent-id"), "{}", text(&help));
        assert!(text(&help).contains("--server <URL>"), "{}", text(&help));
    }
    let help = run(&["dev", "--help"]).stdout;
    assert!(text(&help).contains("--agent-id"), "{}", text(&help));
}

#[test]
fn without_a_server_the_cause_is_given_once() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rental-agent"));
    command.args(["dev", "ps", "--server", "ws://127.0.0.1:9"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = text(&output.stderr);
    assert_eq!(words.matches("Connection refused").count(), 1, "{words}");
}

/// Runs `rental-agent dev` with these arguments against `server`, without a terminal.
async fn command(server: &Server, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rental-agent"));
    command
        .arg("dev")
        .args(args)
        .args(["--server", &server.url()]);
    let command = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, command).await;
    output.expect("its end in time").expect("it starts")
}

fn ready(generation: u64, id: &str) -> Value {
    let mut ready = record(generation, id, "ready");
    ready["instance"]["ports"] = json!([{
        "name": "web", "container": 80, "host": 30000, "protocol": "tcp",
        "address": "192.0.2.1",
    }]);
    ready
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
