use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "Name": "rental-agent", "Driver": "bridge", "EnableIPv6": false, "Internal": false,
        "Options": {"com.docker.network.bridge.enable_icc": "false"},
        "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]},
    })
}

fn check_value(value: Value, subnet: Option<&str>) -> Result<(), String> {
    let call = Call {
        operation: Operation::Network,
        subject: "rental-agent",
    };
    let network = serde_json::from_value(value).unwrap();
    let subnet = subnet.map(|subnet| subnet.parse().unwrap());
    check(call, &network, subnet).map_err(|error| {
        assert_eq!(error.class, Class::Refused);
        error.message
    })
}

#[test]
fn a_network_as_it_should_be_is_left_alone() {
    assert_eq!(check_value(good(), None), Ok(()));
    assert_eq!(check_value(good(), Some("10.9.0.0/24")), Ok(()));
    assert_eq!(check_value(good(), Some("10.9.0.7/24")), Ok(()));
}

#[test]
fn what_is_wrong_with_a_network_is_said_with_the_remedy() {
    let cases: [(&str, Value, &str); 4] = [
        ("/Driver", json!("macvlan"), "macvlan"),
        ("/EnableIPv6", json!(true), "IPv6"),
        ("/Internal", json!(true), "internal"),
        ("/Options", json!({}), "enable_icc"),
    ];
    for (pointer, value, word) in cases {
        let mut network = good();
        *network.pointer_mut(pointer).unwrap() = value;
        let message = check_value(network, None).unwrap_err();
        assert!(message.contains(word), "{message}");
        assert!(
            message.contains("docker network rm rental-agent"),
            "{message}"
        );
    }
    let message = check_value(good(), Some("10.8.0.0/24")).unwrap_err();
    assert!(message.contains("10.8.0.0/24"), "{message}");
}

#[test]
fn the_request_says_no_to_talk_between_rentals() {
    let subnet = "10.9.0.0/24".parse().ok();
    insta::assert_json_snapshot!(serde_json::to_value(request("rental-agent", subnet)).unwrap());
}
