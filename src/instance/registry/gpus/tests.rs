//! What becomes of GPUs as the registry sees them: cleaned between tenants, told of when they ail.

use serde_json::json;

use super::super::tests::{Rig, gpu, gpus::evidence};
use super::*;
use crate::{
    gpu::{GpuProcess, Reading, Recovery, Vitals},
    instance::{
        effect::{EngineOp, OpOutput},
        registry::Input,
    },
    protocol::{
        Phase,
        record::{Condition, Gpu, GpuState},
    },
    runtime::gpus::Listed,
};

fn idle() -> Reading {
    Reading {
        processes: Some(Vec::new()),
        ..Reading::of(gpu().uuid)
    }
}

fn used() -> Reading {
    Reading {
        processes: Some(vec![GpuProcess {
            pid: 71,
            name: Some("python3".to_owned()),
            memory_bytes: None,
        }]),
        ..Reading::of(gpu().uuid)
    }
}

/// A rig whose GPU is looked at only when a test says so.
fn watched() -> Rig {
    let mut rig = Rig::new();
    rig.seen = None;
    rig.list_with(Vec::new());
    rig
}

/// A rental with the GPU is ready.
fn ready() -> Rig {
    let mut rig = watched();
    rig.look_and_see(idle());
    rig.deploy("c1", json!({ "gpus": { "count": 1 } }));
    rig.fetched();
    rig.run_ops();
    assert_eq!(rig.phase(), Phase::Ready);
    rig
}

fn state(rig: &Rig) -> GpuState {
    rig.registry.snapshot().gpus[0].state
}

fn condition(rig: &Rig, kind: &str) -> Option<Condition> {
    let record = &rig.registry.entries[&super::super::tests::instance()].record;
    let mut conditions = record.conditions.iter();
    conditions.find(|c| c.kind == kind).cloned()
}

#[test]
fn nothing_is_given_before_a_look_has_shown_it_idle() {
    let mut rig = watched();
    assert_eq!(state(&rig), GpuState::Unknown);
    rig.deploy("c1", json!({ "gpus": { "count": 1 } }));
    assert_eq!(rig.outcomes("c1"), [Outcome::Rejected]);
    rig.look_and_see(idle());
    assert_eq!(state(&rig), GpuState::Available);
    assert_eq!(rig.registry.snapshot().capacity.gpus, 1);
}

/// F71.
#[test]
fn f71_a_gpu_with_a_strangers_process_is_busy_and_the_error_names_it() {
    let mut rig = watched();
    rig.look_and_see(used());
    assert_eq!(state(&rig), GpuState::BusyExternal);
    rig.deploy("c1", json!({ "gpus": { "count": 1 } }));
    assert_eq!(rig.outcomes("c1"), [Outcome::Rejected]);
    let uuids = json!({ "gpus": { "uuids": [gpu().uuid] } });
    rig.deploy("c2", uuids);
    let error = rig.replies.last().unwrap().error.clone().unwrap();
    assert!(error.message.contains("process 71 (python3)"), "{error}");
}

/// F36, F72: `ended` and the terminate's `done` come after the GPUs are clean.
#[test]
fn f72_a_rental_is_ending_until_its_gpu_is_clean_and_says_who_is_on_it() {
    let mut rig = ready();
    rig.look_and_see(used());
    assert_eq!(condition(&rig, "gpu_unclean"), None, "its own process");
    rig.terminate("c2", json!({}));
    let looked = rig.looks;
    rig.run_ops();
    assert_eq!(rig.looks, looked + 1, "it asks for a look at once");
    assert_eq!(rig.phase(), Phase::Ending);
    assert_eq!(state(&rig), GpuState::Held);
    rig.pass(1);
    assert_eq!(rig.looks, looked + 2, "and again");
    rig.pass(1);
    rig.look_and_see(used());
    let unclean = condition(&rig, "gpu_unclean").unwrap();
    assert!(
        unclean.message.contains("process 71 (python3)"),
        "{unclean:?}"
    );
    assert_eq!(rig.outcomes("c2"), [Outcome::Accepted]);
    rig.look_and_see(idle());
    assert_eq!(rig.phase(), Phase::Ended);
    assert_eq!(rig.outcomes("c2"), [Outcome::Accepted, Outcome::Done]);
    assert_eq!(condition(&rig, "gpu_unclean"), None);
    assert_eq!(state(&rig), GpuState::Available);
}

