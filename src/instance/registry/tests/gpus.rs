//! How GPUs get into containers, and whether they did.

use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::{
    config::{Numa, OnMissingRuntime, Verify},
    gpu::{Reading, Sampled},
    protocol::record::{Condition, GpuState},
    runtime::{
        ContainerPlan,
        gpus::{Evidence, Handing, Listed},
    },
};

const NO_RUNTIME: &str = "could not select device driver \"\" with capabilities: [[gpu]]";

pub(in crate::instance::registry) fn evidence(listed: Listed) -> Option<Box<Evidence>> {
    Some(Box::new(Evidence {
        container: "a".repeat(64).parse().unwrap(),
        runs: true,
        configured: vec![gpu().uuid.to_string()],
        visible: None,
        nodes: None,
        host_nodes: BTreeSet::new(),
        listed,
    }))
}

fn listed(uuids: &[&str]) -> Listed {
    Listed::Gpus(uuids.iter().map(|&uuid| uuid.to_owned()).collect())
}

fn lost() -> Listed {
    Listed::Failed("Failed to initialize NVML: Unknown Error".to_owned())
}

impl Rig {
    /// A look shows that nobody is on any of these.
    fn see_idle(&mut self, uuids: &[&str]) {
        self.seen = None;
        let readings = uuids.iter().map(|uuid| Reading::of(uuid.parse().unwrap()));
        let readings = readings.collect();
        self.feed(Input::GpuReadings(Arc::new(Sampled {
            asked_at: self.now.boot,
            readings,
        })));
    }

    fn condition(&self, kind: &str) -> Option<&Condition> {
        let conditions = &self.registry.entries[&instance()].record.conditions;
        conditions.iter().find(|condition| condition.kind == kind)
    }

    /// The rental's GPUs are to be looked at: this is seen.
    fn see(&mut self, seen: Option<Box<Evidence>>) -> bool {
        let (id, op) = self.op();
        let EngineOp::SeeGpus { inside, .. } = op else {
            panic!("GPUs are to be looked at, not {op:?}");
        };
        self.answer(id, Ok(OpOutput::GpusSeen(seen)));
        inside
    }

    fn inspected(&mut self) {
        let (id, op) = self.op();
        assert!(matches!(op, EngineOp::Inspect { .. }), "{op:?}");
        let seen = Some(Box::new(self.running()));
        self.answer(id, Ok(OpOutput::Inspected(seen)));
    }

    fn created(&mut self) -> ContainerPlan {
        let (id, op) = self.op();
        let EngineOp::Create(plan) = op else {
            panic!("a container is to be made, not {op:?}");
        };
        let container = "a".repeat(64).parse().unwrap();
        self.answer(id, Ok(OpOutput::Created(container)));
        *plan
    }

    /// Nobody else has its GPUs, and the start fails.
    fn start_fails(&mut self, message: &str) {
        let (mut id, mut op) = self.op();
        if matches!(op, EngineOp::Holders { .. }) {
            self.answer(id, Ok(OpOutput::Holders(Vec::new())));
            (id, op) = self.op();
        }
        assert!(matches!(op, EngineOp::Start { .. }), "{op:?}");
        let error = RuntimeError::new("start", "rental-r-1", Class::GpuRuntime, message);
        self.answer(id, Err(error));
    }

    fn removed(&mut self) {
        let (id, op) = self.op();
        assert!(matches!(op, EngineOp::Remove { .. }), "{op:?}");
        self.answer(id, Ok(OpOutput::Removed));
    }

    fn deploy_with_gpu(&mut self, gpus: Value) -> ContainerPlan {
        let more = json!({ "gpus": gpus, "cpus": 1, "memory_bytes": 1 << 30 });
        self.deploy("c1", more);
        self.fetched();
        self.created()
    }

    fn dry_run(&mut self, command: &str, gpus: Value) -> Reply {
        let spec = json!({ "instance_id": "other", "image": "alpha", "gpus": gpus });
        let body = json!({ "op": "deploy", "spec": spec, "dry_run": true });
        self.command(command, body);
        let mut replies = self.replies.iter();
        let mine = |reply: &&Reply| reply.command_id.as_str() == command;
        replies.rfind(mine).expect("a reply").clone()
    }

