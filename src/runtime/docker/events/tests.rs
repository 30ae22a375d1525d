use serde_json::json;

use super::*;

#[test]
fn an_event_names_the_container_and_the_moment() {
    let message = json!({
        "Type": "container", "Action": "die", "time": 1_700_000_000,
        "timeNano": 1_700_000_000_123_456_789_i64,
        "Actor": {"ID": "abc", "Attributes": {"name": "rental-a1", "exitCode": "3"}},
    });
    assert_eq!(
        event(serde_json::from_value(message).unwrap()),
        ContainerEvent {
            name: "rental-a1".to_owned(),
            action: "die".to_owned(),
            at: Timestamp::from_millis(1_700_000_000_123),
        }
    );
}

#[test]
fn an_event_without_its_parts_is_still_a_hint() {
    assert_eq!(event(EventMessage::default()).action, UNREADABLE);
    let nameless = EventMessage {
        action: Some("die".to_owned()),
        time: Some(7),
        ..EventMessage::default()
    };
    let nameless = event(nameless);
    assert_eq!(
        (nameless.name.as_str(), nameless.at.as_millis()),
        ("", 7000)
    );
}

#[test]
fn times_are_written_as_the_engine_reads_them() {
    assert_eq!(
        engine_time(Timestamp::from_millis(1_700_000_000_045)),
        "1700000000.045"
    );
}
