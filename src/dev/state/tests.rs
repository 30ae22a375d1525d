//! What a server owes, rule by rule, on the pure state. The script below plays agents, operator and
//! clock.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    clock::Timestamp,
    protocol::{EndReason, Instance, Outcome, Phase},
};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn hello_comes_first_and_names_the_agent_of_the_path() {
    let mut lab = Lab::new();
    lab.open(1);
    lab.say(1, json!({"type": "goodbye", "reason": "shutdown"}));
    assert_eq!(lab.closed(1), Some(1008));
    lab.open(2);
    let mut hello = hello("e1", "boot", false);
    hello["agent"]["id"] = json!("other");
    lab.say(2, hello);
    assert_eq!(lab.closed(2), Some(1008));
    assert!(lab.sent(2).is_empty());
}

#[test]
fn a_hello_is_answered_by_a_welcome() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    let welcome = lab.sent(1).remove(0);
    assert_eq!(welcome["type"], "welcome");
    assert_eq!(welcome["server_time"], json!(lab.now.wall));
    assert_eq!(welcome["heartbeat_interval_s"], 30.0);
}

#[test]
fn commands_without_a_final_reply_are_sent_again_unchanged_and_in_order() {
    let mut lab = Lab::new();
    let first = lab.deploy("a");
    let second = lab.command(json!({"op": "terminate", "instance_id": "b"}));
    let third = lab.command(json!({"op": "report"}));
    lab.connect(1, "e1");
    let before = lab.commands(1);
    assert_eq!(ids(&before), [&first, &second, &third]);
    lab.reply(1, &second, "done");
    lab.reply(1, &first, "accepted");
    lab.close(1);
    lab.connect(2, "e1");
    let after = lab.commands(2);
    assert_eq!(ids(&after), [&first, &third]);
    assert_eq!(after, [before[0].clone(), before[2].clone()]);
}

#[test]
fn a_thousand_commands_are_under_way_at_most() {
    let mut lab = Lab::new();
    let all: Vec<_> = (0..1005)
        .map(|_| lab.command(json!({"op": "report"})))
        .collect();
    lab.connect(1, "e1");
    assert_eq!(lab.commands(1).len(), 1000);
    lab.reply(1, &all[3], "accepted");
    assert_eq!(lab.commands(1).len(), 1000);
    lab.reply(1, &all[7], "done");
    assert_eq!(lab.commands(1).len(), 1001);
    assert_eq!(lab.commands(1)[1000]["id"], json!(all[1000]));
}

#[test]
fn a_deploy_is_sent_again_for_ten_minutes_at_most() {
    let mut lab = Lab::new();
    let deploy = lab.deploy("a");
    lab.connect(1, "e1");
    lab.close(1);
    lab.later(MINUTE * 9);
    lab.connect(2, "e1");
    assert_eq!(ids(&lab.commands(2)), [&deploy]);
    lab.close(2);
    lab.later(MINUTE * 2);
    lab.connect(3, "e1");
    assert!(lab.commands(3).is_empty());
    lab.synced(3, 0, &[]);
    let (reply, source) = lab.settled(&deploy).unwrap();
    assert_eq!(source, Source::Server);
    assert_eq!(reply.outcome, Outcome::Failed);
}

#[test]
fn a_deploy_that_waits_for_its_first_sending_does_not_grow_old() {
    let mut lab = Lab::new();
    let deploy = lab.deploy("a");
    lab.later(MINUTE * 60);
    lab.connect(1, "e1");
    assert_eq!(ids(&lab.commands(1)), [&deploy]);
}

#[test]
fn an_old_deploy_whose_record_is_ready_counts_as_done() {
    let mut lab = Lab::new();
    let deploy = lab.deploy("a");
    lab.connect(1, "e1");
    lab.record(1, 1, "a", "pulling");
    lab.close(1);
    lab.later(MINUTE * 11);
    lab.connect(2, "e1");
    lab.record(2, 2, "a", "starting");
    lab.synced(2, 2, &["a"]);
    assert_eq!(lab.settled(&deploy), None);
    lab.record(2, 3, "a", "ready");
    let (reply, source) = lab.settled(&deploy).unwrap();
    assert_eq!((reply.outcome, source), (Outcome::Done, Source::Server));
}

