//! Which path leads where, and what it needs. A route behind the token's layer that is not in
//! [`NEEDS`] is refused to everybody.

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::Method;

use super::{
    App, Problem, auth, auth::Caller, instances, peer::Peer, start, status, terminate, ws,
};

/// The scope of each route that needs a token, and whether it changes something.
const NEEDS: &[(Method, &str, &str, Kind)] = &[
    (Method::POST, "/start_instance", WRITE, Kind::Changes),
    (Method::POST, "/terminate_instance", WRITE, Kind::Changes),
    (Method::GET, "/instances", "instances:read", Kind::Reads),
    (
        Method::GET,
        "/instances/{id}",
        "instances:read",
        Kind::Reads,
    ),
    (Method::GET, "/ws", "events:read", Kind::Reads),
];

/// The scope of what changes rentals; who has it sees credentials too.
pub(super) const WRITE: &str = "instances:write";

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Reads,
    Changes,
}

/// For the network: everything that tells or changes something of a rental is behind a token.
pub(super) fn guarded(app: App) -> Router {
    let behind_token = rentals().route_layer(from_fn_with_state(app.clone(), with_token));
    let router = Router::new()
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/openapi.json", get(status::contract))
        .merge(behind_token);
    shaped(router).with_state(app)
}

/// For the machine's owner, who needs no token and may do more.
pub(super) fn open(app: App) -> Router {
    let router = rentals()
        .route("/drain", post(status::drain))
        .route("/resume", post(status::resume))
        .route("/gpus/{uuid}/{verb}", post(status::gpu))
        .route_layer(from_fn(as_owner))
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/openapi.json", get(status::contract));
    shaped(router).with_state(app)
}

/// What is told and changed of rentals, on every surface alike.
fn rentals() -> Router<App> {
    Router::new()
        .route("/start_instance", post(start::start_instance))
        .route("/terminate_instance", post(terminate::terminate_instance))
        .route("/instances", get(instances::instances))
        .route("/instances/{id}", get(instances::instance))
        .route("/ws", get(ws::watch))
}

/// What is nowhere has the shape of all problems too.
fn shaped(router: Router<App>) -> Router<App> {
    router
        .fallback(async || Problem::no_such_path())
        .method_not_allowed_fallback(async || Problem::method())
}

async fn as_owner(mut request: Request, next: Next) -> Response {
    match request.extensions().get::<Peer>() {
        Some(Peer::Owner) => {
            request.extensions_mut().insert(Caller::owner());
            next.run(request).await
        }
        Some(Peer::Network) | None => Problem::not_the_owner().into_response(),
    }
}

/// The layer: no route behind it is reached without a token that has its scope.
async fn with_token(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    // A HEAD is a GET whose body is not sent.
    let method = match request.method() {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    let need = NEEDS
        .iter()
        .find(|(m, p, _, _)| m == method && *p == path)
        .map(|(_, _, scope, kind)| (*scope, *kind));
    match auth::admit(&app.auth, request.headers(), path == "/ws", need) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}