#[test]
fn a_driver_that_is_silent_keeps_the_gpu_of_a_rental_that_has_ended() {
    let mut rig = ready();
    rig.terminate("c2", json!({}));
    rig.run_ops();
    for _ in 0..30 {
        rig.pass(10);
    }
    assert_eq!(rig.phase(), Phase::Ending);
    let unclean = condition(&rig, "gpu_unclean").unwrap();
    assert!(
        unclean.message.contains("the driver has not shown"),
        "{unclean:?}"
    );
    assert_eq!(rig.registry.snapshot().occupied.gpus, 1);
}

#[test]
fn a_rental_that_never_started_leaves_nothing_to_clean() {
    let mut rig = watched();
    rig.look_and_see(idle());
    rig.deploy("c1", json!({ "gpus": { "count": 1 } }));
    let looks = rig.looks;
    rig.terminate("c2", json!({}));
    rig.run_ops();
    assert_eq!(rig.phase(), Phase::Ended);
    assert_eq!((rig.looks, state(&rig)), (looks, GpuState::Available));
}

#[test]
fn a_wipe_that_fails_quarantines_the_gpu_and_lets_the_rental_end() {
    let mut rig = Rig::wiping();
    rig.seen = None;
    rig.list_with(Vec::new());
    rig.look_and_see(idle());
    rig.end_wipe(Wiped::Impossible("no CUDA".to_owned()));
    assert_eq!(state(&rig), GpuState::Available);
    rig.deploy("c1", json!({ "gpus": { "count": 1 } }));
    rig.fetched();
    rig.run_ops();
    rig.terminate("c2", json!({}));
    rig.run_ops();
    rig.look_and_see(idle());
    assert_eq!(rig.phase(), Phase::Ending, "while it is wiped");
    rig.end_wipe(Wiped::Failed("out of time".to_owned()));
    assert_eq!(rig.phase(), Phase::Ended);
    assert_eq!(state(&rig), GpuState::Quarantined);
}

/// F68.
#[test]
fn f68_a_rental_is_told_that_its_gpu_is_lost_and_that_it_is_back() {
    let mut rig = ready();
    let lost = Gpu {
        health: Health::Failed,
        health_reasons: vec!["the driver no longer lists it".to_owned()],
        ..gpu()
    };
    rig.list_gpu(lost);
    let told = condition(&rig, "gpu_lost").unwrap();
    assert!(told.message.contains("no longer lists it"), "{told:?}");
    let unknown = Gpu {
        health: Health::Unknown,
        ..gpu()
    };
    rig.list_gpu(unknown);
    assert!(
        condition(&rig, "gpu_lost").is_some(),
        "silence takes nothing back"
    );
    assert_eq!(rig.phase(), Phase::Ready);
    rig.list_gpu(gpu());
    for _ in 0..3 {
        rig.pass(60);
        rig.look_and_see(used());
    }
    assert_eq!(condition(&rig, "gpu_lost"), None);
    assert_eq!(condition(&rig, "gpu_failed"), None);
}

/// F68.
#[test]
fn f68_a_rental_is_told_what_an_xid_on_its_gpu_means() {
    let mut rig = ready();
    let uuid = gpu().uuid;
    let xid = |code| {
        Input::Xid(Xid {
            uuid: uuid.clone(),
            code,
        })
    };
    rig.feed(xid(45));
    assert_eq!(condition(&rig, "gpu_xid"), None);
    rig.feed(xid(31));
    assert_eq!(condition(&rig, "gpu_xid").unwrap().reason, "restart_app");
    assert_eq!(rig.registry.snapshot().gpus[0].health, Health::Ok);
    rig.feed(xid(119));
    assert_eq!(condition(&rig, "gpu_xid").unwrap().reason, "reset");
    let failed = condition(&rig, "gpu_failed").unwrap();
    assert!(failed.message.contains("Xid 119"), "{failed:?}");
    rig.terminate("c2", json!({}));
    rig.run_ops();
    assert_eq!(
        rig.phase(),
        Phase::Ended,
        "a quarantined GPU is not waited for"
    );
    assert_eq!(state(&rig), GpuState::Quarantined);
}

