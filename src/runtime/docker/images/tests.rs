use super::*;

fn read(line: &str) -> LayerEvent {
    layer_event(serde_json::from_str(line).unwrap())
}

#[test]
fn a_layer_s_line_is_taken_over() {
    let event = read(
        r#"{"status":"Downloading","progressDetail":{"current":12,"total":34},"progress":"x","id":"a"}"#,
    );
    let want = LayerEvent {
        layer: Some("a".to_owned()),
        status: "Downloading".to_owned(),
        current_bytes: Some(12),
        total_bytes: Some(34),
    };
    assert_eq!(event, want);
}

#[test]
fn what_is_not_known_is_not_zero() {
    let waiting = read(r#"{"status":"Waiting","progressDetail":{},"id":"a"}"#);
    assert_eq!((waiting.current_bytes, waiting.total_bytes), (None, None));
    let odd =
        read(r#"{"status":"Downloading","progressDetail":{"current":-1,"total":-1},"id":"a"}"#);
    assert_eq!((odd.current_bytes, odd.total_bytes), (None, None));
    let seconds =
        read(r#"{"status":"Extracting","progressDetail":{"current":1,"units":"s"},"id":"a"}"#);
    assert_eq!(
        (seconds.current_bytes, seconds.total_bytes),
        (Some(1), None)
    );
}