#[test]
fn the_deploy_of_an_ended_instance_is_not_sent_again() {
    let mut lab = Lab::new();
    let deploy = lab.deploy("a");
    lab.connect(1, "e1");
    lab.synced(1, 0, &[]);
    lab.say(1, ended(1, "a", "failed"));
    lab.close(1);
    lab.connect(2, "e2");
    assert!(lab.commands(2).is_empty());
    let (reply, source) = lab.settled(&deploy).unwrap();
    assert_eq!((reply.outcome, source), (Outcome::Failed, Source::Server));
}

#[test]
fn another_process_is_not_asked_again_for_what_only_the_first_could_know() {
    let mut lab = Lab::new();
    let exec = lab.command(json!({"op": "exec", "instance_id": "a", "argv": ["true"]}));
    let drain = lab.command(json!({"op": "drain"}));
    lab.connect(1, "e1");
    lab.close(1);
    lab.connect(2, "e1");
    assert_eq!(ids(&lab.commands(2)), [&exec, &drain]);
    lab.close(2);
    lab.connect(3, "e2");
    assert_eq!(ids(&lab.commands(3)), [&drain]);
    let (reply, source) = lab.settled(&exec).unwrap();
    assert_eq!((reply.outcome, source), (Outcome::Failed, Source::Server));
    assert!(reply.error.unwrap().message.contains("outcome unknown"));
}

#[test]
fn a_command_that_was_never_sent_is_sent_to_any_process() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    lab.close(1);
    let exec = lab.command(json!({"op": "exec", "instance_id": "a", "argv": ["true"]}));
    lab.connect(2, "e2");
    assert_eq!(ids(&lab.commands(2)), [&exec]);
}

#[test]
fn instance_ids_are_used_once_unless_a_test_wants_otherwise() {
    let mut lab = Lab::new();
    lab.deploy("a");
    let spec = json!({"op": "deploy", "spec": {"instance_id": "a", "image": "x"}});
    let now = lab.now;
    let refused = lab.state.submit(None, spec.clone(), Care::Owed, now);
    assert_eq!(refused.unwrap_err(), Refused::Used(id("a")));
    lab.command(json!({"op": "terminate", "instance_id": "b"}));
    let late = json!({"op": "deploy", "spec": {"instance_id": "b", "image": "x"}});
    assert!(lab.state.submit(None, late, Care::Owed, now).is_err());
    assert!(lab.state.submit(None, spec, Care::AsTold, now).is_ok());
    let dry = json!({"op": "deploy", "dry_run": true, "spec": {"instance_id": "a"}});
    assert!(lab.state.submit(None, dry, Care::Owed, now).is_ok());
}

#[test]
fn a_new_session_of_the_same_boot_supersedes_the_old_one() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    lab.connect(2, "e2");
    assert_eq!(lab.closed(1), Some(4409));
    assert_eq!(lab.closed(2), None);
    assert_eq!(lab.view().session, Some(SessionNo(2)));
    lab.close(1);
    assert_eq!(lab.view().session, Some(SessionNo(2)));
}

#[test]
fn a_cloned_machine_is_turned_away_while_the_first_is_connected() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    lab.open(2);
    lab.say(2, hello("e2", "another boot", false));
    assert_eq!(lab.closed(2), Some(4409));
    assert_eq!(lab.closed(1), None);
    lab.record(2, 1, "a", "ready");
    assert!(lab.state.instance(None, &id("a")).is_none());
    lab.close(1);
    lab.open(3);
    lab.say(3, hello("e2", "another boot", false));
    assert_eq!(lab.closed(3), None);
}

#[test]
fn frames_of_all_sessions_but_the_newest_are_dropped() {
    let mut lab = Lab::new();
    let deploy = lab.deploy("a");
    lab.connect(1, "e1");
    lab.connect(2, "e1");
    lab.record(1, 9, "a", "ready");
    lab.reply(1, &deploy, "done");
    assert!(lab.instance("a").is_none());
    assert_eq!(lab.settled(&deploy), None);
}