#[test]
fn a_gpu_that_fails_is_out_of_the_offer_until_three_good_tests() {
    let mut rig = watched();
    let sick = Reading {
        vitals: Vitals {
            recovery: Some(Recovery::ResetGpu),
            ..Vitals::default()
        },
        ..idle()
    };
    rig.look_and_see(idle());
    rig.look_and_see(sick);
    assert_eq!(state(&rig), GpuState::Quarantined);
    rig.deploy("c1", json!({ "gpus": { "count": 1 } }));
    let error = rig.replies.last().unwrap().error.clone().unwrap();
    assert_eq!(error.code, ErrorCode::GpuUnhealthy);
    for _ in 0..3 {
        assert_eq!(state(&rig), GpuState::Quarantined);
        rig.pass(60);
        rig.look_and_see(idle());
    }
    assert_eq!(state(&rig), GpuState::Available);
}

#[test]
fn a_gpu_is_quarantined_and_released_by_command() {
    let mut rig = watched();
    rig.look_and_see(idle());
    let uuid = gpu().uuid;
    rig.command(
        "c1",
        json!({ "op": "quarantine_gpu", "uuid": uuid, "reason": "it smells" }),
    );
    assert_eq!(rig.outcomes("c1"), [Outcome::Accepted, Outcome::Done]);
    assert_eq!(state(&rig), GpuState::Quarantined);
    rig.deploy("c2", json!({ "gpus": { "uuids": [uuid] } }));
    let error = rig.replies.last().unwrap().error.clone().unwrap();
    assert!(error.message.contains("it smells"), "{error}");
    rig.command("c3", json!({ "op": "release_gpu", "uuid": uuid }));
    assert_eq!(rig.outcomes("c3"), [Outcome::Accepted, Outcome::Done]);
    assert_eq!(state(&rig), GpuState::Available);
    for (id, op) in [("c4", "quarantine_gpu"), ("c5", "release_gpu")] {
        rig.command(id, json!({ "op": op, "uuid": "GPU-nowhere" }));
        let reply = rig.replies.last().unwrap();
        assert_eq!(reply.outcome, Outcome::Rejected);
        assert_eq!(reply.error.as_ref().unwrap().code, ErrorCode::NotFound);
    }
}

impl Rig {
    fn look_and_see(&mut self, reading: Reading) {
        self.feed(Input::GpuReadings(std::sync::Arc::new(Sampled {
            asked_at: self.now.boot,
            readings: vec![reading],
        })));
    }

    fn list_gpu(&mut self, gpu: Gpu) {
        self.feed(Input::Gpus {
            gpus: vec![gpu.into()],
            complete: true,
        });
    }

    fn end_wipe(&mut self, wiped: Wiped) {
        let uuid = self.wipes.pop().expect("a wipe");
        self.feed(Input::GpuWiped { uuid, wiped });
    }

    /// Lets the engine do all that is asked.
    fn run_ops(&mut self) {
        while let Some((id, op)) = self.ops.pop_front() {
            let running = Some(Box::new(self.running()));
            let output = match op {
                EngineOp::PutMarker(marker) => OpOutput::Marked(marker),
                EngineOp::Create(_) => OpOutput::Created(self.running().id),
                EngineOp::Holders { .. } => OpOutput::Holders(Vec::new()),
                EngineOp::Start { .. } => OpOutput::Started,
                EngineOp::Inspect { .. } => OpOutput::Inspected(running),
                EngineOp::Stop { .. } => OpOutput::Stopped,
                EngineOp::Examine { .. } => OpOutput::Examined(None, None),
                EngineOp::Remove { .. } => OpOutput::Removed,
                EngineOp::Verify { .. } => OpOutput::Verified(None, false),
                EngineOp::SeeGpus { .. } => OpOutput::GpusSeen(evidence(Listed::Unasked)),
                EngineOp::Remake { .. } | EngineOp::RemoveMarkers(_) => panic!("{op:?}"),
            };
            self.answer(id, Ok(output));
        }
    }
}
