//! What holds of the decoder whatever the bytes: used by the tests and by the fuzz target.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "test support: what does not hold fails the test"
)]

use rental_agent::{
    config::Policy,
    ids::AgentId,
    instance::spec::InstanceSpec,
    protocol::{Error, ErrorCode, Incoming, Op, decode, signed},
};

/// Panics when something does not hold.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let decoded = decode(text);
    assert_eq!(
        format!("{decoded:?}"),
        format!("{:?}", decode(text)),
        "it is a function"
    );
    match decoded {
        Ok(incoming) => of_message(incoming),
        Err(error) => assert!(error.to_string().chars().count() <= 1000, "{error}"),
    }
    let agent: AgentId = "host-7".parse().unwrap();
    let untrusted = signed::decode(text, &agent, |_, _| false);
    assert!(
        !matches!(
            untrusted,
            Ok(Incoming::Command(_) | Incoming::BadCommand(..))
        ),
        "a command without a signature"
    );
    if let Ok(incoming) = signed::decode(text, &agent, |_, _| true) {
        if let Incoming::Command(command) = &incoming {
            assert!(command.not_after.is_some(), "a signed command for ever");
        }
        of_message(incoming);
    }
}

fn of_message(incoming: Incoming) {
    match incoming {
        Incoming::Welcome(_) | Incoming::Ack(_) => {}
        Incoming::Unknown(kind) => assert!(kind.chars().count() <= 80, "{kind}"),
        Incoming::BadCommand(_, error) => {
            let codes = [ErrorCode::InvalidSpec, ErrorCode::Unsupported];
            assert!(codes.contains(&error.code), "{error:?}");
            of_error(&error);
        }
        Incoming::Unauthorized(_, error) => {
            let codes = [ErrorCode::InvalidSpec, ErrorCode::PolicyDenied];
            assert!(codes.contains(&error.code), "{error:?}");
            of_error(&error);
        }
        Incoming::Command(command) => {
            if let Op::Deploy(deploy) = command.op {
                let policy = Policy::default();
                if let Err(error) = InstanceSpec::parse(deploy.spec, deploy.spec_sha256, &policy) {
                    assert!(error.message.chars().count() <= 1000, "{error:?}");
                }
            }
        }
    }
}

/// An error is fit to be sent: it says where, and holds nothing that harms a terminal.
fn of_error(error: &Error) {
    assert!(error.stage.is_some(), "{error:?}");
    assert!(error.message.chars().count() <= 1000, "{error:?}");
    let tame = |c: char| !c.is_control() || c == '\n' || c == '\t';
    assert!(error.message.chars().all(tame), "{error:?}");
    if let Some(detail) = &error.detail {
        let pointer = detail["pointer"].as_str().expect("a pointer");
        assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer}");
        assert!(pointer.len() < 20_000, "{}", pointer.len());
        assert!(pointer.chars().all(tame), "{pointer:?}");
    }
}
