//! What the server commands, up to the moment in which something is killed.

use rental_agent::{dev::CommandTicket, ids::InstanceId};

use crate::{
    lab::Engine,
    world::{Spec, World, exits, sleeps},
};

/// A rental's way through the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// A deploy that succeeds.
    Deploy,
    /// The terminate of a rental that is ready.
    Terminate,
    /// A deploy whose container the engine cannot start.
    StartFails,
    /// A deploy of a program that the image does not have.
    NoProgram,
    /// A deploy of a program that ends at once.
    ExitsAtOnce,
}

/// The exit code of [`Story::ExitsAtOnce`].
pub(super) const EXIT_CODE: u8 = 3;

/// An image whose user does not exist: the engine finds that out at the start.
const NO_SUCH_USER: &str = "lab/no-such-user:1";

/// A story that has begun.
#[derive(Debug)]
pub(crate) struct Act {
    /// Which one.
    pub(crate) story: Story,
    /// Of whom.
    pub(crate) id: InstanceId,
    /// How it came.
    pub(crate) deploy: CommandTicket,
    /// How it went, where that is commanded.
    pub(crate) terminate: Option<CommandTicket>,
}

impl Story {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Deploy,
        Self::Terminate,
        Self::StartFails,
        Self::NoProgram,
        Self::ExitsAtOnce,
    ];

    /// Puts into the engine what the story needs.
    pub(crate) fn furnish(self, engine: &Engine) {
        let has = |image| {
            engine
                .try_docker(&["image", "inspect", image])
                .status
                .success()
        };
        if self == Self::StartFails && !has(NO_SUCH_USER) {
            engine.import(NO_SUCH_USER, &["USER no-such-user"]);
        }
    }

    /// What happens before the part that is watched. The world has one port, so that one which is not
    /// given back is noticed.
    pub(crate) async fn prepare(self, world: &mut World) -> Option<Act> {
        let port = world.first_port();
        world.set_env(
            "RENTAL_AGENT__NETWORK__PORT_RANGE",
            format!("{port}-{port}"),
        );
        world.up().await;
        if self != Self::Terminate {
            return None;
        }
        let (id, deploy) = world.deploy(&world.sleeper().port("web", 80));
        world.final_reply(&deploy).await;
        Some(Act {
            story: self,
            id,
            deploy,
            terminate: None,
        })
    }

    /// Whose calls are to be watched: of the rental that was prepared, or the next one.
    pub(crate) fn spec(self, world: &World) -> Spec {
        let spec = match self {
            Self::Deploy | Self::Terminate => world.sleeper(),
            Self::StartFails => Spec::new(&world.instance_id(), NO_SUCH_USER, &sleeps()),
            Self::NoProgram => world.spec(&["/no/such/program"]),
            Self::ExitsAtOnce => world.spec(&exits(EXIT_CODE)),
        };
        spec.port("web", 80)
    }

    /// Gives the command that is watched.
    pub(crate) fn begin(self, world: &World, spec: &Spec, prepared: Option<Act>) -> Act {
        match prepared {
            Some(mut act) => {
                act.terminate = Some(world.server.terminate(&act.id).unwrap());
                act
            }
            None => {
                let (id, deploy) = world.deploy(spec);
                Act {
                    story: self,
                    id,
                    deploy,
                    terminate: None,
                }
            }
        }
    }
}