#[test]
fn a_session_that_was_opened_earlier_cannot_supersede_a_newer_one() {
    let mut lab = Lab::new();
    lab.open(1);
    lab.connect(2, "e1");
    lab.say(1, hello("e1", "boot", false));
    assert_eq!(lab.closed(1), Some(4409));
    assert_eq!(lab.view().session, Some(SessionNo(2)));
}

#[test]
fn what_synced_does_not_name_is_lost_and_not_before() {
    let mut lab = Lab::new();
    lab.running("a", 1);
    lab.close(1);
    lab.connect(2, "e2");
    assert_eq!(lab.instance("a").unwrap().phase, Phase::Ready);
    lab.synced(2, 0, &[]);
    let lost = lab.instance("a").unwrap();
    assert_eq!(lost.phase, Phase::Ended);
    assert_eq!(lost.ended.unwrap().reason, EndReason::Lost);
    assert!(lost.timeline.ended_at.is_some());
}

#[test]
fn a_missing_instance_whose_deploy_has_no_final_reply_is_deployed_again() {
    let mut lab = Lab::new();
    let deploy = lab.deploy("a");
    lab.connect(1, "e1");
    lab.record(1, 1, "a", "pulling");
    lab.close(1);
    lab.connect(2, "e2");
    lab.synced(2, 0, &[]);
    assert_eq!(ids(&lab.commands(2)), [&deploy]);
    assert_eq!(lab.instance("a").unwrap().phase, Phase::Pulling);
}

#[test]
fn a_record_newer_than_synced_is_not_missing() {
    let mut lab = Lab::new();
    lab.running("a", 5);
    lab.synced(1, 4, &[]);
    assert_eq!(lab.instance("a").unwrap().phase, Phase::Ready);
}

#[test]
fn an_unknown_instance_is_pointed_out_and_left_alone() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    lab.record(1, 1, "stranger", "ready");
    lab.synced(1, 1, &["stranger"]);
    assert!(lab.commands(1).is_empty());
    assert!(lab.noted(|note| *note == Note::Unadopted { id: id("stranger") }));
    assert!(lab.state.instance(None, &id("stranger")).unwrap().unadopted);
    assert!(lab.state.adopt(None, &id("stranger")));
    assert!(!lab.state.instance(None, &id("stranger")).unwrap().unadopted);
    assert!(!lab.state.adopt(None, &id("nobody")));
}

#[test]
fn what_has_ended_and_comes_back_is_terminated_again_once_a_session() {
    let mut lab = Lab::new();
    lab.running("a", 1);
    lab.say(1, ended(2, "a", "exited"));
    lab.close(1);
    lab.connect(2, "e2");
    lab.record(2, 1, "a", "running");
    assert!(lab.commands(2).is_empty());
    lab.synced(2, 1, &["a"]);
    let again = lab.commands(2);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0]["op"], "terminate");
    assert_eq!(again[0]["instance_id"], "a");
    let terminate = again[0]["id"].as_str().unwrap().parse().unwrap();
    lab.reply(2, &terminate, "failed");
    lab.record(2, 2, "a", "running");
    assert_eq!(lab.commands(2).len(), 1);
    lab.close(2);
    lab.connect(3, "e2");
    lab.record(3, 2, "a", "running");
    lab.synced(3, 2, &["a"]);
    assert_eq!(lab.commands(3).len(), 1);
}

#[test]
fn a_wanted_terminate_outlives_its_reply() {
    let mut lab = Lab::new();
    lab.running("a", 1);
    let terminate = lab.command(json!({"op": "terminate", "instance_id": "a"}));
    lab.record(1, 2, "a", "ending");
    assert_eq!(ids(&lab.commands(1))[1..], [&terminate]);
    lab.reply(1, &terminate, "done");
    lab.close(1);
    lab.connect(2, "e2");
    lab.record(2, 1, "a", "running");
    lab.synced(2, 1, &["a"]);
    assert_eq!(lab.commands(2)[0]["op"], "terminate");
}

