//! The network that all rentals share.

use rental_agent::runtime::Class;
use serde_json::Value;

use super::*;
use crate::lab::{EngineProxy, Own, wait_until};

fn named(name: &str, subnet: Option<&str>) -> config::Network {
    config::Network {
        name: name.to_owned(),
        subnet: subnet.map(|subnet| subnet.parse().unwrap()),
        ..network()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_as_configured_and_then_costs_one_call_to_look_at() {
    let engine = Engine::own(Own::default());
    let proxy = EngineProxy::start(&engine);
    let settings = named("rental-agent", Some("10.213.0.0/24"));
    let docker = Docker::connect(&proxy.config(&engine), &settings).unwrap();
    docker.ensure_network().await.unwrap();
    let inspect: Value =
        serde_json::from_str(&engine.docker(&["network", "inspect", "rental-agent"])).unwrap();
    let network = &inspect[0];
    assert_eq!(network["Driver"], "bridge");
    assert_eq!(network["EnableIPv6"], false);
    assert_eq!(
        network["Options"]["com.docker.network.bridge.enable_icc"],
        "false"
    );
    assert_eq!(network["IPAM"]["Config"][0]["Subnet"], "10.213.0.0/24");
    assert_eq!(network["Labels"]["rental-agent.network"], "1");

    proxy.forget();
    docker.ensure_network().await.unwrap();
    let calls: Vec<String> = proxy.calls().iter().map(ToString::to_string).collect();
    assert_eq!(calls, ["GET /networks"]);

    let other = named("rental-agent", Some("10.214.0.0/24"));
    let docker = Docker::connect(&engine.config(), &other).unwrap();
    let error = docker.ensure_network().await.unwrap_err();
    assert_eq!(error.class, Class::Refused);
    assert!(error.message.contains("10.214.0.0/24"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_lets_rentals_talk_is_refused_and_left_as_it_is() {
    let engine = Engine::own(Own::default());
    engine.docker(&["network", "create", "rental-agent"]);
    let before = engine.docker(&["network", "inspect", "rental-agent"]);
    let docker = Docker::connect(&engine.config(), &network()).unwrap();
    let error = docker.ensure_network().await.unwrap_err();
    assert_eq!(error.class, Class::Refused);
    assert!(
        error.message.contains("docker network rm rental-agent"),
        "{error}"
    );
    assert_eq!(
        engine.docker(&["network", "inspect", "rental-agent"]),
        before
    );
}

/// As after a `docker network prune` since the last look.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_somebody_has_removed_is_made_again_by_a_start() {
    let bench = Bench::on(Engine::own(Own::default())).await;
    let plan = bench.plan("pruned", &["sleep", "60"]).await;
    bench.docker.create(&plan).await.unwrap();
    let engine = &bench.engine;
    engine.docker(&["network", "rm", "rental-agent"]);
    bench.docker.start(&plan.name).await.unwrap();
    let seen = bench.seen(&plan.name).await;
    assert_eq!(seen.state, rental_agent::runtime::ContainerState::Running);
    let options = engine.docker(&["network", "inspect", "rental-agent"]);
    assert!(
        options.contains(r#""com.docker.network.bridge.enable_icc": "false""#),
        "{options}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_make_it_at_once_end_with_one() {
    let engine = Engine::own(Own::default());
    let connect = || Docker::connect(&engine.config(), &network()).unwrap();
    let (a, b, c, d) = (connect(), connect(), connect(), connect());
    let made = tokio::join!(
        a.ensure_network(),
        b.ensure_network(),
        c.ensure_network(),
        d.ensure_network()
    );
    for result in [made.0, made.1, made.2, made.3] {
        result.unwrap();
    }
    let filter = ["network", "ls", "-q", "--filter", "name=^rental-agent$"];
    assert_eq!(engine.docker(&filter).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_reaches_neither_its_neighbour_nor_is_it_hidden_from_renters() {
    let bench = Bench::shared().await;
    let mut server = bench
        .plan("server", &["httpd", "-f", "-p", "80", "-h", "/www"])
        .await;
    let port = bench.engine.net().free_port();
    server.ports = vec![rental_agent::runtime::HostPort {
        container: 80,
        host: port,
        protocol: rental_agent::protocol::record::PortProtocol::Tcp,
    }];
    bench.run(&server).await;
    wait_until("its page is served", LIMIT, || async {
        bench.engine.net().http_get(port).is_some()
    })
    .await;
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = bench
        .engine
        .docker(&["inspect", "-f", address, &server.name]);
    let page = format!("http://{address}/");
    let neighbour = bench
        .plan("neighbour", &["wget", "-T", "3", "-O", "-", &page])
        .await;
    bench.run(&neighbour).await;
    let ended = bench.ended(&neighbour.name).await;
    assert_ne!(
        ended.detail.unwrap().exit_code,
        0,
        "rentals reach each other"
    );
}
