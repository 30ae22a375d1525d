//! F55: a terminate at each point of a rental's life, and whatever becomes of its command on the way.
//! In each of the 25 cases the terminate is done, the rental has ended once, and nothing is left.

use rental_agent::{
    dev::CommandTicket,
    ids::InstanceId,
    protocol::{EndReason, ErrorCode, Outcome, Phase},
};
use serde_json::json;

use crate::{
    lab::{Engine, EngineProxy, InForce, Repository, Side, StubRegistry},
    world::{SOON, Spec, World, container_name, sleeps, wait_for},
};

/// Where the rental is when the terminate is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its deploy comes after the terminate.
    BeforeDeploy,
    Pulling,
    Creating,
    Ready,
    /// It has ended by itself and its container is still there.
    Exited,
}

/// What becomes of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    /// Two terminates.
    Twice,
    /// One, sent four times.
    Again,
    /// The connection is lost right after it was sent.
    Dropped,
    /// The agent is killed right after it was sent.
    Killed,
}

const WAYS: [Way; 5] = [
    Way::Plain,
    Way::Twice,
    Way::Again,
    Way::Dropped,
    Way::Killed,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_before_the_deploy_wins_whatever_becomes_of_it() {
    row(Standing::BeforeDeploy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_within_the_pull_wins_whatever_becomes_of_it() {
    row(Standing::Pulling).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_within_the_create_wins_whatever_becomes_of_it() {
    row(Standing::Creating).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_of_a_ready_rental_wins_whatever_becomes_of_it() {
    row(Standing::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_after_the_exit_is_done_whatever_becomes_of_it() {
    row(Standing::Exited).await;
}

/// All five ways, at once: each in a world of its own.
async fn row(standing: Standing) {
    let [plain, twice, again, dropped, killed] = WAYS.map(|way| Case::run(standing, way));
    tokio::join!(plain, twice, again, dropped, killed);
}

struct Case {
    world: World,
    proxy: EngineProxy,
    registry: StubRegistry,
    spec: Spec,
    deploy: Option<CommandTicket>,
    /// What keeps the rental where it is.
    held: Option<InForce>,
}

impl Case {
    async fn run(standing: Standing, way: Way) {
        let mut case = Self::begin(standing).await;
        case.bring_to(standing).await;
        let terminates = case.terminate(way).await;
        if standing == Standing::BeforeDeploy {
            let late = json!({ "op": "deploy", "spec": case.spec.json() });
            case.deploy = Some(case.world.server.command(late).unwrap());
        }
        if let Way::Plain | Way::Twice | Way::Again = way {
            let first = case.world.server.wait_reply(&terminates[0], SOON);
            first.await.unwrap();
        }
        if let Some(held) = case.held.take() {
            held.release();
        }
        for ticket in &terminates {
            let reply = case.world.final_reply(ticket).await;
            assert_eq!(
                reply.outcome,
                Outcome::Done,
                "{standing:?} {way:?}: {reply:?}"
            );
        }
        case.check(standing, way).await;
    }

    async fn begin(standing: Standing) -> Self {
        let registry = StubRegistry::start(&Engine::shared());
        let mut world = World::shared().await;
        let allowed = json!([registry.address(), "docker.io"]).to_string();
        world.set_env("RENTAL_AGENT__POLICY__ALLOWED_REGISTRIES", allowed);
        let proxy = world.behind_proxy();
        world.up().await;
        let spec = match standing {
            Standing::Pulling => {
                let image = registry.reference(Repository::Stalled);
                Spec::new(&world.instance_id(), &image, &sleeps())
            }
            _ => world.sleeper(),
        };
        Self {
            world,
            proxy,
            registry,
            spec,
            deploy: None,
            held: None,
        }
    }

    fn id(&self) -> InstanceId {
        self.spec.id()
    }

    async fn bring_to(&mut self, standing: Standing) {
        let id = self.id();
        let name = container_name(&id);
        let held = match standing {
            Standing::BeforeDeploy => return,
            Standing::Pulling | Standing::Ready => None,
            Standing::Creating => Some(("POST", "/containers/create")),
            Standing::Exited => Some(("DELETE", &*name)),
        };
        let held = held.map(|(method, path)| self.proxy.hold(method, path, Side::BeforeEngine));
        self.deploy = Some(self.world.deploy(&self.spec).1);
        match standing {
            Standing::BeforeDeploy => {}
            Standing::Pulling => {
                let blobs = |request: &String| request.contains("/blobs/");
                let asked = || self.registry.requests().iter().filter(|r| blobs(r)).count() >= 2;
                wait_for("the layer", SOON, asked).await;
            }
            Standing::Creating => {
                let held = held.as_ref().unwrap();
                wait_for("the create", SOON, || held.met() == 1).await;
            }
            Standing::Ready => drop(self.world.wait_phase(&id, Phase::Ready).await),
            Standing::Exited => {
                self.world.wait_phase(&id, Phase::Ready).await;
                self.world.signal_container(&id, "KILL").await;
                let held = held.as_ref().unwrap();
                wait_for("the removal", SOON, || held.met() == 1).await;
            }
        }
        self.held = held;
    }

    async fn terminate(&mut self, way: Way) -> Vec<CommandTicket> {
        let server = self.world.server.clone();
        let ticket = server.terminate(&self.id()).unwrap();
        match way {
            Way::Plain => vec![ticket],
            Way::Twice => vec![ticket, server.terminate(&self.id()).unwrap()],
            Way::Again => {
                for _ in 0..3 {
                    server.send_again(&ticket);
                }
                vec![ticket]
            }
            Way::Dropped => {
                server.drop_connection();
                vec![ticket]
            }
            Way::Killed => {
                self.world.kill_agent();
                self.held = None;
                self.world.up().await;
                vec![ticket]
            }
        }
    }

    async fn check(self, standing: Standing, way: Way) {
        let what = format!("{standing:?} {way:?}");
        let id = self.id();
        let reply = self.world.final_reply(&self.deploy.unwrap()).await;
        let record = self.world.wait_phase(&id, Phase::Ended).await;
        let reason = record.ended.unwrap().reason;
        let code = reply.error.map(|error| error.code);
        match standing {
            Standing::BeforeDeploy => {
                assert_eq!(reason, EndReason::Cancelled, "{what}");
                assert_eq!(reply.outcome, Outcome::Rejected, "{what}");
                assert_eq!(code, Some(ErrorCode::Conflict), "{what}");
            }
            Standing::Pulling | Standing::Creating => {
                assert_eq!(reason, EndReason::Terminated, "{what}");
                // One that was lost on the way comes again when the deploy is done or known no more.
                let lost = matches!(way, Way::Dropped | Way::Killed);
                match reply.outcome {
                    Outcome::Done if lost => {}
                    Outcome::Rejected if lost => {
                        assert_eq!(code, Some(ErrorCode::Conflict), "{what}");
                    }
                    outcome => {
                        assert_eq!(outcome, Outcome::Failed, "{what}");
                        assert_eq!(code, Some(ErrorCode::Cancelled), "{what}");
                        assert!(lost || record.timeline.running_at.is_none(), "{what}");
                    }
                }
            }
            Standing::Ready => {
                assert_eq!(reason, EndReason::Terminated, "{what}");
                assert_eq!(reply.outcome, Outcome::Done, "{what}");
            }
            Standing::Exited => {
                assert_eq!(reason, EndReason::Exited, "{what}");
                assert_eq!(reply.outcome, Outcome::Done, "{what}");
            }
        }
        assert!(self.world.container(&id).await.is_none(), "{what}");
        self.world.assert_generations_grow();
        self.world.assert_clean().await;
    }
}
