//! The agent is killed at every call by which it changes something in the engine: before the engine
//! sees the call, and after the engine has answered and before the agent has heard it. Which calls
//! there are is found by watching an undisturbed run, so that a new call is covered by itself.
//!
//! After each kill the agent is started again and the server does what it owes; then there is what was
//! commanded and nothing else. Each test prints call × side × count.

mod kill;
mod matrix;
mod story;
mod table;
mod verdict;

pub(crate) use self::{
    kill::kill_and_wait,
    matrix::{Target, came_to_the_cut, undisturbed},
    story::{Act, Story},
    table::Table,
    verdict::Witness,
};

use self::matrix::matrix;

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_survives_a_kill_at_each_of_its_calls() {
    matrix(Story::Deploy, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_survives_a_kill_at_each_of_its_calls() {
    matrix(Story::Terminate, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_cannot_be_started_survives_a_kill_at_each_of_its_calls() {
    matrix(Story::StartFails, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_exits_at_once_survives_a_kill_at_each_of_its_calls() {
    matrix(Story::ExitsAtOnce, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_every_story_survives_three_kills_at_each_of_its_calls() {
    for story in Story::ALL {
        matrix(story, 3).await;
    }
}