#[test]
fn the_first_final_record_wins() {
    let mut lab = Lab::new();
    lab.running("a", 1);
    lab.say(1, ended(2, "a", "exited"));
    lab.say(1, ended(3, "a", "terminated"));
    let reason = |lab: &Lab| lab.instance("a").unwrap().ended.unwrap().reason;
    assert_eq!(reason(&lab), EndReason::Exited);
    lab.running("b", 4);
    lab.close(1);
    lab.connect(2, "e2");
    lab.synced(2, 0, &[]);
    lab.say(2, ended(1, "b", "interrupted"));
    let lost = lab.instance("b").unwrap().ended.unwrap().reason;
    assert_eq!(lost, EndReason::Lost);
}

#[test]
fn an_absent_field_never_erases_a_stored_one() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    let mut full = record(1, "a", "ready");
    full["instance"]["image_digest"] = json!("sha256:1");
    full["instance"]["timeline"]["ready_at"] = json!("2026-01-01T00:00:05.000Z");
    full["instance"]["labels"] = json!({"k": "v"});
    lab.say(1, full);
    lab.close(1);
    lab.connect(2, "e2");
    let mut bare = record(1, "a", "running");
    bare["instance"].as_object_mut().unwrap().remove("image");
    bare["instance"]["labels"] = json!({});
    lab.say(2, bare);
    let kept = lab.instance("a").unwrap();
    assert_eq!(kept.phase, Phase::Running);
    assert_eq!(kept.image.as_deref(), Some("busybox"));
    assert_eq!(kept.image_digest.as_deref(), Some("sha256:1"));
    assert!(kept.timeline.ready_at.is_some() && kept.timeline.accepted_at.is_some());
    assert!(kept.labels.is_empty());
}

#[test]
fn within_an_epoch_the_higher_generation_counts_and_across_epochs_the_newer_session() {
    let mut lab = Lab::new();
    lab.running("a", 7);
    lab.record(1, 6, "a", "starting");
    assert_eq!(lab.instance("a").unwrap().phase, Phase::Ready);
    lab.close(1);
    lab.connect(2, "e2");
    lab.record(2, 1, "a", "running");
    assert_eq!(lab.instance("a").unwrap().phase, Phase::Running);
}

#[test]
fn an_extension_that_the_lease_does_not_show_is_sent_again() {
    let mut lab = Lab::new();
    lab.running("a", 1);
    let until = "2027-01-01T00:00:00.000Z";
    let extend = json!({"op": "extend", "instance_id": "a", "expires_at": until});
    let extend = lab.command(extend);
    lab.reply(1, &extend, "done");
    let leased = |generation, until: &str| {
        let mut leased = record(generation, "a", "ready");
        leased["instance"]["lease"] = json!({"expires_at": until});
        leased
    };
    lab.say(1, leased(2, until));
    assert_eq!(lab.commands(1).len(), 2);
    lab.close(1);
    lab.connect(2, "e2");
    lab.say(2, leased(1, "2026-06-01T00:00:00.000Z"));
    lab.synced(2, 1, &["a"]);
    let again = lab.commands(2);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0]["op"], "extend");
    assert_eq!(again[0]["expires_at"], until);
    lab.close(2);
    lab.connect(3, "e3");
    lab.record(3, 1, "a", "ready");
    lab.synced(3, 1, &["a"]);
    let about = lab.commands(3);
    assert!(about.iter().all(|c| c["expires_at"] == until), "{about:?}");
}

#[test]
fn a_wanted_drain_is_sent_again_when_the_status_differs() {
    let mut lab = Lab::new();
    let drain = lab.command(json!({"op": "drain"}));
    lab.connect(1, "e1");
    lab.heartbeat(1, false);
    assert_eq!(lab.commands(1).len(), 1);
    lab.reply(1, &drain, "done");
    lab.heartbeat(1, true);
    assert_eq!(lab.commands(1).len(), 1);
    lab.close(1);
    lab.connect(2, "e2");
    assert_eq!(lab.commands(2)[0]["op"], "drain");
}

#[test]
fn an_unasked_drain_is_ended_only_when_the_operator_ever_said_resume() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    lab.heartbeat(1, true);
    assert!(lab.commands(1).is_empty());
    let resume = lab.command(json!({"op": "resume"}));
    lab.reply(1, &resume, "done");
    lab.heartbeat(1, true);
    assert_eq!(lab.commands(1)[1]["op"], "resume");
}