    fn engine_up(&mut self, cdi_devices: &[&str]) {
        self.feed(Input::EngineUp {
            facts: Box::new(EngineFacts {
                security_options: vec!["seccomp".to_owned()],
                cdi_devices: cdi_devices.iter().map(|&name| name.to_owned()).collect(),
                ..EngineFacts::default()
            }),
            disks: Vec::new(),
        });
    }
}

#[test]
fn a_rental_is_ready_when_its_gpus_were_seen_and_its_record_says_how() {
    let mut rig = Rig::new();
    rig.list_with(vec![rig.running()]);
    assert!(rig.see(evidence(listed(&["GPU-00000001"]))));
    rig.mark();
    assert_ne!(rig.phase(), Phase::Ready);
    rig.inspected();
    assert_eq!(rig.phase(), Phase::Ready);
    assert_eq!(rig.condition("gpus_verified").unwrap().reason, "nvidia_smi");
}

#[test]
fn a_rental_that_shows_other_gpus_fails_and_says_what_was_seen() {
    let mut rig = Rig::new();
    rig.list_with(vec![rig.running()]);
    rig.see(evidence(listed(&["GPU-00000002"])));
    let end = rig.registry.entries[&instance()].end().unwrap();
    let error = end.error.as_ref().unwrap();
    assert_eq!(end.reason, EndReason::Failed);
    assert_eq!(error.code, ErrorCode::GpuUnavailable);
    assert!(error.message.contains("GPU-00000002"), "{error}");
    assert!(matches!(rig.op().1, EngineOp::Stop { .. }));
}

#[test]
fn what_cannot_be_seen_fails_a_rental_only_where_that_is_asked() {
    for (verify, phase) in [
        (Verify::BestEffort, Phase::Running),
        (Verify::Strict, Phase::Ending),
    ] {
        let mut rig = Rig::new();
        rig.registry.options.gpu_rules.verify = verify;
        rig.list_with(vec![rig.running()]);
        rig.see(evidence(Listed::Unasked));
        assert_eq!(rig.phase(), phase, "{verify:?}");
        let verified = rig.condition("gpus_verified").map(|c| c.reason.as_str());
        assert_eq!(verified, (phase == Phase::Running).then_some("inspect"));
    }
    let mut rig = Rig::new();
    rig.registry.options.gpu_rules.verify = Verify::Off;
    rig.list_with(vec![rig.running()]);
    rig.mark();
    rig.inspected();
    assert_eq!(rig.phase(), Phase::Ready);
    assert_eq!(rig.condition("gpus_verified"), None);
}

#[test]
fn one_that_has_ended_meanwhile_is_looked_at_and_not_judged() {
    let mut rig = Rig::new();
    rig.list_with(vec![rig.running()]);
    rig.see(None);
    rig.pass(1);
    assert!(matches!(rig.op().1, EngineOp::Inspect { .. }));
    assert_ne!(rig.phase(), Phase::Ending);
}

/// F42: a reload of the host's services takes the devices from containers that run.
#[test]
fn gpus_that_are_not_to_be_seen_any_more_are_told_until_they_are_back() {
    let mut rig = Rig::new();
    let lease = rig.lease();
    let all = |rig: &mut Rig| {
        let running = rig.running();
        rig.list_all(vec![running], vec![lease.clone()]);
    };
    all(&mut rig);
    assert_eq!(rig.phase(), Phase::Ready);
    rig.see(evidence(listed(&["GPU-00000001"])));
    assert!(rig.ops.is_empty(), "{:?}", rig.ops);
    rig.pass(2);
    all(&mut rig);
    rig.see(evidence(lost()));
    let condition = rig.condition("gpu_lost").expect("it is told");
    assert_eq!(condition.reason, "not_visible");
    assert!(condition.message.contains("Unknown Error"), "{condition:?}");
    assert_eq!(rig.phase(), Phase::Ready);
    rig.pass(8);
    all(&mut rig);
    // While a look is under way there is no second one.
    rig.pass(30);
    all(&mut rig);
    assert_eq!(rig.ops.len(), 1, "{:?}", rig.ops);
    rig.see(evidence(listed(&["GPU-00000001"])));
    assert_eq!(rig.condition("gpu_lost"), None);
}

