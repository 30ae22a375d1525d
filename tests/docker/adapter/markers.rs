//! Volumes that are markers.

use std::collections::BTreeMap;

use rental_agent::runtime::VolumeLabels;

use super::*;
use crate::lab::{EngineProxy, Own};

fn marker(name: String, value: &str) -> VolumeLabels {
    VolumeLabels {
        name,
        labels: BTreeMap::from([("rental-agent.reason".to_owned(), value.to_owned())]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_marker_is_written_and_read_back_in_one_call() {
    let bench = Bench::shared().await;
    let proxy = EngineProxy::start(&bench.engine);
    let docker = Docker::connect(&proxy.config(&bench.engine), &network()).unwrap();
    let wanted = marker(bench.name("a.ending"), "terminated");
    assert_eq!(docker.put_volume(&wanted).await.unwrap(), wanted);
    assert_eq!(docker.put_volume(&wanted).await.unwrap(), wanted);
    docker.remove_volume(&wanted.name).await.unwrap();
    docker.remove_volume(&wanted.name).await.unwrap();
    let calls: Vec<String> = proxy.calls().iter().map(ToString::to_string).collect();
    let remove = format!("DELETE /volumes/{}", wanted.name);
    let expected = [
        "GET /version",
        "POST /volumes/create",
        "POST /volumes/create",
        &remove,
        &remove,
    ];
    assert_eq!(calls, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_is_there_keeps_its_labels_and_says_so() {
    let bench = Bench::shared().await;
    let first = marker(bench.name("a.ending"), "terminated");
    bench.docker.put_volume(&first).await.unwrap();
    let second = marker(first.name.clone(), "expired");
    assert_eq!(bench.docker.put_volume(&second).await.unwrap(), first);
    let unlabelled = VolumeLabels {
        name: bench.name("b.ending"),
        labels: BTreeMap::new(),
    };
    bench.docker.put_volume(&unlabelled).await.unwrap();
    let wanted = marker(unlabelled.name.clone(), "expired");
    assert_eq!(bench.docker.put_volume(&wanted).await.unwrap(), unlabelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_of_before_the_engine_s_restart_is_read_back_with_its_labels() {
    let mut bench = Bench::on(Engine::own(Own::default())).await;
    let first = marker(bench.name("a.ending"), "terminated");
    bench.docker.put_volume(&first).await.unwrap();
    bench.engine.restart();
    let second = marker(first.name.clone(), "expired");
    assert_eq!(bench.docker.put_volume(&second).await.unwrap(), first);
    assert_eq!(bench.docker.put_volume(&first).await.unwrap(), first);
}
