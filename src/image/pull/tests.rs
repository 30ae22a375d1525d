use proptest::prelude::*;

use super::*;

fn event(layer: &str, status: &str, current: Option<u64>, total: Option<u64>) -> LayerEvent {
    LayerEvent {
        layer: (!layer.is_empty()).then(|| layer.to_owned()),
        status: status.to_owned(),
        current_bytes: current,
        total_bytes: total,
    }
}

/// Events one second apart; the progress one second after the last.
fn progress(events: &[(&str, &str, Option<u64>, Option<u64>)]) -> PullProgress {
    let mut pull = Pull::new(Duration::ZERO);
    let mut at = Duration::ZERO;
    for (layer, status, current, total) in events {
        at += Duration::from_secs(1);
        pull.apply(&event(layer, status, *current, *total), at);
    }
    pull.progress(at)
}

#[test]
fn bytes_are_summed_over_layers_once_every_size_is_known() {
    let mut events = vec![
        ("latest", "Pulling from library/x", None, None),
        ("aa", "Pulling fs layer", None, None),
        ("bb", "Pulling fs layer", None, None),
        ("cc", "Already exists", None, None),
        ("bb", "Waiting", None, None),
        ("aa", "Downloading", Some(100), Some(1000)),
    ];
    let early = progress(&events);
    assert_eq!(early.layers_total, Some(3));
    assert_eq!(early.downloaded_bytes, 100);
    assert_eq!(early.total_bytes, None, "the size of bb is not known yet");
    assert_eq!(early.eta_s, None);

    events.push(("bb", "Downloading", Some(500), Some(3000)));
    let later = progress(&events);
    assert_eq!(later.downloaded_bytes, 600);
    assert_eq!(later.total_bytes, Some(4000));
    assert_eq!((later.layers_done, later.extracted_layers), (1, 1));
}

#[test]
fn extraction_is_not_download() {
    let at_extraction = progress(&[
        ("aa", "Pulling fs layer", None, None),
        ("aa", "Downloading", Some(900), Some(1000)),
        ("aa", "Download complete", None, None),
        ("aa", "Extracting", Some(300), Some(1000)),
    ]);
    assert_eq!(at_extraction.downloaded_bytes, 1000);
    assert_eq!(
        (at_extraction.layers_done, at_extraction.extracted_layers),
        (1, 0)
    );
    assert_eq!(at_extraction.eta_s, None, "what is left cannot be foretold");
}

#[test]
fn a_small_layer_that_is_complete_at_once_does_not_hide_the_total() {
    let small = progress(&[
        ("aa", "Pulling fs layer", None, None),
        ("bb", "Pulling fs layer", None, None),
        ("aa", "Download complete", None, None),
        ("bb", "Downloading", Some(10), Some(40)),
    ]);
    assert_eq!(small.total_bytes, Some(40));
    let extracting = progress(&[
        ("aa", "Pulling fs layer", None, None),
        ("aa", "Extracting", Some(10), Some(32)),
    ]);
    assert_eq!(
        (extracting.downloaded_bytes, extracting.total_bytes),
        (32, Some(32))
    );
}

#[test]
fn an_engine_that_announces_nothing_and_extracts_in_seconds_is_understood() {
    let mut events = vec![
        ("aa", "Downloading", Some(100), Some(1000)),
        ("bb", "Downloading", Some(200), Some(2000)),
        ("aa", "Download complete", None, None),
        ("aa", "Extracting", Some(3), None),
    ];
    let during = progress(&events);
    assert_eq!((during.layers_total, during.total_bytes), (None, None));
    assert_eq!(during.downloaded_bytes, 1200, "seconds are not bytes");
    events.push(("", "Status: Downloaded newer image for x", None, None));
    let done = progress(&events);
    assert_eq!((done.layers_total, done.total_bytes), (Some(2), Some(3000)));
    assert_eq!(
        (
            done.downloaded_bytes,
            done.layers_done,
            done.extracted_layers
        ),
        (3000, 2, 2)
    );
}

#[test]
fn a_retry_takes_back_what_it_loses() {
    let retried = progress(&[
        ("aa", "Pulling fs layer", None, None),
        ("aa", "Downloading", Some(900), Some(1000)),
        ("aa", "Retrying in 5 seconds", None, None),
        ("aa", "Downloading", Some(10), Some(1000)),
    ]);
    assert_eq!((retried.downloaded_bytes, retried.layers_done), (10, 0));
    assert_eq!(retried.bytes_per_s, 2);
}

#[test]
fn the_rate_is_that_of_the_last_seconds_and_sinks_in_silence() {
    let mut pull = Pull::new(Duration::ZERO);
    pull.apply(&event("aa", "Pulling fs layer", None, None), Duration::ZERO);
    for second in 1..=60 {
        // 1 kB/s in the first half minute, 10 kB/s in the second.
        let bytes = if second <= 30 {
            second * 1000
        } else {
            30_000 + (second - 30) * 10_000
        };
        let downloading = event("aa", "Downloading", Some(bytes), Some(430_000));
        pull.apply(&downloading, Duration::from_secs(second));
    }
    let now = pull.progress(Duration::from_secs(60));
    assert_eq!(now.bytes_per_s, 10_000);
    assert_eq!(now.eta_s, Some(10.0));
    let silent = pull.progress(Duration::from_secs(100));
    assert!(silent.bytes_per_s < 3000, "{silent:?}");
    assert!(silent.eta_s > now.eta_s);
}

#[test]
fn a_manifest_with_endless_layers_costs_bounded_memory() {
    let mut pull = Pull::new(Duration::ZERO);
    for layer in 0..LAYERS_MAX + 100 {
        pull.apply(
            &event(&layer.to_string(), "Pulling fs layer", None, None),
            Duration::ZERO,
        );
    }
    assert_eq!(pull.layers.len(), LAYERS_MAX);
    assert_eq!(pull.progress(Duration::ZERO).layers_total, None);
}

fn any_event() -> impl Strategy<Value = LayerEvent> {
    let status = prop::sample::select(vec![
        "Pulling fs layer",
        "Waiting",
        "Already exists",
        "Downloading",
        "Verifying Checksum",
        "Download complete",
        "Retrying in 3 seconds",
        "Extracting",
        "Pull complete",
        "Status: Downloaded newer image for x",
        "Digest: sha256:00",
        "Something new",
    ]);
    let number = || prop::option::of(prop_oneof![0..5000u64, Just(u64::MAX)]);
    (prop::option::of("[a-d]"), status, number(), number()).prop_map(
        |(layer, status, current_bytes, total_bytes)| LayerEvent {
            layer,
            status: status.to_owned(),
            current_bytes,
            total_bytes,
        },
    )
}

proptest! {
    #[test]
    fn whatever_the_engine_says_the_numbers_stay_consistent(
        events in prop::collection::vec((any_event(), 0..3000u64), 0..60),
    ) {
        let mut pull = Pull::new(Duration::ZERO);
        let mut at = Duration::ZERO;
        for (event, millis) in events {
            at += Duration::from_millis(millis);
            pull.apply(&event, at);
            let progress = pull.progress(at);
            prop_assert!(progress.extracted_layers <= progress.layers_done);
            if let Some(layers) = progress.layers_total {
                prop_assert!(progress.layers_done <= layers);
            }
            if let Some(total) = progress.total_bytes {
                prop_assert!(progress.downloaded_bytes <= total);
                prop_assert!(progress.layers_total.is_some());
            }
            prop_assert!(progress.eta_s.is_none_or(|eta| eta > 0.0 && eta.is_finite()));
            prop_assert!(pull.samples.len() <= 43);
        }
    }
}