#[test]
fn every_stored_record_is_acked_and_none_before_the_whole_state_is_there() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    lab.record(1, 9, "b", "ready");
    lab.record(1, 3, "a", "ready");
    assert!(lab.acks(1).is_empty());
    lab.synced(1, 9, &["a", "b"]);
    assert_eq!(lab.acks(1), [9]);
    lab.record(1, 10, "a", "ending");
    assert_eq!(lab.acks(1), [9, 10]);
    lab.state.set_acks(false, lab.now);
    lab.say(1, ended(11, "a", "exited"));
    assert_eq!(lab.acks(1), [9, 10]);
    let due = lab.state.set_acks(true, lab.now);
    lab.keep(due);
    assert_eq!(lab.acks(1), [9, 10, 11]);
}

#[test]
fn three_missed_heartbeats_are_said_once_and_end_nothing() {
    let mut lab = Lab::new();
    lab.running("a", 1);
    lab.later(Duration::from_secs(90));
    assert!(lab.view().reachable);
    lab.later(Duration::from_secs(1));
    lab.later(MINUTE * 600);
    assert!(!lab.view().reachable);
    let said = lab.notes().filter(|n| **n == Note::Unreachable).count();
    assert_eq!(said, 1);
    assert_eq!(lab.instance("a").unwrap().phase, Phase::Ready);
    lab.heartbeat(1, false);
    assert!(lab.view().reachable && lab.noted(|n| *n == Note::Reachable));
}

#[test]
fn only_the_first_final_reply_settles_a_command() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    let report = lab.command(json!({"op": "report"}));
    lab.reply(1, &report, "failed");
    lab.reply(1, &report, "done");
    let (reply, source) = lab.settled(&report).unwrap();
    assert_eq!((reply.outcome, source), (Outcome::Failed, Source::Agent));
    let all = lab.state.command(None, &report).unwrap().replies().len();
    assert_eq!(all, 2);
}

#[test]
fn an_instance_whose_deploy_was_rejected_says_why_there_is_no_record() {
    let mut lab = Lab::new();
    lab.connect(1, "e1");
    let deploy = lab.deploy("a");
    assert_eq!(lab.state.instance(None, &id("a")).unwrap().refused, None);
    let error = json!({"code": "draining", "message": "draining", "retry": "elsewhere"});
    lab.say(
        1,
        json!({"type": "reply", "command_id": deploy, "outcome": "rejected", "error": error}),
    );
    let view = lab.state.instance(None, &id("a")).unwrap();
    assert_eq!(
        view.refused.unwrap().code,
        crate::protocol::ErrorCode::Draining
    );
    assert!(view.record.is_none());
}

#[test]
fn no_command_id_comes_twice_not_even_in_another_life() {
    let (mut one, mut other) = (Lab::lived("x1"), Lab::lived("x2"));
    let report = || json!({"op": "report"});
    let all = [
        one.command(report()),
        one.command(report()),
        other.command(report()),
    ];
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), 3);
    let named = json!({"op": "report", "id": all[0]});
    let refused = one.state.submit(None, named, Care::AsTold, one.now);
    assert_eq!(refused.unwrap_err(), Refused::UsedCommand(all[0].clone()));
}

