//! One life of the agent after another: what an earlier one took is not taken again.

use serde_json::json;

use super::{
    rig::{Rig, spec},
    tokens::{claims, now_s, with},
};

/// Tries to start a rental of this id.
async fn start(rig: &Rig, token: &str, id: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    rig.ask("POST", "/start_instance", &headers, Some(&spec(id)))
        .await
        .status
}

#[tokio::test]
async fn a_token_that_an_earlier_life_may_have_taken_is_refused_and_a_new_one_is_not() {
    let first = Rig::start().await;
    let issued = now_s();
    let used = with(claims("instances:write"), &[("iat", json!(issued))]);
    let unused = with(claims("instances:write"), &[("iat", json!(issued))]);
    assert_eq!(start(&first, &used, "a").await, 200);
    assert_eq!(start(&first, &used, "b").await, 401, "by memory");
    // Times in tokens are whole seconds.
    while now_s() == issued {
        tokio::task::yield_now().await;
    }
    let second = Rig::start().await;
    assert_eq!(start(&second, &used, "b").await, 401);
    assert_eq!(start(&second, &unused, "b").await, 401);
    assert_eq!(second.snapshot().generation.0, 0, "nothing has happened");
    // It still reads, which changes nothing.
    let reads = [("iat", json!(issued))];
    let bearer = format!("Bearer {}", with(claims("instances:read"), &reads));
    let headers = [("Authorization", bearer.as_str())];
    let list = second.ask("GET", "/instances", &headers, None).await;
    assert_eq!(list.status, 200);
    // A scheduler makes a new token for each request and notices nothing, whether its tokens say
    // when they were issued or not.
    let new = with(claims("instances:write"), &[("iat", json!(now_s()))]);
    assert_eq!(start(&second, &new, "b").await, 200);
    let silent = with(claims("instances:write"), &[]);
    assert_eq!(start(&second, &silent, "c").await, 200);
}