#[test]
fn where_only_the_engine_can_be_asked_nobody_looks_again() {
    let mut rig = Rig::new();
    let lease = rig.lease();
    for seconds in [0, 2, 8, 30] {
        rig.pass(seconds);
        let running = rig.running();
        rig.list_all(vec![running], vec![lease.clone()]);
        if seconds == 0 {
            rig.see(evidence(Listed::Unasked));
        }
        assert!(rig.ops.is_empty(), "{:?}", rig.ops);
    }
}

#[test]
fn gpus_go_by_cdi_where_the_engine_has_all_of_them_and_else_by_a_request() {
    let name = "nvidia.com/gpu=GPU-00000001";
    for (devices, handing) in [
        (&[name][..], Handing::Cdi),
        (
            &["nvidia.com/gpu=0", "nvidia.com/gpu=all"],
            Handing::Request,
        ),
        (&[], Handing::Request),
    ] {
        let mut rig = Rig::new();
        rig.engine_up(devices);
        rig.list_with(Vec::new());
        let plan = rig.deploy_with_gpu(json!({ "count": 1 }));
        assert_eq!(plan.handing, handing);
    }
}

#[test]
fn where_cdi_fails_the_container_is_made_anew_with_a_request_once() {
    let mut rig = Rig::new();
    rig.engine_up(&["nvidia.com/gpu=GPU-00000001"]);
    rig.list_with(Vec::new());
    rig.deploy_with_gpu(json!({ "count": 1 }));
    rig.start_fails("CDI device injection failed: unresolvable CDI devices");
    rig.removed();
    let plan = rig.created();
    assert_eq!(plan.handing, Handing::Request);
    assert_eq!(plan.gpus, [gpu().uuid]);
    rig.start_fails("nvidia-container-cli: initialization error");
    assert_eq!(rig.phase(), Phase::Ending);
}

#[test]
fn an_engine_without_a_gpu_runtime_is_asked_once_in_its_life() {
    let mut rig = Rig::new();
    rig.list_with(Vec::new());
    rig.deploy_with_gpu(json!({ "count": 1 }));
    rig.start_fails(NO_RUNTIME);
    rig.end();
    let reply = rig.dry_run("c2", json!({ "count": 1 }));
    let error = reply.error.unwrap();
    assert_eq!(
        (reply.outcome, error.code),
        (Outcome::Rejected, ErrorCode::GpuRuntimeMissing)
    );
    assert!(error.message.contains("container toolkit"), "{error}");
    let error = rig.dry_run("c3", json!({ "uuids": ["GPU-unknown"] })).error;
    assert_eq!(error.unwrap().code, ErrorCode::GpuUnavailable);
    assert_eq!(rig.dry_run("c4", Value::Null).outcome, Outcome::Done);
    // Another life of the engine may have one.
    rig.engine_up(&[]);
    assert_eq!(
        rig.dry_run("c5", json!({ "count": 1 })).outcome,
        Outcome::Done
    );
}

#[test]
fn a_rental_that_can_do_without_gpus_does_where_the_host_allows_it() {
    let optional = json!({ "count": 1, "optional": true });
    let mut rig = Rig::new();
    rig.registry.options.gpu_rules.on_missing_runtime = OnMissingRuntime::Cpu;
    rig.list_with(Vec::new());
    rig.deploy_with_gpu(optional.clone());
    rig.start_fails(NO_RUNTIME);
    assert_eq!(
        rig.condition("gpus_missing").unwrap().reason,
        "gpu_runtime_missing"
    );
    rig.removed();
    let plan = rig.created();
    assert!(plan.gpus.is_empty());
    assert!(rig.registry.entries[&instance()].record.gpus.is_empty());
    assert!(matches!(rig.op().1, EngineOp::Start { .. }));
    let state = rig.registry.snapshot().gpus[0].state;
    assert_eq!(state, GpuState::Available);
    // By now it is known.
    let result = rig.dry_run("c2", optional).result.unwrap();
    assert_eq!(result["gpus"], json!([]));
    let strict = rig.dry_run("c3", json!({ "count": 1 }));
    assert_eq!(strict.error.unwrap().code, ErrorCode::GpuRuntimeMissing);

    let mut rig = Rig::new();
    rig.list_with(Vec::new());
    rig.deploy_with_gpu(json!({ "count": 1, "optional": true }));
    rig.start_fails(NO_RUNTIME);
    assert_eq!(rig.phase(), Phase::Ending, "the host does not allow it");
}

