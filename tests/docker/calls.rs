//! What a command costs: calls to the engine between its `accepted` and its `done`, with the image
//! present. Each is a way to fail and a part of the time that a renter waits.

use rental_agent::ids::InstanceId;

use crate::{
    fake_nvml::FakeNvml,
    lab::{Engine, Own},
    proxied::{Proxied, is_routine, label},
};

/// More would be a step that nobody has argued for.
const DEPLOY_AT_MOST: usize = 6;
/// With a GPU it is looked for holders of it, and then at what the container really has: an inspect, and
/// a question to `nvidia-smi` inside, which is three calls.
const DEPLOY_WITH_GPU_AT_MOST: usize = DEPLOY_AT_MOST + 4;
const TERMINATE_AT_MOST: usize = 7;

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_and_a_terminate_keep_to_their_number_of_calls() {
    let mut stage = Proxied::shared().await;
    stage.up_and_settled().await;
    let spec = stage.world.sleeper().port("web", 80);
    let id = spec.id();

    stage.proxy.forget();
    stage.world.deploy_ready(&spec).await;
    let deploy = critical(&stage, &id);
    assert!(deploy.len() <= DEPLOY_AT_MOST, "{deploy:#?}");

    let terminate = terminate(&stage, &id).await;
    assert!(terminate.len() <= TERMINATE_AT_MOST, "{terminate:#?}");
    print("deploy", &deploy);
    print("terminate", &terminate);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_engine_with_a_gpu_they_keep_to_it_too() {
    let nvml = FakeNvml::with("gpus 2\n");
    let engine = Engine::own(Own {
        gpus: true,
        ..Own::default()
    });
    let mut stage = Proxied::own(&engine).await;
    let library = nvml.library.display().to_string();
    stage
        .world
        .set_env("RENTAL_AGENT__GPU__NVML_LIBRARY", library);
    stage.world.with_idle_gpus();
    stage.up_and_settled().await;
    let spec = stage.world.sleeper().gpus(1).port("web", 80);
    let id = spec.id();

    stage.proxy.forget();
    let (_, record) = stage.world.deploy_ready(&spec).await;
    let deploy = critical(&stage, &id);
    assert!(deploy.len() <= DEPLOY_WITH_GPU_AT_MOST, "{deploy:#?}");
    let container = record.container_id.unwrap();
    let handed_out = engine.hook().visible_devices(container.as_str());
    assert_eq!(handed_out[0], record.gpus[0].as_str(), "{handed_out:?}");

    let terminate = terminate(&stage, &id).await;
    assert!(terminate.len() <= TERMINATE_AT_MOST, "{terminate:#?}");
    print("deploy with a GPU", &deploy);
    print("terminate with a GPU", &terminate);
}

/// Without acks, so that the markers' removal does not run into it.
async fn terminate(stage: &Proxied, id: &InstanceId) -> Vec<String> {
    stage.world.server.set_ack(false);
    stage.proxy.forget();
    stage.world.terminate(id).await;
    let calls = critical(stage, id);
    stage.world.server.set_ack(true);
    stage.world.assert_clean().await;
    calls
}

/// What was called since the last command.
fn critical(stage: &Proxied, id: &InstanceId) -> Vec<String> {
    let calls = stage.proxy.calls().into_iter();
    let of_command = calls.filter(|call| !is_routine(call));
    of_command.map(|call| label(&call, id)).collect()
}

#[allow(clippy::print_stdout, reason = "what it costs now is worth a look")]
fn print(what: &str, calls: &[String]) {
    println!("{what}: {} calls", calls.len());
    for call in calls {
        println!("    {call}");
    }
}
