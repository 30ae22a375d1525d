//! What has to hold when the dust has settled: what was commanded, once, and nothing else.

use std::process::Command;

use rental_agent::{
    dev::AgentView,
    protocol::{EndReason, ErrorCode, Outcome, Phase, record::Resources},
};
use serde_json::{Value, json};

use crate::world::{SOON, World};

use super::story::{Act, EXIT_CODE, Story};

/// What the shell of an image says of a program that is not there.
const NOT_FOUND: i64 = 127;

/// A container that ran before the restart, by id and time of its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Witness {
    id: String,
    started_at: String,
}

impl Witness {
    /// Looks at the engine; `None` when nothing runs.
    pub(crate) async fn of(world: &World, act: &Act) -> Option<Self> {
        let seen = world.container(&act.id).await?;
        (seen.state == "running").then_some(Self {
            id: seen.id,
            started_at: seen.started_at,
        })
    }

    /// The same by the command-line client, for where nothing can be awaited.
    pub(crate) fn of_container(docker: &mut Command, name: &str) -> Option<Self> {
        let format = "{{.State.Running}} {{.Id}} {{.State.StartedAt}}";
        let output = docker
            .args(["inspect", "-f", format, name])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (id, started_at) = text.trim().strip_prefix("true ")?.split_once(' ')?;
        Some(Self {
            id: id.to_owned(),
            started_at: started_at.to_owned(),
        })
    }
}

impl Act {
    /// Waits for the end of the story and panics unless it is the right one. What ran when the agent
    /// died has to be what runs now, unless something else may have ended it.
    pub(crate) async fn conclude(mut self, world: &World, before: Option<Witness>) {
        match self.story {
            Story::Deploy => {
                self.assert_lives(world, before).await;
                self.terminate = Some(world.server.terminate(&self.id).unwrap());
                self.assert_terminated(world).await;
            }
            Story::Terminate => self.assert_terminated(world).await,
            Story::StartFails => self.assert_not_started(world).await,
            Story::NoProgram => self.assert_exited(world, NOT_FOUND).await,
            Story::ExitsAtOnce => self.assert_exited(world, i64::from(EXIT_CODE)).await,
        }
        assert!(world.container(&self.id).await.is_none());
        world.assert_clean().await;
        self.assert_one_end(world);
        world.assert_generations_grow();
        self.assert_nothing_is_held(world).await;
    }

    async fn assert_lives(&self, world: &World, before: Option<Witness>) {
        let reply = world.final_reply(&self.deploy).await;
        assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
        let record = world.wait_phase(&self.id, Phase::Ready).await;
        let now = Witness::of(world, self).await.expect("it runs");
        assert_eq!(record.container_id.unwrap().as_str(), now.id);
        assert!(
            before.is_none_or(|before| before == now),
            "it was started again"
        );
        assert_eq!(world.containers().await.len(), 1);
        let markers = world.markers(&self.id).await;
        assert_eq!(markers.keys().collect::<Vec<_>>(), ["lease.1"]);
        assert!(!world.phases(&self.id).contains(&"ended".to_owned()));
    }

    async fn assert_terminated(&self, world: &World) {
        let terminate = self.terminate.as_ref().unwrap();
        let reply = world.final_reply(terminate).await;
        assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
        assert_eq!(reply.result.unwrap(), json!({ "known": true }));
        world.wait_ended(&self.id, EndReason::Terminated).await;
        let deploys = world.server.replies(&self.deploy);
        assert_eq!(deploys.last().unwrap().outcome, Outcome::Done);
    }

    async fn assert_not_started(&self, world: &World) {
        let reply = world.final_reply(&self.deploy).await;
        assert_eq!(reply.outcome, Outcome::Failed, "{reply:?}");
        assert_eq!(reply.error.unwrap().code, ErrorCode::StartFailed);
        let record = world.wait_phase(&self.id, Phase::Ended).await;
        let ended = record.ended.clone().unwrap();
        // What the agent finds created and cannot start either may be the engine's doing.
        let interrupted = record.recovered && ended.reason == EndReason::Interrupted;
        assert!(
            interrupted || ended.reason == EndReason::Failed,
            "{record:?}"
        );
        assert_eq!(ended.error.unwrap().code, ErrorCode::StartFailed);
    }

    /// Whether it was ready before it ended is the engine's pace; the reply says the same in any case.
    async fn assert_exited(&self, world: &World, code: i64) {
        let reply = world.final_reply(&self.deploy).await;
        let record = world.wait_phase(&self.id, Phase::Ended).await;
        let ended = record.ended.unwrap();
        assert_eq!(ended.exit_code, Some(code), "{ended:?}");
        match ended.reason {
            EndReason::Failed => {
                assert_eq!(ended.error.unwrap().code, ErrorCode::ExitedEarly);
                assert_eq!(reply.outcome, Outcome::Failed, "{reply:?}");
                assert_eq!(reply.error.unwrap().code, ErrorCode::ExitedEarly);
            }
            reason => {
                assert_eq!(reason, EndReason::Exited);
                assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
            }
        }
    }

    /// However often it was told: the end is one, nothing follows it, and no reply contradicts another.
    fn assert_one_end(&self, world: &World) {
        let records = world.records(&self.id);
        let first = records.iter().position(|record| record["phase"] == "ended");
        let told = &records[first.expect("a final record")..];
        for record in told {
            assert_eq!(end(record), end(&told[0]), "{told:#?}");
        }
        for ticket in [Some(&self.deploy), self.terminate.as_ref()]
            .into_iter()
            .flatten()
        {
            let mut finals: Vec<Outcome> = world
                .server
                .replies(ticket)
                .iter()
                .map(|r| r.outcome)
                .collect();
            finals.retain(|outcome| matches!(outcome, Outcome::Done | Outcome::Failed));
            finals.dedup();
            assert_eq!(finals.len(), 1, "{:?}", world.server.replies(ticket));
        }
    }

    /// Of what the host has, all is free again, by the agent's own account; and nobody listens on the
    /// rental's port.
    async fn assert_nothing_is_held(&self, world: &World) {
        let is_free = |view: &AgentView| {
            let hello = view.hello.as_ref();
            hello.is_some_and(|hello| hello.occupied == Resources::default())
        };
        let waited = world
            .server
            .wait_agent("a host with nothing on it", is_free, SOON);
        waited.await.unwrap();
        assert!(!world.is_open(world.first_port()));
    }
}

/// What of a record may never change once it has ended. The log's tail is not kept over a crash.
fn end(record: &Value) -> Value {
    let ended = &record["ended"];
    json!({
        "phase": record["phase"],
        "reason": ended["reason"],
        "exit_code": ended["exit_code"],
        "error": ended["error"],
        "ended_at": record["timeline"]["ended_at"],
        "usage": record["usage"],
    })
}
