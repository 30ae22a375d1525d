//! What the agent said to the server, in the order in which it came.

use std::{collections::BTreeMap, time::Duration};

use rental_agent::{
    dev::{AgentView, CommandTicket, LoggedFrame},
    ids::InstanceId,
    protocol::record::EngineStatus,
};
use serde_json::Value;

use super::{
    host::World,
    wait::{LATER, SOON, wait_for},
};

impl World {
    /// The phases that records of this rental showed, without repetitions.
    pub(crate) fn phases(&self, id: &InstanceId) -> Vec<String> {
        let mut phases: Vec<String> = self
            .records(id)
            .iter()
            .map(|record| record["phase"].as_str().unwrap().to_owned())
            .collect();
        phases.dedup();
        phases
    }

    /// All records of this rental, repeated ones included.
    pub(crate) fn records(&self, id: &InstanceId) -> Vec<Value> {
        let frames = self.server.frames().into_iter().map(|logged| logged.frame);
        let of_id = |frame: Value| {
            let instance = &frame["instance"];
            (frame["type"] == "instance" && instance["id"] == id.as_str()).then(|| instance.clone())
        };
        frames.filter_map(of_id).collect()
    }

    /// What was told of the rental's pull, in order.
    pub(crate) fn progress(&self, id: &InstanceId) -> Vec<Value> {
        let frames = self.progress_frames(id).into_iter();
        frames.map(|mut frame| frame["pull"].take()).collect()
    }

    /// What people were told of the rental's pull, in order.
    pub(crate) fn progress_messages(&self, id: &InstanceId) -> Vec<String> {
        let frames = self.progress_frames(id).into_iter();
        let message = |frame: Value| frame["message"].as_str().unwrap().to_owned();
        frames.map(message).collect()
    }

    fn progress_frames(&self, id: &InstanceId) -> Vec<Value> {
        let frames = self.server.frames().into_iter().map(|logged| logged.frame);
        let is_it =
            |frame: &Value| frame["type"] == "progress" && frame["instance_id"] == id.as_str();
        frames.filter(is_it).collect()
    }

    /// Records of a rental and replies to commands in their order: `instance <phase>` and
    /// `reply <which of the commands> <outcome>`.
    pub(crate) fn story(&self, id: &InstanceId, commands: &[&CommandTicket]) -> Vec<String> {
        let step = |LoggedFrame { frame, .. }: LoggedFrame| {
            if frame["type"] == "instance" && frame["instance"]["id"] == id.as_str() {
                let phase = frame["instance"]["phase"].as_str()?;
                return Some(format!("instance {phase}"));
            }
            let is_it = |c: &&CommandTicket| frame["command_id"] == c.id.as_str();
            let which = commands.iter().position(is_it);
            let outcome = frame["outcome"].as_str()?;
            Some(format!("reply {} {outcome}", which?))
        };
        self.server.frames().into_iter().filter_map(step).collect()
    }

    /// The first frame of this type that has come or comes.
    pub(crate) async fn wait_frame(&self, kind: &str) -> Value {
        let is_it =
            |logged: &LoggedFrame| (logged.frame["type"] == kind).then(|| logged.frame.clone());
        self.server.wait_frame(kind, is_it, SOON).await.unwrap()
    }

    /// Waits until the agent says that nothing is rented.
    pub(crate) async fn wait_idle(&self) {
        let idle = |view: &AgentView| {
            let hello = view.hello.as_ref();
            hello.is_some_and(|hello| {
                let occupied = &hello.occupied;
                (occupied.instances, occupied.gpus, occupied.memory_bytes) == (0, 0, 0)
            })
        };
        self.server
            .wait_agent("an agent without rentals", idle, SOON)
            .await
            .unwrap();
    }

    /// Waits until a connected agent says this of its engine.
    pub(crate) async fn wait_engine(&self, status: EngineStatus, limit: Duration) -> AgentView {
        let is_so = |view: &AgentView| {
            let hello = view.hello.as_ref();
            view.session.is_some() && hello.is_some_and(|hello| hello.status.engine == status)
        };
        let what = format!("an engine that is {status:?}");
        let waited = self.server.wait_agent(&what, is_so, limit);
        waited.await.unwrap()
    }

    /// Waits until so many more heartbeats (one a second) have come: for what must not happen.
    pub(crate) async fn wait_heartbeats(&self, count: usize) {
        let seen = || {
            let frames = self.server.frames();
            frames
                .iter()
                .filter(|logged| logged.frame["type"] == "heartbeat")
                .count()
        };
        let before = seen();
        wait_for("heartbeats", LATER, || seen() >= before + count).await;
    }

    /// Panics unless each epoch's records came with generations that grow, and no record of a
    /// session is older than what an earlier session of that epoch showed of the same rental.
    pub(crate) fn assert_generations_grow(&self) {
        let mut epoch = String::new();
        let mut newest: BTreeMap<(String, String), u64> = BTreeMap::new();
        for LoggedFrame { frame, .. } in self.server.frames() {
            if frame["type"] == "hello" {
                epoch = frame["agent"]["epoch"].as_str().unwrap().to_owned();
            }
            if frame["type"] == "instance" {
                let id = frame["instance"]["id"].as_str().unwrap().to_owned();
                let generation = frame["generation"].as_u64().unwrap();
                let before = newest.insert((epoch.clone(), id), generation);
                assert!(before.is_none_or(|before| before <= generation), "{frame}");
            }
        }
    }
}
