//! The engine's events.

use std::sync::{Arc, Mutex};

use rental_agent::{
    clock,
    runtime::{Class, ContainerEvent},
};

use super::*;
use crate::lab::{Own, wait_until};

type Seen = Arc<Mutex<Vec<ContainerEvent>>>;

fn actions(seen: &Seen, name: &str) -> Vec<String> {
    let seen = seen.lock().unwrap();
    let of_name = seen.iter().filter(|event| event.name == name);
    of_name.map(|event| event.action.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_is_told_as_it_happens_and_again_from_a_moment_in_the_past() {
    let bench = Bench::shared().await;
    let plan = bench.plan("events", &["true"]).await;
    let began = clock::now().wall;
    let live = Seen::default();
    let life = async {
        // The stream may open a little after the first event; a life is short, so it is lived again
        // until one is told from its beginning.
        wait_until("a whole life is told", LIMIT, || async {
            bench.run(&plan).await;
            bench.ended(&plan.name).await;
            bench.docker.remove(&plan.name).await.unwrap();
            actions(&live, &plan.name)
                .iter()
                .any(|action| action == "create")
        })
        .await;
        wait_until("its end is told", LIMIT, || async {
            actions(&live, &plan.name)
                .last()
                .is_some_and(|action| action == "destroy")
        })
        .await;
    };
    let mut take = |event| live.lock().unwrap().push(event);
    tokio::select! {
        ended = bench.docker.events(None, &mut take) => panic!("the stream ended: {ended:?}"),
        () = life => {}
    }
    let told = actions(&live, &plan.name);
    let last_life: Vec<&str> = told.iter().rev().take(4).map(String::as_str).collect();
    assert_eq!(last_life, ["destroy", "die", "start", "create"]);

    let past = Seen::default();
    let mut take = |event| past.lock().unwrap().push(event);
    tokio::select! {
        ended = bench.docker.events(Some(began), &mut take) => panic!("the stream ended: {ended:?}"),
        () = wait_until("the past is told", LIMIT, || async {
            actions(&past, &plan.name).len() >= told.len()
        }) => {}
    }
    assert!(past.lock().unwrap().iter().all(|event| event.at >= began));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_ends_with_the_engine() {
    for kill in [true, false] {
        let mut bench = Bench::on(Engine::own(Own::default())).await;
        let docker = Docker::connect(&bench.engine.config(), &network()).unwrap();
        let plan = bench.plan("last", &["sleep", "1000"]).await;
        let seen = Seen::default();
        let open = Seen::clone(&seen);
        let stream = async move {
            let mut take = |event| open.lock().unwrap().push(event);
            docker.events(None, &mut take).await
        };
        let (ended, ()) = tokio::join!(stream, async {
            wait_until("the stream is open", LIMIT, || async {
                bench.run(&plan).await;
                bench.docker.remove(&plan.name).await.unwrap();
                !actions(&seen, &plan.name).is_empty()
            })
            .await;
            if kill {
                bench.engine.kill9();
            } else {
                bench.engine.stop();
            }
        });
        if let Err(error) = ended {
            assert_eq!(error.class, Class::Unknown, "{error}");
        }
    }
}
