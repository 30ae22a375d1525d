//! Images, and every way in which a pull can fail.

use tokio::time::Instant;

use rental_agent::runtime::{Class, Credentials, LayerEvent, PullRequest, RuntimeError};

use super::*;
use crate::lab::{Own, Registry, Repository, StubRegistry, wait_until};

async fn pull_with(
    docker: &Docker,
    reference: &str,
    auth: Option<Credentials>,
) -> Result<Vec<LayerEvent>, RuntimeError> {
    let mut events = Vec::new();
    let request = PullRequest {
        reference: reference.to_owned(),
        auth,
    };
    docker
        .pull(&request, &mut |event| events.push(event))
        .await?;
    Ok(events)
}

async fn pull(docker: &Docker, reference: &str) -> Result<Vec<LayerEvent>, RuntimeError> {
    pull_with(docker, reference, None).await
}

fn password(password: &str) -> Option<Credentials> {
    Some(Credentials::Password {
        username: crate::lab::USERNAME.to_owned(),
        password: SecretString::from(password),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_tells_of_its_layers_and_leaves_the_image() {
    let bench = Bench::shared().await;
    let registry = StubRegistry::start(&bench.engine);
    let reference = registry.reference(Repository::Good);
    assert_eq!(bench.docker.image(&reference).await.unwrap(), None);
    let events = pull(&bench.docker, &reference).await.unwrap();
    let facts = bench.docker.image(&reference).await.unwrap().unwrap();
    bench.engine.docker(&["rmi", &reference]);

    let mut progress = rental_agent::image::pull::Pull::new(Duration::ZERO);
    for event in &events {
        progress.apply(event, Duration::from_secs(1));
    }
    let progress = progress.progress(Duration::from_secs(1));
    assert_eq!(
        (progress.layers_total, progress.extracted_layers),
        (Some(1), 1)
    );
    assert!(progress.total_bytes.unwrap() > 500_000, "{progress:?}");
    assert_eq!(progress.total_bytes, Some(progress.downloaded_bytes));
    assert!(facts.id.starts_with("sha256:") && facts.size_bytes > 500_000);
    assert_eq!(
        (facts.os.as_str(), facts.env_names.as_slice()),
        ("linux", &["PATH".to_owned()][..])
    );
    assert!(facts.repo_digests[0].starts_with(reference.trim_end_matches(":1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_pulled_with_the_right_credentials_only() {
    let bench = Bench::shared().await;
    let registry = Registry::private(&bench.engine);
    let reference = registry.push(&bench.engine, BUSYBOX, "private/image:1");
    for auth in [None, password("wrong")] {
        let error = pull_with(&bench.docker, &reference, auth)
            .await
            .unwrap_err();
        assert_eq!(error.class, Class::RegistryAuth, "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    pull_with(&bench.docker, &reference, password(crate::lab::PASSWORD))
        .await
        .unwrap();
    bench.engine.docker(&["rmi", &reference]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_registry_does_not_have_is_not_found() {
    let bench = Bench::shared().await;
    let registry = Registry::open(&bench.engine);
    let reference = registry.push(&bench.engine, BUSYBOX, "some/image:1");
    for missing in ["some/image:2", "other/image:1"] {
        let missing = format!("{}/{missing}", registry.address());
        let error = pull(&bench.docker, &missing).await.unwrap_err();
        assert_eq!(error.class, Class::ImageNotFound, "{error}");
    }
    pull(&bench.docker, &reference).await.unwrap();
    bench.engine.docker(&["rmi", &reference]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_a_registry_has_its_class() {
    let options = Own {
        download_attempts: Some(1),
        ..Own::default()
    };
    let bench = Bench::on(Engine::own(options)).await;
    let registry = StubRegistry::start(&bench.engine);
    for (repository, class) in [
        (Repository::Missing, Class::ImageNotFound),
        (Repository::Unauthorized, Class::RegistryAuth),
        (Repository::RateLimited, Class::RateLimited),
        (Repository::Failing, Class::RegistryFailed),
        (Repository::WrongDigest, Class::ImageCorrupt),
        (Repository::BadArchive, Class::ImageCorrupt),
        (Repository::NoPlatform, Class::ImageUnsupported),
    ] {
        let error = pull(&bench.docker, &registry.reference(repository))
            .await
            .unwrap_err();
        println!("{repository:?}: {}", error.message);
        assert_eq!(error.class, class, "{repository:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_has_failed() {
    let bench = Bench::shared().await;
    let port = bench.engine.net().free_port();
    for host in [format!("127.0.0.1:{port}"), "registry.invalid".to_owned()] {
        let error = pull(&bench.docker, &format!("{host}/a/b:1"))
            .await
            .unwrap_err();
        println!("{}", error.message);
        assert_eq!(error.class, Class::RegistryFailed, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_architecture_says_so() {
    let bench = Bench::shared().await;
    let registry = StubRegistry::start(&bench.engine);
    let reference = registry.reference(Repository::Foreign);
    match pull(&bench.docker, &reference).await {
        // Engines differ: some take it with a warning.
        Ok(_) => {
            let facts = bench.docker.image(&reference).await.unwrap().unwrap();
            bench.engine.docker(&["rmi", &reference]);
            assert_eq!(facts.architecture, "s390x");
        }
        Err(error) => assert_eq!(error.class, Class::ImageUnsupported, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_stops_in_the_middle_is_given_up_after_the_silence_that_is_configured() {
    let bench = Bench::shared().await;
    let registry = StubRegistry::start(&bench.engine);
    let config = config::Docker {
        pull_stall: Duration::from_secs(5),
        ..bench.engine.config()
    };
    let docker = Docker::connect(&config, &network()).unwrap();
    let mut events = Vec::new();
    let request = PullRequest {
        reference: registry.reference(Repository::Stalled),
        auth: None,
    };
    let began = Instant::now();
    let pulled = docker.pull(&request, &mut |event| events.push(event)).await;
    let error = pulled.unwrap_err();
    assert_eq!(error.class, Class::Stalled, "{error}");
    assert!(began.elapsed() >= Duration::from_secs(5));
    let downloading = |event: &LayerEvent| event.status == "Downloading";
    assert!(events.iter().any(downloading), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_breaks_off_is_the_registry_s_failure_after_the_engine_s_own_retries() {
    let options = Own {
        download_attempts: Some(2),
        ..Own::default()
    };
    let bench = Bench::on(Engine::own(options)).await;
    let registry = StubRegistry::start(&bench.engine);
    let config = config::Docker {
        // Less than the engine waits before it tries again: it counts the seconds aloud.
        pull_stall: Duration::from_secs(4),
        ..bench.engine.config()
    };
    let docker = Docker::connect(&config, &network()).unwrap();
    let reference = registry.reference(Repository::Truncated);
    let error = pull(&docker, &reference).await.unwrap_err();
    println!("{}", error.message);
    assert_eq!(error.class, Class::RegistryFailed, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_is_cancelled_in_the_engine() {
    let bench = Bench::shared().await;
    let registry = StubRegistry::start(&bench.engine);
    let reference = registry.reference(Repository::Gated);
    let asks_for_layer = || {
        let requests = registry.requests();
        let blobs = requests
            .iter()
            .filter(|request| request.contains("/blobs/"));
        blobs.count() >= 2
    };
    tokio::select! {
        ended = pull(&bench.docker, &reference) => panic!("ended: {ended:?}"),
        () = wait_until("the layer is asked for", LIMIT, || async { asks_for_layer() }) => {}
    }
    registry.release();
    assert_eq!(bench.docker.image(&reference).await.unwrap(), None);
    // The next pull begins with the manifest again: nothing of the first one lives on.
    pull(&bench.docker, &reference).await.unwrap();
    bench.engine.docker(&["rmi", &reference]);
}