/// A step of a random life.
#[derive(Debug, Clone)]
enum Step {
    Connect { epoch: u8, boot: u8 },
    Close,
    Deploy { id: u8 },
    Terminate { id: u8 },
    Exec { id: u8 },
    Drain,
    Record { id: u8, phase: u8 },
    End { id: u8 },
    Synced { ids: u8 },
    Reply { command: usize, outcome: u8 },
    OldSessionSays { id: u8 },
    Later { minutes: u8 },
    Acks { on: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0u8..4;
    prop_oneof![
        (0u8..3, 0u8..8).prop_map(|(epoch, boot)| Step::Connect { epoch, boot }),
        Just(Step::Close),
        id.clone().prop_map(|id| Step::Deploy { id }),
        id.clone().prop_map(|id| Step::Terminate { id }),
        id.clone().prop_map(|id| Step::Exec { id }),
        Just(Step::Drain),
        (id.clone(), 0u8..5).prop_map(|(id, phase)| Step::Record { id, phase }),
        id.clone().prop_map(|id| Step::End { id }),
        (0u8..16).prop_map(|ids| Step::Synced { ids }),
        (any::<prop::sample::Index>(), 0u8..4).prop_map(|(command, outcome)| Step::Reply {
            command: command.index(64),
            outcome
        }),
        id.prop_map(|id| Step::OldSessionSays { id }),
        (0u8..12).prop_map(|minutes| Step::Later { minutes }),
        any::<bool>().prop_map(|on| Step::Acks { on }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever happens in whatever order: the same command is the same text, sent to a session at
    /// most once and never after its final reply; an ended record never changes; an ack never speaks
    /// for more than what came after a `synced`; nothing that this server did not deploy is ended.
    #[test]
    fn a_server_keeps_its_promises_in_any_order_of_events(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut life = Life::default();
        for step in steps {
            life.take(step);
            life.check()?;
        }
    }
}

/// A random life and what was promised in it so far.
#[derive(Default)]
struct Life {
    lab: Lab,
    sessions: u64,
    generation: u64,
    commands: Vec<CommandId>,
    ours: std::collections::BTreeSet<String>,
    ended: BTreeMap<String, Instance>,
    settled: BTreeMap<CommandId, usize>,
}

impl Life {
    fn take(&mut self, step: Step) {
        const PHASES: [&str; 5] = ["accepted", "pulling", "running", "ready", "ending"];
        const OUTCOMES: [&str; 4] = ["accepted", "done", "failed", "rejected"];
        let name = |id: u8| format!("i{id}");
        let now = self.lab.view_session().unwrap_or(self.sessions);
        self.generation += 1;
        match step {
            Step::Connect { epoch, boot } => {
                self.sessions += 1;
                self.lab.open(self.sessions);
                let boot = if boot == 0 { "other" } else { "boot" };
                self.lab
                    .say(self.sessions, hello(&format!("e{epoch}"), boot, false));
            }
            Step::Close => self.lab.close(now),
            Step::Deploy { id } => {
                let spec = json!({"instance_id": name(id), "image": "x"});
                let deploy = json!({"op": "deploy", "spec": spec});
                self.give(deploy, Care::Owed, Some(name(id)));
            }
            Step::Terminate { id } => {
                let terminate = json!({"op": "terminate", "instance_id": name(id)});
                self.give(terminate, Care::AsTold, Some(name(id)));
            }
            Step::Exec { id } => {
                let exec = json!({"op": "exec", "instance_id": name(id), "argv": ["a"]});
                self.give(exec, Care::AsTold, None);
            }
            Step::Drain => self.give(json!({"op": "drain"}), Care::AsTold, None),
            Step::Record { id, phase } => {
                let phase = PHASES[usize::from(phase)];
                self.lab.record(now, self.generation, &name(id), phase);
            }
            Step::End { id } => self
                .lab
                .say(now, ended(self.generation, &name(id), "exited")),
            Step::Synced { ids } => {
                let ids: Vec<String> = (0..4).filter(|n| ids & (1 << n) != 0).map(name).collect();
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                self.lab.synced(now, self.generation, &ids);
            }
            Step::Reply { command, outcome } => {
                if let Some(id) = self.commands.get(command).cloned() {
                    self.lab.reply(now, &id, OUTCOMES[usize::from(outcome)]);
                }
            }
            Step::OldSessionSays { id } => {
                let old = now.saturating_sub(1);
                self.lab.record(old, self.generation, &name(id), "ready");
            }
            Step::Later { minutes } => self.lab.later(MINUTE * u32::from(minutes)),
            Step::Acks { on } => {
                let outputs = self.lab.state.set_acks(on, self.lab.now);
                self.lab.keep(outputs);
            }
        }
    }

    fn give(&mut self, command: Value, care: Care, ours: Option<String>) {
        let now = self.lab.now;
        if let Ok((id, outputs)) = self.lab.state.submit(None, command, care, now) {
            self.lab.keep(outputs);
            self.commands.push(id);
            self.ours.extend(ours);
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let mut texts: BTreeMap<String, &Value> = BTreeMap::new();
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for (session, frame) in &self.lab.frames {
            match frame["type"].as_str().unwrap() {
                "command" => {
                    let id = frame["id"].as_str().unwrap().to_owned();
                    prop_assert_eq!(*texts.entry(id.clone()).or_insert(frame), frame);
                    prop_assert!(seen.insert((*session, id.clone())), "twice in a session");
                    *times.entry(id).or_default() += 1;
                    if frame["op"] == "terminate" {
                        let about = frame["instance_id"].as_str().unwrap();
                        let ended = self.ended.contains_key(about);
                        prop_assert!(self.ours.contains(about) || ended || self.has_ended(about));
                    }
                }
                "ack" => prop_assert!(frame["generation"].as_u64().unwrap() <= self.generation),
                _ => {}
            }
        }
        for id in &self.commands {
            let times = times.get(id.as_str()).copied().unwrap_or(0);
            if self.lab.settled(id).is_some() {
                let before = *self.settled.entry(id.clone()).or_insert(times);
                prop_assert_eq!(before, times, "sent after its final reply");
            }
        }
        for view in self.lab.state.instances() {
            if let Some(record) = view.record.filter(|r| r.phase == Phase::Ended) {
                let kept = self
                    .ended
                    .entry(view.id.to_string())
                    .or_insert(record.clone());
                prop_assert_eq!(&*kept, &record, "an end that changed");
            } else {
                prop_assert!(!self.ended.contains_key(view.id.as_str()), "an end undone");
            }
        }
        Ok(())
    }

    fn has_ended(&self, about: &str) -> bool {
        let record = self.lab.instance(about);
        record.is_some_and(|record| record.phase == Phase::Ended)
    }
}

/// Plays everybody around the state.
struct Lab {
    state: State,
    now: Now,
    frames: Vec<(SessionNo, Value)>,
    closes: Vec<(SessionNo, u16)>,
    notes: Vec<Note>,
}

impl Default for Lab {
    fn default() -> Self {
        Self::lived("t")
    }
}

impl Lab {
    fn new() -> Self {
        Self::default()
    }

    fn lived(life: &str) -> Self {
        let intervals = Intervals {
            heartbeat: Duration::from_secs(30),
            metrics: Duration::from_secs(10),
            health: MINUTE,
            reconnect_spread: Duration::from_secs(1),
        };
        Self {
            state: State::new(intervals, "dev".parse().unwrap(), life),
            now: Now {
                wall: Timestamp::from_millis(1_800_000_000_000),
                boot: Duration::from_secs(1000),
            },
            frames: Vec::new(),
            closes: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn input(&mut self, input: Input) {
        let outputs = self.state.handle(input, self.now);
        self.keep(outputs);
    }

    fn keep(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { session, text } => {
                    let frame = serde_json::from_str(&text).unwrap();
                    self.frames.push((session, frame));
                }
                Output::Close { session, code, .. } => self.closes.push((session, code)),
                Output::Note { note, .. } => self.notes.push(note),
            }
        }
    }

    fn open(&mut self, session: u64) {
        self.input(Input::Opened {
            session: SessionNo(session),
            agent: "dev".parse().unwrap(),
        });
    }

    fn connect(&mut self, session: u64, epoch: &str) {
        self.open(session);
        self.say(session, hello(epoch, "boot", false));
    }

    fn close(&mut self, session: u64) {
        let session = SessionNo(session);
        self.input(Input::Closed { session });
    }

    fn say(&mut self, session: u64, message: Value) {
        let frame = Frame::decode(&message.to_string()).expect("a message of version 1");
        self.input(Input::Frame {
            session: SessionNo(session),
            frame: Box::new(frame),
        });
    }

    fn record(&mut self, session: u64, generation: u64, id: &str, phase: &str) {
        self.say(session, record(generation, id, phase));
    }

    fn synced(&mut self, session: u64, generation: u64, ids: &[&str]) {
        let synced = json!({"type": "synced", "generation": generation, "ids": ids});
        self.say(session, synced);
    }

    fn reply(&mut self, session: u64, command: &CommandId, outcome: &str) {
        let reply = json!({"type": "reply", "command_id": command, "outcome": outcome});
        self.say(session, reply);
    }

    fn heartbeat(&mut self, session: u64, draining: bool) {
        let heartbeat = json!({
            "type": "heartbeat", "at": self.now.wall, "generation": 0,
            "status": status(draining), "occupied": {},
        });
        self.say(session, heartbeat);
    }

    /// In session 1, deployed by this server and ready.
    fn running(&mut self, id: &str, generation: u64) {
        let deploy = self.deploy(id);
        if self.view_session().is_none() {
            self.connect(1, "e1");
            self.synced(1, 0, &[]);
        }
        self.record(1, generation, id, "ready");
        self.reply(1, &deploy, "done");
    }

    fn later(&mut self, time: Duration) {
        self.now.boot += time;
        self.now.wall = self.now.wall.plus(time);
        self.input(Input::Tick);
    }

    fn deploy(&mut self, id: &str) -> CommandId {
        let spec = json!({"instance_id": id, "image": "busybox"});
        self.command(json!({"op": "deploy", "spec": spec}))
    }

    fn command(&mut self, command: Value) -> CommandId {
        let now = self.now;
        let (id, outputs) = self
            .state
            .submit(None, command, Care::AsTold, now)
            .expect("a command");
        self.keep(outputs);
        id
    }

    fn sent(&self, session: u64) -> Vec<Value> {
        let of = |(to, frame): &(SessionNo, Value)| (to.0 == session).then(|| frame.clone());
        self.frames.iter().filter_map(of).collect()
    }

    fn commands(&self, session: u64) -> Vec<Value> {
        let mut sent = self.sent(session);
        sent.retain(|frame| frame["type"] == "command");
        sent
    }

    fn acks(&self, session: u64) -> Vec<u64> {
        let mut sent = self.sent(session);
        sent.retain(|frame| frame["type"] == "ack");
        sent.iter()
            .map(|f| f["generation"].as_u64().unwrap())
            .collect()
    }

    fn closed(&self, session: u64) -> Option<u16> {
        let close = self.closes.iter().find(|(to, _)| to.0 == session);
        close.map(|(_, code)| *code)
    }

    fn settled(&self, id: &CommandId) -> Option<(crate::protocol::Reply, Source)> {
        let settled = self.state.command(None, id).unwrap().final_reply();
        settled.map(|(reply, source)| (reply.clone(), source))
    }

    fn instance(&self, name: &str) -> Option<Instance> {
        self.state.instance(None, &id(name))?.record
    }

    fn view(&self) -> AgentView {
        self.state.agent(None).unwrap()
    }

    fn view_session(&self) -> Option<u64> {
        Some(self.state.agent(None)?.session?.0)
    }

    fn notes(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter()
    }

    fn noted(&self, wanted: impl Fn(&Note) -> bool) -> bool {
        self.notes().any(wanted)
    }
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn ids(commands: &[Value]) -> Vec<&str> {
    commands.iter().map(|c| c["id"].as_str().unwrap()).collect()
}

impl PartialEq<&CommandId> for &str {
    fn eq(&self, id: &&CommandId) -> bool {
        *self == id.as_str()
    }
}

fn hello(epoch: &str, boot_id: &str, draining: bool) -> Value {
    json!({
        "type": "hello",
        "agent": {"id": "dev", "version": "0", "epoch": epoch, "started_at": "2026-01-01T00:00:00Z"},
        "host": {"boot_id": boot_id}, "gpus": [], "inventory_complete": true,
        "capacity": {}, "occupied": {}, "capabilities": {"ops": [], "spec": []},
        "status": status(draining),
    })
}

fn status(draining: bool) -> Value {
    json!({"engine": "ok", "draining": draining, "rentable": !draining})
}

fn record(generation: u64, id: &str, phase: &str) -> Value {
    let timeline = json!({"accepted_at": "2026-01-01T00:00:00.000Z"});
    let instance = json!({"id": id, "phase": phase, "image": "busybox", "timeline": timeline});
    json!({"type": "instance", "generation": generation, "instance": instance})
}

fn ended(generation: u64, id: &str, reason: &str) -> Value {
    let mut record = record(generation, id, "ended");
    record["instance"]["ended"] = json!({"reason": reason});
    record
}