/// F71.
#[test]
fn a_gpu_that_a_foreign_container_holds_in_whatever_words_is_busy() {
    let second = Gpu {
        index: 1,
        ..Gpu::bare("GPU-00000002".parse().unwrap(), "nvidia")
    };
    let found = |gpu: Gpu| Found {
        nodes: vec![format!("/dev/nvidia{}", gpu.index)],
        gpu,
    };
    let busy = |word: &str| -> Vec<GpuState> {
        let mut rig = Rig::new();
        let stranger = Observed {
            name: "stranger".to_owned(),
            labels: Default::default(),
            devices: vec![word.to_owned()],
            ..rig.running()
        };
        rig.list_with(vec![stranger]);
        // A GPU that turns up later is held as well.
        rig.feed(Input::Gpus {
            gpus: vec![found(gpu()), found(second.clone())],
            complete: true,
        });
        rig.see_idle(&["GPU-00000001", "GPU-00000002"]);
        let gpus = rig.registry.snapshot().gpus;
        gpus.iter().map(|gpu| gpu.state).collect()
    };
    use GpuState::{Available, BusyExternal};
    for word in ["1", "GPU-00000002", "nvidia.com/gpu=1", "/dev/nvidia1"] {
        assert_eq!(busy(word), [Available, BusyExternal], "{word}");
    }
    assert_eq!(busy("all"), [BusyExternal, BusyExternal]);
    assert_eq!(busy("/dev/nvidia7"), [Available, Available]);
}

#[test]
fn gpus_of_other_vendors_go_as_their_device_files() {
    let amd = Gpu::bare("GPU-amd".parse().unwrap(), "amd");
    let mut rig = Rig::new();
    let node = "/dev/dri/renderD128".to_owned();
    rig.feed(Input::Gpus {
        gpus: vec![
            Found {
                gpu: amd.clone(),
                nodes: vec![node.clone()],
            },
            Gpu::bare("tpu-0".parse().unwrap(), "google").into(),
        ],
        complete: true,
    });
    rig.list_with(Vec::new());
    rig.see_idle(&["tpu-0", "GPU-amd"]);
    let unknown = rig
        .dry_run("c0", json!({ "uuids": ["tpu-0"] }))
        .error
        .unwrap();
    assert!(unknown.message.contains("device files"), "{unknown}");
    let plan = rig.deploy_with_gpu(json!({ "uuids": ["GPU-amd"] }));
    assert_eq!(
        plan.handing,
        Handing::Files(vec![node, "/dev/kfd".to_owned()])
    );
}

#[test]
fn processors_near_the_gpus_are_preferred_for_whole_cores() {
    let near = Gpu {
        numa_node: Some(1),
        cpu_affinity: Some("4-7".to_owned()),
        ..gpu()
    };
    for (cpus, numa, expected) in [
        (json!(2), Numa::Prefer, Some("4-7")),
        (json!(2), Numa::Off, None),
        (json!(1.5), Numa::Prefer, None),
        (json!(5), Numa::Prefer, None),
        (Value::Null, Numa::Prefer, None),
    ] {
        let mut rig = Rig::new();
        rig.registry.options.limits.numa = numa;
        rig.feed(Input::Gpus {
            gpus: vec![near.clone().into()],
            complete: true,
        });
        rig.list_with(Vec::new());
        rig.deploy("c1", json!({ "gpus": { "count": 1 }, "cpus": cpus }));
        rig.fetched();
        assert_eq!(rig.created().cpuset.as_deref(), expected, "{cpus} {numa:?}");
    }
}
